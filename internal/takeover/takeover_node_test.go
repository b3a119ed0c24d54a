//go:build node || diff

package takeover

import (
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nearpath/nearpath/test/netlab"
)

// TestTakeOver: H8. What kube-proxy translated goes on, what is new does not meet its rules, and in the end none is left.
func TestTakeOver(t *testing.T) {
	for _, mode := range []string{"nftables", "iptables-nft", "iptables-legacy"} {
		t.Run("H8 "+mode, func(t *testing.T) {
			l := newLane(t)
			l.serve(t)
			l.program(t, mode, "ACCEPT")
			talks := l.talks(t)
			task, events := l.task(t, nil)
			l.look(t, task)
			for round := range 3 {
				for _, c := range talks {
					if err := c.echo(fmt.Sprint("after ", round)); err != nil {
						t.Error(err)
					}
				}
				l.look(t, task)
			}
			if len(task.old) != len(talks) {
				t.Errorf("%d connections are waited for, want %d", len(task.old), len(talks))
			}
			l.unanswered(t, "10.96.0.10:80", "kube-proxy's rules still serve new connections")
			for _, c := range talks {
				c.conn.Close()
			}
			// Their entries would stay for minutes.
			l.do(t, l.node, func() error { _, err := forget(task.old); return err })
			l.look(t, task)
			wantNone(t, "at the end", kubelets(l.left(t)))
			if len(*events) > 0 {
				t.Errorf("events: %v", *events)
			}
			l.look(t, task)
		})
	}
}

// TestNothingWhileKubeProxyRuns: a proxy that works would put everything back.
func TestNothingWhileKubeProxyRuns(t *testing.T) {
	l := newLane(t)
	l.program(t, "iptables-nft", "ACCEPT")
	before := l.left(t)
	running := "a process kube-proxy runs"
	task, events := l.task(t, func(c *Config) { c.Running = func() (string, error) { return running, nil } })
	l.look(t, task)
	l.look(t, task)
	if after := l.left(t); !slices.Equal(before, after) {
		t.Errorf("changed beside a running kube-proxy, there is:\n%s", strings.Join(after, "\n"))
	}
	if len(*events) != 1 || (*events)[0].reason != ReasonRunning {
		t.Errorf("events: %v", *events)
	}
	running = ""
	now := time.Now()
	task.now = func() time.Time { return now }
	// A pod of its DaemonSet that is updated comes back within the minute.
	for range 4 {
		for range 5 {
			l.look(t, task)
			now = now.Add(10 * time.Second)
		}
		running = "a process kube-proxy runs"
		l.look(t, task)
		running = ""
	}
	if after := l.left(t); !slices.Equal(before, after) {
		t.Errorf("changed though kube-proxy was away for less than a minute, there is:\n%s", strings.Join(after, "\n"))
	}
	l.look(t, task)
	now = now.Add(defaultAbsent)
	l.look(t, task)
	wantNone(t, "after it ended", kubelets(l.left(t)))
}

// TestRulesThatComeBack: whoever writes them again is not fought.
func TestRulesThatComeBack(t *testing.T) {
	for _, mode := range []string{"nftables", "iptables-nft", "iptables-legacy"} {
		t.Run(mode, func(t *testing.T) {
			l := newLane(t)
			l.program(t, mode, "ACCEPT")
			task, events := l.task(t, nil)
			l.look(t, task)
			wantNone(t, "after the take-over", kubelets(l.left(t)))
			l.program(t, mode, "ACCEPT")
			before := l.left(t)
			l.look(t, task)
			l.look(t, task)
			if after := l.left(t); !slices.Equal(before, after) {
				t.Errorf("rules that came back were changed, there is:\n%s", strings.Join(after, "\n"))
			}
			if len(*events) != 1 || (*events)[0].reason != ReasonReturned {
				t.Errorf("events: %v", *events)
			}
		})
	}
}

