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
		if at.action == unassignIPs || r.isOld() {
			r.del(t, r.victims(at.action))
			t.Logf("%d pods, %d addresses, %d ENIs", len(r.books.pods()), r.addresses(), len(r.gate.ours()))
		}
		select {
		case <-tr.sprung:
			r.recover(t, r.await(t, tr, r.add(t, r.sandboxes(t, 1+r.rand.IntN(2)))))
			return
		case <-time.After(2 * cooldown): // by then the pool has begun to give back what it does not keep
		}
	}
	t.Fatalf("%s was not reached", at)
}

// isOld says whether the pool may give back the ENI that has been there the longest.
func (r *rig) isOld() bool {
	enis := r.gate.ours()
	return len(enis) > 0 && time.Since(enis[0].Created) > eniStays
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

// on lists the pods that have one of the addresses.
func (r *rig) on(addrs []netip.Addr) (pods []*pod) {
	for _, p := range r.books.pods() {
		if slices.Contains(addrs, p.addr) {
			pods = append(pods, p)
		}
	}
	return pods
}
