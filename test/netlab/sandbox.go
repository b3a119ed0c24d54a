package netlab

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// A Sandbox is a pod's network namespace and cgroup on a node. It ends with the node.
type Sandbox struct {
	node   *Node
	name   string
	cgroup *os.File
	resolv string
}

// A SandboxSpec says what a sandbox is like.
type SandboxSpec struct {
	Name       string
	ResolvConf string // content of the /etc/resolv.conf that commands in the sandbox see; empty: the node's
}

// StartSandbox makes a network namespace, in which not even the loopback link is up, and a cgroup for a pod.
func (n *Node) StartSandbox(ctx context.Context, spec SandboxSpec) (*Sandbox, error) {
	if !nameRule.MatchString(spec.Name) {
		return nil, fmt.Errorf("start sandbox: name %q is not made of lower case letters, digits and dashes", spec.Name)
	}
	s := &Sandbox{node: n, name: spec.Name}
	if err := s.prepare(ctx, spec); err != nil {
		return nil, errors.Join(fmt.Errorf("start sandbox %s: %w", spec.Name, err), s.Stop(ctx))
	}
	return s, nil
}

func (s *Sandbox) prepare(ctx context.Context, spec SandboxSpec) error {
	dir := s.node.PodCgroup(spec.Name)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	var err error
	if s.cgroup, err = os.Open(dir); err != nil {
		return err
	}
	if spec.ResolvConf != "" {
		s.resolv = filepath.Join(s.node.dir, "resolv-"+spec.Name)
		if err := os.WriteFile(s.resolv, []byte(spec.ResolvConf), 0o644); err != nil {
			return err
		}
	}
	if err := os.WriteFile(s.EnterFile(), []byte(s.enterScript()), 0o755); err != nil {
		return err
	}
	return run(s.node.Command(ctx, "sh", "-ec", `: >"$1"; exec unshare --net="$1" true`, "sandbox", s.NetNSPath()))
}

// EnterFile is an executable file that runs its arguments in the sandbox, or a shell: for people.
func (s *Sandbox) EnterFile() string { return filepath.Join(s.node.dir, "enter-"+s.name) }

// enterScript does for a person what Command does for a program.
func (s *Sandbox) enterScript() string {
	return fmt.Sprintf("#!/bin/sh\n# Runs a command in sandbox %s on node %s; without one, a shell.\necho $$ >%s/cgroup.procs\n"+
		"exec nsenter -t %d %s -- nsenter --net=%s -- unshare -m -- sh -ec '%s' sandbox '%s' \"${@:-sh}\"\n",
		s.name, s.node.Name(), s.CgroupPath(), s.node.pid, strings.Join(namespaceFlags, " "), s.NetNSPath(), enterSandbox, s.resolv)
}

// enterSandbox puts the resolv.conf it is given in place and becomes the command that follows.
const enterSandbox = `[ -z "$1" ] || mount --bind "$1" /etc/resolv.conf; shift; exec "$@"`

// Name is the sandbox's name.
func (s *Sandbox) Name() string { return s.name }

// NetNSPath is the network namespace's file on the node: what a container runtime passes as CNI_NETNS. The machine
// sees it through Node.MachinePath.
func (s *Sandbox) NetNSPath() string { return filepath.Join(netnsDir, s.name) }

// SetLoopbackUp does what a container runtime does before it calls the CNI plugins.
func (s *Sandbox) SetLoopbackUp() error {
	return OpenNetNS(s.node.MachinePath(s.NetNSPath())).Do(setLoopbackUp)
}

// CgroupPath is the sandbox's cgroup on the machine.
func (s *Sandbox) CgroupPath() string { return s.node.PodCgroup(s.name) }

// Command is Node.Command with the program in the sandbox's network namespace and cgroup, and with its resolv.conf.
func (s *Sandbox) Command(ctx context.Context, name string, args ...string) *exec.Cmd {
	argv := []string{
		"nsenter", "--net=" + s.NetNSPath(), "--",
		"unshare", "-m", "--", "sh", "-ec", enterSandbox, "sandbox", s.resolv, name,
	}
	return s.node.commandIn(ctx, s.cgroup, append(argv, args...))
}

// Stop ends the sandbox's processes and removes it.
func (s *Sandbox) Stop(ctx context.Context) error {
	errs := []error{removeCgroup(s.CgroupPath())}
	if s.cgroup != nil {
		errs = append(errs, s.cgroup.Close())
	}
	const remove = `[ -e "$1" ] || exit 0; umount -l "$1" || :; rm -f "$1"`
	errs = append(errs, run(s.node.Command(ctx, "sh", "-ec", remove, "sandbox", s.NetNSPath())))
	return errors.Join(errs...)
}

// PodCgroup is the directory on the machine of the cgroup for the pod called name. StartSandbox makes it.
func (n *Node) PodCgroup(name string) string { return filepath.Join(n.cgroup, "pods", name) }

// run runs cmd and makes its output part of the error.
func run(cmd *exec.Cmd) error {
	out, err := cmd.CombinedOutput()
	if err != nil {
		return fmt.Errorf("run %s: %w: %s", cmd.Args[len(cmd.Args)-1], err, out)
	}
	return nil
}
