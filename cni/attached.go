package cni

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"
)

// An attached is an attachment as the lease, the record, or both tell of it.
type attached struct {
	wiring   Wiring
	record   record // the zero value if there is none
	leased   bool
	recorded bool
	// broken says that there is a record, but that it cannot be read: how the pod is wired, and where it is, is not known.
	broken bool
	pod    PodRef
}

func (a attached) name() string {
	if a.pod.Name == "" {
		return a.wiring.Key.ContainerID
	}
	return a.pod.Namespace + "/" + a.pod.Name
}

// vanished says whether the pod is gone: its namespace, and with it the links of a pair, one of which is on the node. What
// has become of that link is no sign as long as the namespace is there, or may be: the address is still in use.
func (a attached) vanished(links map[string]linkState) bool {
	if _, there := links[a.wiring.Key.HostLink()]; there || a.broken {
		return false
	}
	return !a.recorded || !a.record.lives()
}

// unlinked says whether somebody has deleted the link on the node of a pod that is there.
func (a attached) unlinked(links map[string]linkState) bool {
	_, there := links[a.wiring.hostLink()]
	return !there && a.recorded && a.wiring.Datapath != IPVlan && a.record.Link != 0 && a.record.lives()
}

// combine is all that follows from a lease and a record, either of which may be absent. Without a record the datapath is not
// known, unless the lease is of a whole ENI.
func combine(k Key, lease Lease, leased bool, r record, recorded bool) attached {
	if !recorded {
		w := Wiring{Key: k, Lease: lease}
		if lease.Exclusive {
			w.Datapath = Exclusive
		}
		return attached{wiring: w, leased: leased}
	}
	if !leased {
		lease = Lease{Addrs: r.Addrs, Slot: r.Slot, MAC: r.MAC, Exclusive: r.Datapath == Exclusive}
	}
	return attached{wiring: r.wiring(lease), record: r, leased: leased, recorded: true, pod: r.Pod}
}

// attached lists all that is leased or recorded. With an error, some of what is not leased may be missing.
func (s *Server) attached() ([]attached, error) {
	leases := s.config.Addresses.List()
	records, err := s.records.list()
	byKey := make(map[Key]record, len(records))
	for _, r := range records {
		byKey[r.Key] = r
	}
	var all []attached
	for _, l := range leases {
		k := l.Attachment.Key
		r, recorded := byKey[k]
		a := combine(k, l.Lease, true, r, recorded)
		a.broken = !recorded && s.records.has(k)
		a.pod = l.Attachment.Pod
		all = append(all, a)
		delete(byKey, k)
	}
	for k, r := range byKey {
		all = append(all, combine(k, Lease{}, false, r, true))
	}
	return all, err
}

// attachedAs is one of attached, as of now.
func (s *Server) attachedAs(k Key) (attached, bool) {
	r, recorded := s.recordOf(k)
	lease, leased := s.config.Addresses.Lookup(k)
	a := combine(k, lease, leased, r, recorded)
	a.broken = !recorded && s.records.has(k)
	return a, recorded || leased
}

// orphans lists what is there of pods that are gone.
func orphans(known []attached, links map[string]linkState) (keys []Key) {
	for _, a := range known {
		if a.vanished(links) {
			keys = append(keys, a.wiring.Key)
		}
	}
	return keys
}

// lost lists the pods whose link is there, and of whose routes and neighbours on the node one is not, or leads
// elsewhere.
func lost(known []attached, state hostState) (found []attached) {
	for _, a := range known {
		if _, there := state.links[a.wiring.hostLink()]; !there || !a.leased || a.wiring.check() != nil {
			continue
		}
		if slices.ContainsFunc(onHost(Plan(a.wiring)), func(op Op) bool { return !state.has(op) }) {
			found = append(found, a)
		}
	}
	return found
}

// follow tells pods of addresses of the node, and of networks behind it, that are new, and has them forget former ones.
func (c *Collector) follow(known []attached) error {
	node, networks := c.server.nodeSide()
	if len(node) == 0 {
		return nil // not known, which is not none
	}
	var errs []error
	for _, a := range known {
		if a.recorded && a.wiring.Datapath != Veth && !a.record.reaches(node, networks) {
			errs = append(errs, c.update(a.wiring.Key, node, networks))
		}
	}
	return errors.Join(errs...)
}

// reaches says whether the pod was told of all this and nothing else.
func (r record) reaches(node []netip.Addr, networks []netip.Prefix) bool {
	return slices.Equal(r.Node, node) && (r.Datapath != Exclusive || slices.Equal(r.Networks, networks))
}

