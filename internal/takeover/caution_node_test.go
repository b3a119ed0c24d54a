//go:build node || diff

package takeover

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"
)

// TestVisibleRollBack: a kube-proxy that came back and was seen may go again.
func TestVisibleRollBack(t *testing.T) {
	l := newLane(t)
	l.program(t, "nftables", "ACCEPT")
	running := ""
	task, events := l.task(t, func(c *Config) { c.Running = func() (string, error) { return running, nil } })
	l.look(t, task)
	wantNone(t, "after the take-over", l.left(t))
	running = "kube-proxy runs"
	l.program(t, "nftables", "ACCEPT")
	l.look(t, task)
	if len(l.left(t)) == 0 {
		t.Error("the rules of a kube-proxy that runs were removed")
	}
	running = ""
	l.look(t, task)
	task.absent = time.Now().Add(-time.Hour)
	l.look(t, task)
	wantNone(t, "after the second take-over", l.left(t))
	if len(*events) != 1 || (*events)[0].reason != ReasonRunning {
		t.Errorf("events: %v", *events)
	}
}

// TestNothingWhileSomethingIsUnserved: what nearpath refuses kube-proxy may serve.
func TestNothingWhileSomethingIsUnserved(t *testing.T) {
	l := newLane(t)
	l.program(t, "nftables", "ACCEPT")
	before := l.left(t)
	unserved := errors.New("shop/web: no room\nshop/api: no room")
	task, events := l.task(t, func(c *Config) { c.Unserved = func() error { return unserved } })
	l.look(t, task)
	l.look(t, task)
	if after := l.left(t); !slices.Equal(before, after) {
		t.Errorf("changed though not all is served, there is:\n%s", strings.Join(after, "\n"))
	}
	want := []event{{ReasonLeft, "kube-proxy's rules stay until nearpath serves every Service: shop/web: no room, and more"}}
	if !slices.Equal(*events, want) {
		t.Errorf("events: %v, want %v", *events, want)
	}
	unserved = nil
	l.look(t, task)
	wantNone(t, "when all is served", l.left(t))
}

// TestWhatCannotBeRemoved: somebody who writes rules is not fought for ever either if not all of them can be removed.
func TestWhatCannotBeRemoved(t *testing.T) {
	l := newLane(t)
	l.tools(t, "iptables-legacy-save", "ip6tables-legacy-save") // and none that could restore
	task, events := l.task(t, nil)
	for range mostTries + 2 {
		l.program(t, "nftables", "ACCEPT")
		l.program(t, "iptables-legacy", "ACCEPT")
		l.do(t, l.node, func() error { _ = task.look(t.Context()); return nil })
	}
	if !slices.ContainsFunc(l.left(t), func(line string) bool { return strings.HasPrefix(line, "table ip kube-proxy") }) {
		t.Error("rules that came back were removed again and again")
	}
	if len(*events) != 1 || (*events)[0].reason != ReasonReturned {
		t.Errorf("events: %v", *events)
	}
}

// TestToolOfOneFamily: what there is a tool for goes.
func TestToolOfOneFamily(t *testing.T) {
	l := newLane(t)
	l.program(t, "iptables-legacy", "ACCEPT")
	l.tools(t, "iptables-legacy-save", "iptables-legacy-restore")
	task, events := l.task(t, nil)
	l.look(t, task)
	var left [2]bool
	for i, tool := range []string{"iptables-legacy-save", "ip6tables-legacy-save"} {
		left[i] = strings.Contains(l.run(t, l.node, "", l.where[tool], "-t", "nat"), "KUBE-SERVICES")
	}
	if want := [2]bool{false, true}; left != want {
		t.Errorf("rules of IPv4 and IPv6 are left: %v, want %v", left, want)
	}
	if len(*events) != 1 || (*events)[0].reason != ReasonLeft {
		t.Errorf("events: %v", *events)
	}
}

// TestLockOfAnother: without the node's lock rules of the older interface are read, told of and left.
func TestLockOfAnother(t *testing.T) {
	l := newLane(t)
	l.program(t, "iptables-legacy", "ACCEPT")
	before := l.left(t)
	for _, root := range []string{"", t.TempDir()} {
		task, events := l.task(t, func(c *Config) { c.HostRoot = root })
		l.look(t, task)
		l.look(t, task)
		if after := l.left(t); !slices.Equal(before, after) {
			t.Errorf("root %q: changed without the lock, there is:\n%s", root, strings.Join(after, "\n"))
		}
		if len(*events) != 1 || (*events)[0].reason != ReasonLeft || !strings.Contains((*events)[0].message, xtablesLock) {
			t.Errorf("root %q: events: %v", root, *events)
		}
	}
	if there, err := programmed(l); !there || err != nil {
		t.Errorf("the rules are not seen: %v", err)
	}
}

// TestConnectionsMadeMeanwhile: what the rules translated until they were gone is waited for.
func TestConnectionsMadeMeanwhile(t *testing.T) {
	l := newLane(t)
	l.serve(t)
	l.program(t, "nftables", "ACCEPT")
	task, _ := l.task(t, nil)
	looks := 0
	task.translated = func() (map[connection]bool, error) {
		if looks++; looks == 1 {
			return nil, nil // those of below come after
		}
		return translated()
	}
	talks := l.talks(t)
	l.look(t, task)
	if len(task.old) != len(talks) {
		t.Errorf("%d connections are waited for, want %d", len(task.old), len(talks))
	}
	if !slices.ContainsFunc(l.left(t), func(line string) bool { return strings.Contains(line, keeperTable) }) {
		t.Error("NAT was given up while connections need it")
	}
}

// TestPauses: what costs is seldom done where there is nothing to do, or nothing but to wait.
func TestPauses(t *testing.T) {
	l := newLane(t)
	l.serve(t)
	task, _ := l.task(t, nil)
	l.look(t, task)
	if task.pause != time.Minute {
		t.Errorf("pause of a clean node: %s", task.pause)
	}
	l.program(t, "nftables", "ACCEPT")
	l.talks(t)
	var pauses []time.Duration
	for range 6 {
		l.look(t, task)
		pauses = append(pauses, task.pause/time.Second)
	}
	if want := []time.Duration{5, 10, 20, 40, 60, 60}; !slices.Equal(pauses, want) {
		t.Errorf("pauses between looks at conntrack: %d seconds, want %d", pauses, want)
	}
	task.cfg.Running = func() (string, error) { return "kube-proxy runs", nil }
	task.translated = func() (map[connection]bool, error) { t.Error("conntrack was read beside kube-proxy"); return nil, nil }
	l.look(t, task)
	if task.pause != time.Minute {
		t.Errorf("pause beside kube-proxy: %s", task.pause)
	}
}