// TestNoHoleNorBlock: where FORWARD drops, established connections pass by KUBE-FORWARD alone, and it stays; a new connection
// that FORWARD does not let through is not let through by the take-over either.
func TestNoHoleNorBlock(t *testing.T) {
	for _, mode := range []string{"iptables-nft", "iptables-legacy"} {
		t.Run(mode, func(t *testing.T) {
			l := newLane(t)
			l.serve(t)
			l.program(t, mode, "DROP")
			talks := l.talks(t)
			task, events := l.task(t, nil)
			l.look(t, task)
			for _, c := range talks {
				if err := c.echo("after"); err != nil {
					t.Error(err)
				}
			}
			l.unanswered(t, "10.2.0.2:8080", "a connection is forwarded that the policy of FORWARD drops")
			for _, line := range kubelets(l.left(t)) {
				if !strings.Contains(line, forwardChain) && !strings.Contains(line, "keep") && !strings.Contains(line, keeperTable) {
					t.Errorf("left: %s", line)
				}
			}
			if len(*events) != 1 || (*events)[0].reason != ReasonLeft {
				t.Errorf("events: %v", *events)
			}
		})
	}
}

// TestDatagramsToEndpointsThatAreGone: while flows of kube-proxy's are left, its conntrack cleaning goes on (G2).
func TestDatagramsToEndpointsThatAreGone(t *testing.T) {
	l := newLane(t)
	l.serve(t)
	l.program(t, "nftables", "ACCEPT")
	talks := l.talks(t)
	gone := netip.MustParseAddrPort("10.2.0.2:8053")
	deleted, serving := 0, true
	task, _ := l.task(t, func(c *Config) {
		c.Serves = func() func(_, backend netip.AddrPort) bool {
			return func(_, backend netip.AddrPort) bool { return serving || backend != gone }
		}
		c.Reconciled = func(_ bool, _ time.Duration, n int) { deleted += n }
	})
	l.look(t, task)
	if deleted != 0 {
		t.Errorf("%d flows ended while their endpoint serves", deleted)
	}
	serving = false
	l.look(t, task)
	l.look(t, task)
	if deleted != 2 {
		t.Errorf("%d flows of datagrams to an endpoint that is gone were ended, want 2", deleted)
	}
	for _, c := range talks {
		if strings.Contains(c.name, "udp 10.96") {
			continue
		}
		if err := c.echo("after"); err != nil {
			t.Error(err)
		}
	}
}

// TestAgentStartsAnew: the keeper of an agent that died is found, and what is translated is waited for.
func TestAgentStartsAnew(t *testing.T) {
	l := newLane(t)
	l.serve(t)
	l.program(t, "nftables", "ACCEPT")
	talks := l.talks(t)
	first, _ := l.task(t, nil)
	l.look(t, first)
	second, _ := l.task(t, nil)
	l.look(t, second)
	for _, c := range talks {
		if err := c.echo("after"); err != nil {
			t.Error(err)
		}
	}
	if len(second.old) != len(talks) {
		t.Errorf("%d connections are waited for, want %d", len(second.old), len(talks))
	}
	l.do(t, l.node, func() error { _, err := forget(second.old); return err })
	l.look(t, second)
	wantNone(t, "at the end", l.left(t))
}

// TestRunning finds a process by its name, in this network namespace only.
func TestRunning(t *testing.T) {
	l := newLane(t)
	exe := filepath.Join(t.TempDir(), "kube-proxy")
	text, err := os.ReadFile("/bin/sleep")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(exe, text, 0o755); err != nil {
		t.Fatal(err)
	}
	check := func(when string, ns *netlab.NetNS, want bool) {
		t.Helper()
		l.do(t, ns, func() error {
			if got, err := Running(); (got != "") != want || err != nil {
				t.Errorf("%s: kube-proxy runs: %q, %v", when, got, err)
			}
			return nil
		})
	}
	check("before", l.node, false)
	cmd := exec.Command(exe, "60")
	l.do(t, l.node, cmd.Start)
	end := sync.OnceFunc(func() { _, _ = cmd.Process.Kill(), cmd.Wait() })
	t.Cleanup(end)
	check("started", l.node, true)
	check("seen from another namespace", l.client, false)
	if sign, err := runningUnprivileged(); sign == "" || err != nil {
		t.Errorf("to who may not see in which namespace it is, kube-proxy runs: %q, %v", sign, err)
	}
	end()
	check("ended", l.node, false)
}

// runningUnprivileged is Running for a thread without capabilities.
func runningUnprivileged() (sign string, err error) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // the thread ends with the goroutine
		header, none := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}, [2]unix.CapUserData{}
		if err = unix.Capset(&header, &none[0]); err == nil {
			sign, err = Running()
		}
	}()
	<-done
	return sign, err
}