func (c *Collector) update(k Key, node []netip.Addr, networks []netip.Prefix) error {
	s := c.server
	release, ok := s.locks.try(k)
	if !ok {
		return nil
	}
	defer release()
	a, ok := s.attachedAs(k)
	if !ok || !a.recorded || a.wiring.check() != nil || !a.record.lives() {
		return nil
	}
	pod, err := openPod(a.record.NetNS, s.host)
	if err != nil {
		return nil //nolint:nilerr // the namespace is about to go, or has gone since
	}
	defer pod.Close()
	r := a.record
	r.Node, r.Networks = node, nil
	if r.Datapath == Exclusive {
		r.Networks = networks
	}
	next := r.wiring(a.wiring.Lease)
	if err := (namespaces{s.host, pod}).apply(append(forget(a.wiring, next), next.toNode()...)); err != nil {
		return fmt.Errorf("tell %s of the node's addresses: %w", k, err)
	}
	c.log.Info("pod follows the node's addresses", "container", k.ContainerID, "node", node, "networks", r.Networks)
	return s.records.write(r)
}

// forget undoes what a wiring has towards the node and the next has not.
func forget(last, next Wiring) (ops []Op) {
	keep := next.toNode()
	for _, op := range last.toNode() {
		if slices.ContainsFunc(keep, func(k Op) bool { return k.String() == op.String() }) {
			continue
		}
		switch o := op.(type) {
		case AddRoute:
			ops = append(ops, DeleteRoute{o.Side, o.Link, o.Dst})
		case AddNeighbour:
			ops = append(ops, DeleteNeighbour{o.Side, o.Link, o.Addr})
		}
	}
	return ops
}

// assert tells the datapath again of pods that it does not know, or whose programs are gone. The first time these are all:
// the programs are an older agent's, and that is nothing to report.
func (c *Collector) assert(ctx context.Context, known []attached, first bool) error {
	var errs []error
	var told []string
	for _, a := range known {
		if !a.recorded || !a.leased || a.record.Link == 0 || !a.record.lives() {
			continue
		}
		done, err := c.assertOne(ctx, a.wiring.Key)
		if done {
			told = append(told, a.name())
		}
		errs = append(errs, err)
	}
	switch {
	case len(told) > 0 && first:
		c.log.Info("datapath told of pods", "count", len(told))
	case len(told) > 0:
		c.server.report("PodDatapathRestored", fmt.Sprintf("the datapath had lost %d pods, and knows them again: %v", len(told), told[:min(len(told), 10)]))
	}
	return errors.Join(errs...)
}

// complete finds out what an older agent has not noted: which of the pod's links is on the ENI.
func (s *Server) complete(r *record) error {
	if r.Datapath != IPVlan || r.Slave != 0 {
		return nil
	}
	pod, err := openPod(r.NetNS, s.host)
	if err != nil {
		return nil //nolint:nilerr // the namespace is about to go, or has gone since
	}
	defer pod.Close()
	if err := (namespaces{s.host, pod}).index(r); err != nil {
		return err
	}
	return s.records.write(*r)
}

func (c *Collector) assertOne(ctx context.Context, k Key) (bool, error) {
	s := c.server
	release, ok := s.locks.try(k)
	if !ok {
		return false, nil
	}
	defer release()
	r, recorded := s.recordOf(k)
	if _, leased := s.config.Addresses.Lookup(k); !recorded || !leased {
		return false, nil
	}
	ctx, cancel := context.WithTimeout(ctx, undoTimeout)
	defer cancel()
	if err := s.complete(&r); err != nil {
		return false, err
	}
	known, err := s.config.Pods.Has(ctx, r.entry())
	if known || err != nil {
		return false, err
	}
	if err := s.config.Pods.Add(ctx, r.entry()); err != nil {
		return false, fmt.Errorf("tell the datapath of %s again: %w", k, err)
	}
	return true, nil
}

// secondLook is how long something must look orphaned before it is believed to be.
const secondLook = 30 * time.Second

// A Watch remembers since when things look orphaned. The zero value is ready; it is not safe for concurrent use.
type Watch[K comparable] struct{ since map[K]time.Time }

// Observe takes what looks orphaned now and returns what did so on an earlier look, at least 30 seconds before. What
// does not look orphaned any more is forgotten.
func (w *Watch[K]) Observe(now time.Time, suspects []K) []K {
	next := make(map[K]time.Time, len(suspects))
	var due []K
	for _, k := range suspects {
		first, seen := w.since[k]
		if !seen {
			first = now
		}
		next[k] = first
		if seen && now.Sub(first) >= secondLook {
			due = append(due, k)
		}
	}
	w.since = next
	return due
}
