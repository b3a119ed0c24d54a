//go:build node

package crash

import (
	"net/netip"
	"slices"
	"testing"
	"time"
)

// killShrinking deletes pods until the pool makes the call. Pods come while the agent is dead: what is about to go may be
// needed again.
func (r *rig) killShrinking(t *testing.T, at moment) {
	t.Helper()
	tr := r.trap(1)
	r.gate.arm(at, tr)
	defer tr.disarm()
	for deadline := time.Now().Add(3 * patience); time.Now().Before(deadline); {
		if len(r.books.pods()) == 0 {
			r.run(t, 2*r.PerENI)
		}
		r.del(t, r.victims(at.action))
		t.Logf("%d pods, %d addresses, %d ENIs", len(r.books.pods()), r.addresses(), len(r.gate.ours()))
		for begin := true; begin || at.action != unassignIPs && r.drainable(); begin = false {
			select {
			case <-tr.sprung:
				r.recover(t, r.await(t, tr, r.add(t, r.sandboxes(t, 1+r.rand.IntN(2)))))
				return
			case <-time.After(2 * cooldown): // by then the pool has begun to give back what it does not keep
			}
		}
	}
	t.Fatalf("%s was not reached", at)
}

// victims are pods whose end brings the pool nearer to the call: any one, or those on the ENI that has been there the
// longest.
func (r *rig) victims(action string) []*pod {
	if action != unassignIPs {
		for _, e := range r.gate.ours() {
			if pods := r.on(e.PrivateIPs); len(pods) > 0 {
				return pods
			}
		}
	}
	return r.some(1)
}

// drainable says whether the pool has an ENI too many that has been there longer than every one with pods. The pool keeps
// each for a minute at least.
func (r *rig) drainable() bool {
	idle := r.addresses() - len(r.books.pods())
	for _, e := range r.gate.ours() { // oldest first
		if len(r.on(e.PrivateIPs)) > 0 {
			return false
		}
		if len(e.PrivateIPs) <= idle-minIdle {
			return true
		}
	}
	return false
}

// on lists the pods that have one of the addresses.
func (r *rig) on(addrs []netip.Addr) (pods []*pod) {
	for _, p := range r.books.pods() {
		if slices.Contains(addrs, p.addr) {
			pods = append(pods, p)
		}
	}
	return pods
}
