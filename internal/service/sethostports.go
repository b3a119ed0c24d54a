package service

import (
	"context"
	"errors"
	"maps"
	"net/netip"
	"slices"

	"github.com/nearpath/nearpath/bpf"
	"github.com/nearpath/nearpath/internal/cluster"
)

// SetHostPorts makes these the host ports of the pod with these addresses, instead of those it had; when it returns nil
// they are served. Host ports of the kernel's maps are known again after the agent's restart. A host port whose address
// is of a family the pod does not have is left out.
//
// It changes nothing when it fails. A [ConflictError] says that a Service or another pod has one of the ports: a
// Service always comes first, and takes a port from a pod that has it already until the Service goes. bpf.ErrFull
// matches when the maps have no room.
func (r *Reconciler) SetHostPorts(ctx context.Context, pod []netip.Addr, ports []HostPort) error {
	want, err := podPorts(pod, ports)
	if err != nil {
		return err
	}
	if len(ports) == 0 && r.hostsNone(want) {
		return nil
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := errors.Join(ctx.Err(), r.adopt()); err != nil {
		return err
	}
	defer r.publishHosting()
	for _, name := range slices.SortedFunc(maps.Keys(want), compareNames) {
		if err := r.table.conflict(want[name]); err != nil {
			return err
		}
	}
	before := r.table.pods()
	if err = r.setPods(want); err == nil {
		return nil
	}
	undo := map[cluster.Name][]Port{}
	for name := range want {
		undo[name] = before[name]
	}
	return errors.Join(err, r.setPods(undo))
}

// RemoveHostPorts ends the host ports of the pod with these addresses; there may be none.
func (r *Reconciler) RemoveHostPorts(ctx context.Context, pod []netip.Addr) error {
	return r.SetHostPorts(ctx, pod, nil)
}

// hostsNone reports whether none of the pods has host ports, without waiting for a sync that is on its way.
func (r *Reconciler) hostsNone(pods map[cluster.Name][]Port) bool {
	hosting := r.hosting.Load()
	if hosting == nil {
		return false
	}
	for name := range pods {
		if (*hosting)[name] {
			return false
		}
	}
	return true
}

// publishHosting is for hostsNone: who has host ports in the maps or is to have them. The caller holds mu.
func (r *Reconciler) publishHosting() {
	hosting := map[cluster.Name]bool{}
	for name := range r.pods {
		hosting[name] = true
	}
	if r.table != nil {
		for name := range r.table.pods() {
			hosting[name] = true
		}
	}
	r.hosting.Store(&hosting)
}

// setPods gives pods these ports. After a failure the maps are anywhere between before and after. The caller holds mu.
func (r *Reconciler) setPods(want map[cluster.Name][]Port) error {
	if err := r.adopt(); err != nil {
		return err
	}
	all := r.wantPods()
	if all == nil {
		all = map[cluster.Name][]Port{}
	}
	maps.Copy(all, want)
	if err := r.makeRoom(len(want)); err != nil {
		return err
	}
	plan, refused := r.table.plan(all, false) // writes nothing for Services: they wait for no pod
	if plan.Withdrawn {
		defer r.cfg.Withdrawn()
	}
	r.pods = nil
	err := r.apply(slices.Concat(plan.Grow...))
	if err == nil && len(plan.Shrink) > 0 {
		err = r.apply(plan.Shrink)
		r.somethingUsed()
	}
	r.metrics.count(r.table)
	if err != nil {
		r.giveUp()
	}
	return errors.Join(err, ofPods(refused, want))
}

// ofPods joins the errors that are of these pods: others may go on waiting for their ports.
func ofPods(refused []error, pods map[cluster.Name][]Port) error {
	var mine []error
	for _, err := range refused {
		var conflict *ConflictError
		if errors.As(err, &conflict) {
			if _, ok := pods[conflict.Wanted.Service]; !ok {
				continue
			}
		}
		mine = append(mine, err)
	}
	return errors.Join(mine...)
}

// HasHostPorts reports whether these are the host ports of the pod with these addresses: served, or waiting for a
// Service to go. A port that a Service had taken when the agent started anew is in no map; the pod that says it has it
// waits for it again from now on.
func (r *Reconciler) HasHostPorts(pod []netip.Addr, ports []HostPort) (bool, error) {
	want, err := podPorts(pod, ports)
	if err != nil {
		return false, err
	}
	if len(ports) == 0 && r.hostsNone(want) {
		return true, nil
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := r.adopt(); err != nil {
		return false, err
	}
	have := r.table.pods()
	maps.Copy(have, r.wantPods())
	if waits, known := r.table.waits(want, have); waits && !known {
		return true, nil // it can only wait for a Service that has a name
	} else if waits {
		defer r.publishHosting()
		// That they conflict is known. What else goes wrong is found by the next call.
		if err := r.setPods(want); err != nil && !errors.Is(err, ErrConflict) {
			return false, err
		}
		return true, nil
	}
	for name, list := range want {
		if !slices.EqualFunc(list, have[name], samePort) {
			return false, nil
		}
	}
	return true, nil
}

func samePort(a, b Port) bool { return a.ID == b.ID && sameBlock(a.Block, b.Block) }

// waits reports whether pods lack nothing of what they want but ports that Services have: an ADD was granted those before
// a Service took them. A pod that has something else is none of them. Known says that all of these Services have been
// seen since the agent's start.
func (t *table) waits(want, have map[cluster.Name][]Port) (some, known bool) {
	known = true
	for name, list := range want {
		for _, p := range have[name] {
			if !slices.ContainsFunc(list, func(q Port) bool { return samePort(p, q) }) {
				return false, false
			}
		}
		for _, p := range list {
			if slices.ContainsFunc(have[name], func(q Port) bool { return samePort(p, q) }) {
				continue
			}
			owner, ok := t.serviceWith(p.Frontends[0].Frontend)
			if !ok {
				return false, false
			}
			some, known = true, known && owner != (PortID{})
		}
	}
	return some, known
}

// serviceWith finds the Service that keeps pods from a frontend; one of before the agent's start has no name.
func (t *table) serviceWith(f bpf.Frontend) (PortID, bool) {
	for _, at := range []bpf.Frontend{f, anyAddress(f)} {
		if owner, ok := t.ownerOf(at); ok && (owner == (PortID{}) || !isPod(owner.Service)) {
			return owner, true
		}
	}
	return PortID{}, false
}

// podPorts are the Ports that host ports are, for each address of a pod.
func podPorts(pod []netip.Addr, ports []HostPort) (map[cluster.Name][]Port, error) {
	want := map[cluster.Name][]Port{}
	for _, addr := range pod {
		addr = addr.Unmap().WithZone("")
		list, err := hostPorts(addr, ports)
		if err != nil {
			return nil, err
		}
		want[podName(addr)] = list
	}
	return want, nil
}
