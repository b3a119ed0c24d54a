//go:build node

package crash

import (
	"net/netip"
	"testing"

	"github.com/vishvananda/netlink"
)

// killRecorded kills when the journal has an address's new owner, who has not heard of it.
func (r *rig) killRecorded(t *testing.T) {
	t.Helper()
	r.interrupt(t, func(tr *trap, pods []*pod) func() {
		return r.watchJournal(t, pods, func() { tr.meet() })
	}, func(recorded, linked bool) bool { return recorded && !linked })
}

// killLinked kills when a pod's link is there, whose owner has not heard of it.
func (r *rig) killLinked(t *testing.T) {
	t.Helper()
	r.interrupt(t, func(tr *trap, _ []*pod) func() {
		return watchLinks(t, r.machine.NetNS, func(_ string, gone bool) {
			if !gone {
				tr.meet()
			}
		})
	}, func(recorded, linked bool) bool { return recorded && linked })
}

// interrupt runs pods until the agent was killed in the state that is wanted: a kill takes a moment to arrive, so what
// the dead agent has left behind decides.
func (r *rig) interrupt(t *testing.T, watch func(*trap, []*pod) (stop func()), wanted func(recorded, linked bool) bool) {
	t.Helper()
	for range 20 {
		r.thin(t)
		pods := r.sandboxes(t, 1+r.rand.IntN(4))
		tr := r.trap(1 + r.rand.IntN(len(pods)))
		stop := watch(tr, pods)
		tries := r.add(t, pods)()
		stop()
		if !tr.disarm() {
			r.mustAll(t, tries)
			continue
		}
		hit := r.autopsy(t, tries, wanted)
		r.recover(t, tries)
		if hit {
			return
		}
	}
	t.Fatal("no ADD was interrupted there")
}

// autopsy looks for ADDs that failed in the state that is wanted. Some that left no link behind are repeated as they
// were, by the same container ID.
func (r *rig) autopsy(t *testing.T, tries []attempt, wanted func(recorded, linked bool) bool) (hit bool) {
	t.Helper()
	owners := r.journalled(t)
	for i, a := range tries {
		addr, recorded := owners[a.container]
		linked := a.netns.Do(func() error { _, err := netlink.LinkByName(podLink); return err }) == nil
		t.Logf("%s: recorded %t, linked %t, answer %v", a.container, recorded, linked, a.err)
		if a.err == nil || !wanted(recorded, linked) {
			continue
		}
		hit = true
		if !linked && r.rand.IntN(2) == 0 {
			r.again(t, a.pod, addr)
			tries[i].err = nil
		}
	}
	return hit
}

// again repeats an ADD, which must give what the journal has.
func (r *rig) again(t *testing.T, p *pod, recorded netip.Addr) {
	t.Helper()
	if r.dead() {
		r.start(t)
	}
	ok(t, r.addOne(t.Context(), p))
	if p.addr != recorded {
		t.Errorf("ADD of %s gave %s when repeated, the journal had %s", p.container, p.addr, recorded)
	}
}

// killDeleting kills when a pod's link goes.
func (r *rig) killDeleting(t *testing.T) {
	t.Helper()
	for range 20 {
		if lacking := 4 - len(r.books.pods()); lacking > 0 {
			r.run(t, lacking)
		}
		pods := r.some(1 + r.rand.IntN(4))
		tr := r.trap(1 + r.rand.IntN(len(pods)))
		stop := watchLinks(t, r.machine.NetNS, func(_ string, gone bool) {
			if gone {
				tr.meet()
			}
		})
		r.del(t, pods)
		stop()
		sprung := tr.disarm()
		waiting := r.pending(t)
		t.Logf("%d of %d deletions were left to the next agent", waiting, len(pods))
		r.recover(t, nil)
		if sprung && waiting > 0 {
			return
		}
	}
	t.Fatal("no DEL was interrupted")
}

// deleteWithoutAgent deletes pods while there is no agent.
func (r *rig) deleteWithoutAgent(t *testing.T) {
	t.Helper()
	if lacking := 3 - len(r.books.pods()); lacking > 0 {
		r.run(t, lacking)
	}
	r.kill()
	pods := r.some(1 + r.rand.IntN(3))
	r.del(t, pods)
	if waiting := r.pending(t); waiting != len(pods) {
		t.Errorf("%d deletions are recorded, want %d", waiting, len(pods))
	}
	r.recover(t, nil)
	if waiting := r.pending(t); waiting > 0 {
		t.Errorf("%d deletions are left", waiting)
	}
}
