//go:build node

package crash

import (
	"fmt"
	"testing"
)

// killGrowing runs pods until the pool makes the call for the nth time.
func (r *rig) killGrowing(t *testing.T, at moment) {
	t.Helper()
	nth := 1 + r.rand.IntN(2)
	for range 10 {
		r.thin(t)
		r.makeRoom(t, at.action, nth)
		n := r.burst(at.action, nth)
		t.Logf("%d pods, %d addresses, %d ENIs: %d pods more at once; call %d kills", len(r.books.pods()), r.addresses(), len(r.gate.ours()), n, nth)
		tr := r.trap(nth)
		r.gate.arm(at, tr)
		tries := r.await(t, tr, r.add(t, r.sandboxes(t, n)))
		if tr.disarm() {
			r.recover(t, tries)
			return
		}
		r.mustAll(t, tries)
		r.check(t)
	}
	t.Fatalf("%s was not reached", at)
}

// await returns when all ADDs are answered. An agent that the trap has killed is started meanwhile: plugins that have
// not reached it yet wait for it.
func (r *rig) await(t *testing.T, tr *trap, answers func() []attempt) []attempt {
	t.Helper()
	all := make(chan []attempt, 1)
	go func() { all <- answers() }()
	select {
	case tries := <-all:
		return tries
	case <-tr.sprung:
		r.start(t)
		return <-all
	}
}

func (r *rig) mustAll(t *testing.T, tries []attempt) {
	t.Helper()
	for _, a := range tries {
		if a.err != nil {
			t.Fatalf("ADD of %s: %v", a.container, a.err)
		}
	}
}

// burst is how many pods make the pool ask for so much that it makes the call nth times: it has idle addresses, and it
// fills ENIs that have room before it creates one.
func (r *rig) burst(action string, nth int) int {
	pods := len(r.books.pods())
	n := r.addresses() - pods - minIdle + 1 + r.rand.IntN(2)
	if action != assignIPs {
		n += r.room() + (nth-1)*r.PerENI
	}
	return max(1, min(n, r.ENIs*r.PerENI-minIdle-pods))
}

// room is how many addresses the ENIs that are there can still get.
func (r *rig) room() int { return len(r.gate.ours())*r.PerENI - r.addresses() }

// makeRoom deletes pods, and waits until the pool has given back enough for a burst to need the call.
func (r *rig) makeRoom(t *testing.T, action string, nth int) {
	t.Helper()
	full := func() error {
		if action == assignIPs {
			if r.room() < nth && len(r.gate.ours()) > 0 {
				return fmt.Errorf("its ENIs have room for %d", r.room())
			}
			return nil
		}
		if n := len(r.gate.ours()); n+nth > r.ENIs {
			return fmt.Errorf("it has %d ENIs", n)
		}
		return nil
	}
	if full() == nil {
		return
	}
	if action == assignIPs {
		r.del(t, r.allButOneEach(t))
	} else {
		r.del(t, r.some(len(r.books.pods())-2))
	}
	await(t, 2*patience, "the pool to shrink", full)
}

// allButOneEach are the pods that are not the only ones of their ENI, when there are two ENIs with pods or more: the pool
// then has too many addresses, and no ENI to give back as a whole, which would leave as little room as before.
func (r *rig) allButOneEach(t *testing.T) (rest []*pod) {
	t.Helper()
	if lacking := r.PerENI + 1 - len(r.books.pods()); lacking > 0 {
		r.run(t, lacking)
	}
	for _, e := range r.gate.ours() {
		if pods := r.on(e.PrivateIPs); len(pods) > 1 {
			rest = append(rest, pods[1:]...)
		}
	}
	return rest
}
