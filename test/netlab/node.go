package netlab

import (
	"bufio"
	"context"
	_ "embed" // node.sh
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// nodeStart bounds the time from a node's first process to its init; it takes 0.1 s on an idle machine.
const nodeStart = 30 * time.Second

//go:embed node.sh
var nodeScript string

const scriptFile = "node.sh"

// A NodeSpec says what a node is like.
type NodeSpec struct {
	Name  string // also the node's host name
	NetNS *NetNS // the network namespace it runs in; may be any, also one that another package made (see OpenNetNS)

	// Init is the program that becomes the node's process 1, and its arguments; it has to reap orphans. Empty: a loop
	// that does only that.
	Init []string
	Env  []string // KEY=value, added to this process's environment for Init

	// Overlays are directories, such as /etc, of which the node has the machine's content and its own changes.
	Overlays []string
	// Files are written before the node starts, by absolute path. Each lies in one of Overlays.
	Files map[string]string
	// Binds are mounted in this order, after Overlays. A target that is missing is made, so it should be in one of
	// Overlays or below /run.
	Binds []Bind
	// Sysctls are sysctls of the whole machine, as paths below /proc/sys, that the node is to see with the given value
	// and may write without effect.
	Sysctls map[string]string
}

// A Bind shows Source, a path on the machine, at Target on the node.
type Bind struct{ Source, Target string }

// A Node is a machine of its own to what runs in it. Its methods may be called from any goroutine.
type Node struct {
	spec    NodeSpec
	dir     string
	cgroup  string
	init    *os.File // directory of the cgroup that the node's own processes are in
	process *Process // unshare, the parent of the node's process 1
	pid     int
}

// StartNode starts a node and returns when its Init runs. A node that was stopped may be started again under its
// name: what it wrote to Overlays is still there.
func (l *Lab) StartNode(spec NodeSpec) (*Node, error) {
	full, err := l.resourceName(spec.Name)
	if err != nil {
		return nil, fmt.Errorf("start node: %w", err)
	}
	n := &Node{spec: spec, dir: filepath.Join(l.Dir(), "nodes", spec.Name)}
	err = n.prepare(l, full)
	if err == nil {
		err = n.boot(l)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("start node %s: %w", spec.Name, err), n.Stop())
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.nodes = append(l.nodes, n)
	return n, nil
}

// prepare makes what has to be there before the node's first process: its cgroup and its files.
func (n *Node) prepare(l *Lab, full string) error {
	if n.spec.NetNS == nil {
		return errors.New("no network namespace given")
	}
	if missing := Missing(); len(missing) > 0 {
		return fmt.Errorf("missing programs: %s", strings.Join(missing, "; "))
	}
	if err := os.MkdirAll(n.dir, 0o755); err != nil {
		return err
	}
	if err := n.writeFiles(); err != nil {
		return err
	}
	root, err := CgroupRoot()
	if err != nil {
		return err
	}
	cgroup := filepath.Join(root, full)
	if err := l.record(kindCgroup, cgroup); err != nil {
		return err
	}
	if err := os.Mkdir(cgroup, 0o755); err != nil {
		return err
	}
	n.cgroup = cgroup
	if err := os.Mkdir(n.initCgroup(), 0o755); err != nil {
		return err
	}
	n.init, err = os.Open(n.initCgroup())
	return err
}

func (n *Node) writeFiles() error {
	for path, content := range n.spec.Files {
		top := slices.IndexFunc(n.spec.Overlays, func(o string) bool { return strings.HasPrefix(path, o+"/") })
		if top < 0 {
			return fmt.Errorf("write %s: not in an overlay", path)
		}
		overlay := n.spec.Overlays[top]
		file := filepath.Join(n.dir, "overlay", overlay, "upper", strings.TrimPrefix(path, overlay))
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(file, []byte(content), 0o644); err != nil {
			return err
		}
	}
	return nil
}

// boot starts process 1 and waits until it has become the node's init.
func (n *Node) boot(l *Lab) error {
	ready, report, err := os.Pipe()
	if err != nil {
		return err
	}
	defer ready.Close()
	defer report.Close()
	log, err := os.Create(n.LogFile())
	if err != nil {
		return err
	}
	defer log.Close()
	cgroup, err := os.Open(n.cgroup)
	if err != nil {
		return err
	}
	defer cgroup.Close()

	cmd := n.bootCommand(l)
	cmd.Stdout, cmd.Stderr, cmd.ExtraFiles = log, log, []*os.File{report}
	// The cgroup a process is in when it makes a cgroup namespace becomes the namespace's root.
	cmd.SysProcAttr = &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: int(cgroup.Fd())}
	if n.process, err = l.Start(cmd); err != nil {
		return err
	}
	_ = report.Close()
	if n.pid, err = awaitReport(ready); err != nil {
		return fmt.Errorf("prepare namespaces: %w: %s", err, tail(n.LogFile()))
	}
	if err := os.WriteFile(n.EnterFile(), []byte(n.enterScript()), 0o755); err != nil {
		return err
	}
	unshare := strconv.Itoa(n.process.PID())
	return os.WriteFile(filepath.Join(n.initCgroup(), "cgroup.procs"), []byte(unshare), 0)
}

