//go:build node

package netlab

import (
	"context"
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

// openLab opens a lab and, when the test ends, closes it and proves that nothing with its prefix is left.
func openLab(t *testing.T, prefix string) *Lab {
	t.Helper()
	if err := RequireRoot(); err != nil {
		t.Fatal(err)
	}
	before := takeInventory(t, prefix)
	l, err := New(prefix)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
		if left := before.Diff(takeInventory(t, prefix)); len(left) > 0 {
			t.Errorf("left behind:\n%s", strings.Join(left, "\n"))
		}
	})
	return l
}

func takeInventory(t *testing.T, prefix string) Inventory {
	t.Helper()
	inv, err := TakeInventory()
	if err != nil {
		t.Fatal(err)
	}
	return inv.Containing(prefix)
}

func startNode(t *testing.T, l *Lab, spec NodeSpec) *Node {
	t.Helper()
	if spec.NetNS == nil {
		ns, err := l.NetNS(spec.Name)
		if err != nil {
			t.Fatal(err)
		}
		spec.NetNS = ns
	}
	n, err := l.StartNode(spec)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func output(t *testing.T, cmd *exec.Cmd) string {
	t.Helper()
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v: %s", cmd, err, out)
	}
	return strings.TrimSpace(string(out))
}

// eventually waits for ok, which says why not yet.
func eventually(t *testing.T, ok func() string) {
	t.Helper()
	deadline := time.Now().Add(time.Minute)
	for {
		why := ok()
		if why == "" {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal(why)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

func TestNetNSHasItsOwnLinks(t *testing.T) {
	l := openLab(t, "nptest-netns")
	ns, err := l.NetNS("a")
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	err = ns.Do(func() error {
		links, err := net.Interfaces()
		for _, link := range links {
			got = append(got, link.Name+" "+(link.Flags&net.FlagUp).String())
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"lo up"}, got); diff != "" {
		t.Errorf("links inside (-want +got):\n%s", diff)
	}
	inside := output(t, ns.Command(t.Context(), "readlink", "/proc/self/ns/net"))
	outside, err := os.Readlink("/proc/thread-self/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	if inside == outside {
		t.Errorf("command runs in the test's own namespace %s", outside)
	}
}

func TestNetNSDoReturnsOnFailure(t *testing.T) {
	l := openLab(t, "nptest-do")
	ns, err := l.NetNS("a")
	if err != nil {
		t.Fatal(err)
	}
	before, err := os.Readlink("/proc/self/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	want := errors.New("refused")
	if err := ns.Do(func() error { return want }); !errors.Is(err, want) {
		t.Errorf("Do returned %v, want %v", err, want)
	}
	after, err := os.Readlink("/proc/thread-self/ns/net")
	if err != nil || after != before {
		t.Errorf("after Do in %s (%v), want %s", after, err, before)
	}
}

func TestNodeIsItsOwnMachine(t *testing.T) {
	l := openLab(t, "nptest-node")
	shown := filepath.Join(l.Dir(), "shown")
	if err := os.WriteFile(shown, []byte("bound"), 0o644); err != nil {
		t.Fatal(err)
	}
	n := startNode(t, l, NodeSpec{
		Name:     "n1",
		Overlays: []string{"/etc", "/var"},
		Files:    map[string]string{"/etc/resolv.conf": "nameserver 192.0.2.1\n"},
		Binds:    []Bind{{Source: shown, Target: "/etc/deep"}, {Source: n1Dir(l), Target: "/var/lib/bound"}},
		Sysctls:  map[string]string{"kernel/panic": "77"},
	})
	for name, test := range map[string]struct{ script, want string }{
		"host name":         {"cat /proc/sys/kernel/hostname", "n1"},
		"process 1":         {"tr '\\0' ' ' </proc/1/cmdline", "sh " + l.Dir() + "/node.sh"},
		"cgroup":            {"cat /proc/self/cgroup | grep ^0:", "0::/init"},
		"only cgroup2":      {"grep -c ' cgroup ' /proc/mounts || :", "0"},
		"links":             {"ls /sys/class/net", "lo"},
		"written file":      {"cat /etc/resolv.conf", "nameserver 192.0.2.1"},
		"machine's file":    {"head -c5 /etc/passwd", "root:"},
		"bound file":        {"cat /etc/deep", "bound"},
		"bound directory":   {"echo x >/var/lib/bound/x; cat " + n1Dir(l) + "/x", "x"},
		"lab directory":     {"stat -c %i " + l.Dir() + "/journal", inode(t, filepath.Join(l.Dir(), "journal"))},
		"faked sysctl":      {"echo 78 >/proc/sys/kernel/panic; cat /proc/sys/kernel/panic", "78"},
		"bpffs":             {"find /sys/fs/bpf -mindepth 1 -type d; mkdir /sys/fs/bpf/" + l.Prefix(), ""},
		"run":               {"ls -d /run/lock /run/netns; ls /run/netns", "/run/lock\n/run/netns"},
		"mounts propagated": {"grep ' / / ' /proc/self/mountinfo | grep -c shared:", "1"},
	} {
		t.Run(name, func(t *testing.T) {
			if got := output(t, n.Command(t.Context(), "sh", "-c", test.script)); got != test.want {
				t.Errorf("%s: got %q, want %q", test.script, got, test.want)
			}
		})
	}
	if got := output(t, exec.Command(n.EnterFile(), "sh", "-c", "cat /proc/self/cgroup | grep ^0:; hostname")); got != "0::/init\nn1" {
		t.Errorf("entered by hand: %q", got)
	}
	if text, err := os.ReadFile("/proc/sys/kernel/panic"); err != nil || strings.TrimSpace(string(text)) == "78" {
		t.Errorf("the machine's kernel.panic is %s (%v)", text, err)
	}
	if _, err := os.Stat(n.MachinePath("/sys/fs/bpf/" + l.Prefix())); err != nil {
		t.Errorf("node's bpffs from outside: %v", err)
	}
}

// n1Dir is a directory of the lab outside the node's own.
func n1Dir(l *Lab) string {
	dir := filepath.Join(l.Dir(), "extra")
	_ = os.MkdirAll(dir, 0o755)
	return dir
}

func inode(t *testing.T, path string) string {
	t.Helper()
	return output(t, exec.Command("stat", "-c", "%i", path))
}

func TestNodeReapsOrphans(t *testing.T) {
	l := openLab(t, "nptest-reap")
	n := startNode(t, l, NodeSpec{Name: "n1"})
	output(t, n.Command(t.Context(), "sh", "-c", "(sh -c 'sleep 0.05' &)"))
	eventually(t, func() string {
		left := output(t, n.Command(t.Context(), "sh", "-c", "cat /proc/[0-9]*/stat | cut -d' ' -f2,3"))
		if strings.Contains(left, "Z") || strings.Count(left, "(sleep)") > 1 {
			return "orphans are left: " + left
		}
		return ""
	})
}

func TestStopEndsEverything(t *testing.T) {
	l := openLab(t, "nptest-stop")
	n := startNode(t, l, NodeSpec{Name: "n1"})
	inside := n.Command(t.Context(), "sleep", "1000")
	if err := inside.Start(); err != nil {
		t.Fatal(err)
	}
	if err := n.Stop(); err != nil {
		t.Fatal(err)
	}
	if err := inside.Wait(); err == nil {
		t.Error("the command ended by itself")
	}
	if _, err := os.Stat(n.CgroupPath()); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("cgroup after stop: %v", err)
	}
	again := startNode(t, l, NodeSpec{Name: "n1", NetNS: n.NetNS()})
	if got := output(t, again.Command(t.Context(), "echo", "up")); got != "up" {
		t.Errorf("restarted node says %q", got)
	}
}

func TestCancelEndsTheCommandInside(t *testing.T) {
	l := openLab(t, "nptest-cancel")
	n := startNode(t, l, NodeSpec{Name: "n1"})
	ctx, cancel := context.WithCancel(t.Context())
	cmd := n.Command(ctx, "sleep", "4711")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	find := func() string {
		return output(t, n.Command(t.Context(), "sh", "-c", "cat /proc/[0-9]*/cmdline | tr '\\0' ' ' | grep -o 'sleep 471[1]' || :"))
	}
	eventually(t, func() string {
		if find() == "" {
			return "command does not run on the node"
		}
		return ""
	})
	cancel()
	if err := cmd.Wait(); err == nil {
		t.Error("cancelled command ended well")
	}
	eventually(t, func() string {
		if find() != "" {
			return "command still runs on the node"
		}
		return ""
	})
}

func TestNodeThatCannotStart(t *testing.T) {
	l := openLab(t, "nptest-fail")
	ns, err := l.NetNS("n1")
	if err != nil {
		t.Fatal(err)
	}
	spec := NodeSpec{Name: "n1", NetNS: ns, Binds: []Bind{{Source: "/nowhere/at/all", Target: "/run/x"}}}
	if _, err := l.StartNode(spec); err == nil || !strings.Contains(err.Error(), "/nowhere/at/all") {
		t.Errorf("got %v, want the failed mount named", err)
	}
	startNode(t, l, NodeSpec{Name: "n1", NetNS: ns}) // the failure left nothing in the way
}

func TestSandboxHasNetNSAndCgroup(t *testing.T) {
	l := openLab(t, "nptest-sandbox")
	n := startNode(t, l, NodeSpec{Name: "n1", Overlays: []string{"/etc"}})
	s, err := n.StartSandbox(t.Context(), SandboxSpec{Name: "web", ResolvConf: "nameserver 192.0.2.7\n"})
	if err != nil {
		t.Fatal(err)
	}
	if got := output(t, s.Command(t.Context(), "grep", "^0:", "/proc/self/cgroup")); got != "0::/pods/web" {
		t.Errorf("cgroup %s, want 0::/pods/web", got)
	}
	if got := output(t, s.Command(t.Context(), "cat", "/etc/resolv.conf")); got != "nameserver 192.0.2.7" {
		t.Errorf("resolv.conf %q", got)
	}
	pod := output(t, s.Command(t.Context(), "stat", "-L", "-c", "%i", "/proc/self/ns/net"))
	named := output(t, n.Command(t.Context(), "stat", "-L", "-c", "%i", s.NetNSPath()))
	node := output(t, n.Command(t.Context(), "stat", "-L", "-c", "%i", "/proc/self/ns/net"))
	if pod != named || pod == node {
		t.Errorf("network namespaces: pod %s, file %s, node %s", pod, named, node)
	}
	inside := s.Command(t.Context(), "sleep", "1000")
	if err := inside.Start(); err != nil {
		t.Fatal(err)
	}
	if err := s.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := inside.Wait(); err == nil {
		t.Error("the command ended by itself")
	}
	if got := output(t, n.Command(t.Context(), "ls", "/run/netns")); got != "" {
		t.Errorf("after stop /run/netns has %s", got)
	}
	if _, err := os.Stat(s.CgroupPath()); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("cgroup after stop: %v", err)
	}
}

func TestPrefixIsHeldByOne(t *testing.T) {
	l := openLab(t, "nptest-held")
	if _, err := New(l.Prefix()); !errors.Is(err, errInUse) {
		t.Errorf("second lab: %v, want %v", err, errInUse)
	}
	if err := Sweep(l.Prefix()); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(l.Dir()); err != nil {
		t.Errorf("sweep took a live lab: %v", err)
	}
}

func TestForeignNetNSIsLeftAlone(t *testing.T) {
	outer := openLab(t, "nptest-for")
	ns, err := outer.NetNS("eign-a")
	if err != nil {
		t.Fatal(err)
	}
	inner, err := New("nptest-for-eign")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := inner.NetNS("a"); !errors.Is(err, os.ErrExist) {
		t.Errorf("made over an existing namespace: %v", err)
	}
	if err := inner.Close(); err != nil {
		t.Fatal(err)
	}
	if err := ns.Do(func() error { return nil }); err != nil {
		t.Errorf("the other lab's namespace is gone: %v", err)
	}
}

const crashPrefix = "nptest-crash"

// TestCrashChild is not a test of its own: TestSweepAfterCrash runs it in a process that it kills.
func TestCrashChild(t *testing.T) {
	if os.Getenv("NETLAB_CRASH") == "" {
		return
	}
	l, err := New(crashPrefix)
	if err != nil {
		t.Fatal(err)
	}
	n := startNode(t, l, NodeSpec{Name: "n1", Overlays: []string{"/etc"}})
	if err := unix.Mount(l.Dir(), l.Dir()+"/nodes", "", unix.MS_BIND, ""); err != nil {
		t.Fatal(err)
	}
	os.Stdout.WriteString("pid " + output(t, exec.Command("cat", "/proc/"+strconv.Itoa(n.PID())+"/stat")) + "\n")
	select {}
}

func TestSweepAfterCrash(t *testing.T) {
	if err := RequireRoot(); err != nil {
		t.Fatal(err)
	}
	if err := Sweep(crashPrefix); err != nil { // of an earlier run of this very test
		t.Fatal(err)
	}
	before := takeInventory(t, crashPrefix)
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestCrashChild$")
	cmd.Env = append(os.Environ(), "NETLAB_CRASH=1")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	line := make([]byte, 200)
	count, err := out.Read(line)
	if err != nil || !strings.HasPrefix(string(line), "pid ") {
		t.Fatalf("child says %q (%v)", line[:count], err)
	}
	pid, _, _ := strings.Cut(string(line[4:count]), " ")
	if err := cmd.Process.Signal(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	eventually(t, func() string {
		if text, err := os.ReadFile("/proc/" + pid + "/comm"); err == nil && strings.TrimSpace(string(text)) == "sh" {
			return "the node outlives its owner"
		}
		return ""
	})
	if len(before.Diff(takeInventory(t, crashPrefix))) == 0 {
		t.Error("nothing was left behind: the test proves nothing")
	}
	if err := Sweep(crashPrefix); err != nil {
		t.Fatal(err)
	}
	if left := before.Diff(takeInventory(t, crashPrefix)); len(left) > 0 {
		t.Errorf("left behind:\n%s", strings.Join(left, "\n"))
	}
}

func TestProcessEndsWithLab(t *testing.T) {
	l := openLab(t, "nptest-proc")
	ns, err := l.NetNS("a")
	if err != nil {
		t.Fatal(err)
	}
	p, err := l.Start(ns.Command(t.Context(), "sh", "-c", "sleep 1000; :"))
	if err != nil {
		t.Fatal(err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if err := p.Err(); err == nil {
		t.Error("process ended well, want killed")
	}
	if _, err := l.Start(exec.Command("true")); !errors.Is(err, errClosed) {
		t.Errorf("start in a closed lab: %v", err)
	}
}

func TestKillWaitsForTheProgramInside(t *testing.T) {
	l := openLab(t, "nptest-kill")
	n := startNode(t, l, NodeSpec{Name: "n1"})
	file := filepath.Join(l.Dir(), "lock")
	// It takes a while to give back that much memory, and open files are closed after that.
	const hoard = `x=$(head -c 100000000 /dev/zero | tr '\0' x); echo locked >"$1"; sleep 1000; echo "$x"`
	p, err := l.Start(n.Command(t.Context(), "flock", "-n", file, "sh", "-c", hoard, "sh", file))
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, func() string {
		if text, _ := os.ReadFile(file); len(text) == 0 {
			return "the program does not hold the lock"
		}
		return ""
	})
	p.Kill()
	// Fails at once while any process of the killed group still has the file.
	output(t, exec.Command("flock", "-n", file, "true"))
}