// enterScript does for a person what Command does for a program.
func (n *Node) enterScript() string {
	return fmt.Sprintf("#!/bin/sh\n# Runs a command on node %s; without one, a shell.\necho $$ >%s/cgroup.procs\nexec nsenter -t %d %s -- \"${@:-sh}\"\n",
		n.spec.Name, n.initCgroup(), n.pid, strings.Join(namespaceFlags, " "))
}

func (n *Node) bootCommand(l *Lab) *exec.Cmd {
	var binds, sysctls []string
	for _, b := range n.spec.Binds {
		binds = append(binds, b.Source+"|"+b.Target)
	}
	for name, value := range n.spec.Sysctls {
		sysctls = append(sysctls, name+"|"+value)
	}
	args := []string{
		"--net=" + n.spec.NetNS.Path(), "--",
		"unshare", "-m", "-p", "-u", "-i", "-C", "--fork", "--kill-child", "--",
		"sh", filepath.Join(l.Dir(), scriptFile),
	}
	cmd := exec.Command("nsenter", append(args, n.spec.Init...)...)
	cmd.Env = append(os.Environ(),
		"NODE_NAME="+n.spec.Name,
		"NODE_LAB="+l.Dir(),
		"NODE_OVERLAYS="+strings.Join(n.spec.Overlays, " "),
		"NODE_BINDS="+strings.Join(binds, "\n"),
		"NODE_SYSCTLS="+strings.Join(sysctls, "\n"),
	)
	cmd.Env = append(cmd.Env, n.spec.Env...)
	return cmd
}

// awaitReport reads the process id that node.sh writes when it is done.
func awaitReport(ready *os.File) (int, error) {
	if err := ready.SetReadDeadline(time.Now().Add(nodeStart)); err != nil {
		return 0, err
	}
	line, err := bufio.NewReader(ready).ReadString('\n')
	if errors.Is(err, io.EOF) {
		return 0, errors.New("first process ended early")
	}
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(strings.TrimSpace(line))
}

// tail returns the last line or two of a log.
func tail(path string) string {
	text, err := os.ReadFile(path)
	if err != nil {
		return err.Error()
	}
	return strings.TrimSpace(string(text[max(0, len(text)-400):]))
}

// namespaceFlags are nsenter's for all the namespaces that a node has.
var namespaceFlags = []string{"-m", "-n", "-p", "-u", "-i", "-C"}

// Name is the node's host name.
func (n *Node) Name() string { return n.spec.Name }

// NetNS is the network namespace the node runs in.
func (n *Node) NetNS() *NetNS { return n.spec.NetNS }

// Dir is the node's directory in its lab, the same path on the machine and on the node.
func (n *Node) Dir() string { return n.dir }

// LogFile has what the node's process 1 writes.
func (n *Node) LogFile() string { return filepath.Join(n.dir, "init.log") }

// EnterFile is an executable file that runs its arguments on the node, or a shell: for people.
func (n *Node) EnterFile() string { return filepath.Join(n.dir, "enter") }

// PID is the node's process 1 as the machine counts it.
func (n *Node) PID() int { return n.pid }

// CgroupPath is the directory on the machine that the node sees as its /sys/fs/cgroup.
func (n *Node) CgroupPath() string { return n.cgroup }

func (n *Node) initCgroup() string { return filepath.Join(n.cgroup, "init") }

// MachinePath is where the machine sees path, a path on the node, for as long as the node runs.
func (n *Node) MachinePath(path string) string {
	return filepath.Join("/proc", strconv.Itoa(n.pid), "root", path)
}

// Done is closed when the node has ended.
func (n *Node) Done() <-chan struct{} { return n.process.Done() }

// Command is exec.CommandContext with the program on the node, in its namespaces and its cgroup. The program's
// process group ends with ctx.
func (n *Node) Command(ctx context.Context, name string, args ...string) *exec.Cmd {
	return n.commandIn(ctx, n.init, append([]string{name}, args...))
}

// commandIn runs argv on the node in the cgroup whose directory is open.
func (n *Node) commandIn(ctx context.Context, cgroup *os.File, argv []string) *exec.Cmd {
	enter := slices.Concat([]string{"-t", strconv.Itoa(n.pid)}, namespaceFlags, []string{"--"}, argv)
	cmd := exec.CommandContext(ctx, "nsenter", enter...)
	// Joining the cgroup namespace does not change the cgroup: without this, the node's cgroup programs would not see
	// the command.
	cmd.SysProcAttr = &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: int(cgroup.Fd())}
	endWithGroup(cmd)
	return cmd
}

// Stop ends everything on the node at once, as pulling the plug of a machine would, and removes its cgroup. Its
// directory stays until the lab closes. A second Stop does nothing.
func (n *Node) Stop() error {
	if n.process != nil {
		n.process.Kill() // unshare; the kernel kills process 1 with it, and the rest with process 1
	}
	n.closeHandles()
	if n.cgroup == "" {
		return nil
	}
	return removeCgroup(n.cgroup)
}

func (n *Node) closeHandles() {
	if n.init != nil {
		_ = n.init.Close()
	}
}
