package service

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"github.com/nearpath/nearpath/bpf"
	"github.com/nearpath/nearpath/internal/cluster"
)

// An Op is one write to the maps.
type Op interface {
	fmt.Stringer
	apply(Maps) error
}

// Publish makes a record serve a block.
type Publish struct {
	Record uint32
	Port   PortID
	Block  bpf.Block
}

// Put points a frontend to a record.
type Put struct {
	Frontend Frontend
	Record   uint32
}

// Delete removes a frontend.
type Delete struct{ Frontend bpf.Frontend }

// Retire stops a record from serving.
type Retire struct{ Record uint32 }

func (o Publish) String() string {
	return fmt.Sprintf("publish record %d (%s): %s", o.Record, o.Port, describe(o.Block))
}
func (o Put) String() string {
	return fmt.Sprintf("put frontend %s (%s) -> record %d", o.Frontend, o.Frontend.Kind, o.Record)
}
func (o Delete) String() string { return fmt.Sprintf("delete frontend %s", o.Frontend) }
func (o Retire) String() string { return fmt.Sprintf("retire record %d", o.Record) }

func describe(b bpf.Block) string {
	var s strings.Builder
	fmt.Fprintf(&s, "cluster %v", b.Cluster)
	if b.InternalLocal || b.ExternalLocal {
		fmt.Fprintf(&s, ", local %v", b.Local)
	}
	for _, to := range []struct {
		who         string
		local, drop bool
	}{{"inside", b.InternalLocal, b.InternalDrop}, {"outside", b.ExternalLocal, b.ExternalDrop}} {
		switch {
		case to.drop:
			fmt.Fprintf(&s, ", dropped from %s", to.who)
		case to.local:
			fmt.Fprintf(&s, ", local from %s", to.who)
		}
	}
	for _, also := range []struct {
		set bool
		say string
	}{
		{len(b.Draining) > 0, fmt.Sprintf(", draining %v", b.Draining)},
		{b.Affinity > 0, fmt.Sprintf(", affinity %s", b.Affinity)},
		{len(b.SourceRanges) > 0, fmt.Sprintf(", from %v", b.SourceRanges)},
		{b.NodeDNS, ", node DNS first"},
	} {
		if also.set {
			s.WriteString(also.say)
		}
	}
	return s.String()
}

// A Plan is the way from one state of the maps to another. Grow has a list of Ops for each port that changes: one port
// may fail without the others. Every prefix of Grow followed by any prefix of Shrink leaves each frontend on a whole
// block: what a frontend points to is published before it points there, and is retired after nothing does.
type Plan struct {
	Grow   [][]Op
	Shrink []Op
	// Withdrawn says that some UDP backend stops to serve a frontend. What only leaves a list, and serves on, is not meant.
	Withdrawn bool
}

// A table is what the maps hold, and for whom: Services, and pods with host ports under the names of podName.
type table struct {
	frontends map[bpf.Frontend]entry
	blocks    map[uint32]bpf.Block
	services  map[cluster.Name][]Port
	hosting   map[cluster.Name]bool // the pods among services
	records   map[PortID]uint32
	owners    map[bpf.Frontend]PortID
	owned     map[uint32]bool           // the numbers in records
	adopted   map[uint32][]bpf.Frontend // until the first full plan: the frontends of each record that was found
	waiting   []cluster.Name            // who does not have all of its frontends because of somebody else's claim
	withdrawn bool                      // Plan.Withdrawn of the plan that is being made
	free      []uint32                  // numbers below next that nobody uses
	retired   []uint32                  // those that programs may still be using, the oldest first
	reclaimed int                       // how many were retired and are free again, ever
	next, max uint32
}

// An entry is what a frontend has in the maps.
type entry struct {
	record uint32
	kind   bpf.FrontendKind
}

// plan computes the way from t to a state in which the given Services have exactly the given Ports; no Ports mean
// that the Service is gone. With full, Services that are not named have none either, and what the maps hold for
// nobody goes too; pods that are not named keep their host ports. It changes t to the state after the plan, so a caller
// that fails to apply it must adopt anew.
//
// Each of the errors is a port that cannot be served whole: no record is left for it, or it is a [ConflictError]. What
// lost a conflict is planned again with every plan, so it is served as soon as its frontend is free. Everything else is
// planned all the same.
func (t *table) plan(want map[cluster.Name][]Port, full bool) (p Plan, refused []error) {
	t.withdrawn = false
	if full {
		want = t.widen(want)
		clear(t.owners)
	} else {
		want = t.concerned(want)
	}
	names := inOrder(want)
	ports := make([]Port, 0, len(names))
	for _, name := range names {
		ports = append(ports, want[name]...)
	}
	claimed, refused := t.claimAll(ports, want)
	for _, port := range ports {
		if ops := t.grow(port, claimed); len(ops) > 0 {
			p.Grow = append(p.Grow, ops)
		}
	}
	for _, name := range names {
		p.Shrink = append(p.Shrink, t.shrink(name, want[name], claimed)...)
	}
	if full {
		p.Shrink = append(p.Shrink, t.dropStrangers(claimed)...)
		t.adopted = nil
	}
	p.Withdrawn = t.withdrawn
	return p, refused
}

// widen adds the Services that are to go because nobody names them, and the pods, which stay.
func (t *table) widen(want map[cluster.Name][]Port) map[cluster.Name][]Port {
	want = maps.Clone(want)
	for name, ports := range t.services {
		if _, ok := want[name]; ok {
			continue
		}
		if want[name] = nil; isPod(name) {
			want[name] = ports
		}
	}
	return want
}

// concerned adds those whose frontends the change may give or take: who has one that is claimed now, who waits for one,
// and the pods, whose few host ports give way to any Service.
func (t *table) concerned(want map[cluster.Name][]Port) map[cluster.Name][]Port {
	all := t.pods()
	for _, name := range t.waiting {
		all[name] = t.services[name]
	}
	for _, ports := range want {
		for _, port := range ports {
			for _, f := range port.Frontends {
				if owner, ok := t.owners[f.Frontend]; ok {
					all[owner.Service] = t.services[owner.Service]
				}
			}
		}
	}
	maps.Copy(all, want)
	return all
}

// grow makes port served: its block first, then the frontends that point to it.
func (t *table) grow(port Port, claimed map[bpf.Frontend]bool) (ops []Op) {
	record, ok := t.records[port.ID]
	if !ok {
		return nil
	}
	if have, ok := t.blocks[record]; !ok || !sameBlock(have, port.Block) {
		ops = append(ops, Publish{record, port.ID, port.Block})
		t.withdrawn = t.withdrawn || port.ID.Protocol == cluster.UDP && withdraws(have, port.Block)
		t.blocks[record] = port.Block
	}
	for _, f := range port.Frontends {
		if !claimed[f.Frontend] || t.owners[f.Frontend] != port.ID {
			continue
		}
		if put := (entry{record, f.Kind}); t.frontends[f.Frontend] != put {
			if had, ok := t.frontends[f.Frontend]; ok && had.record != record {
				t.withdraw(f.Frontend)
			}
			ops = append(ops, Put{f, record})
			t.frontends[f.Frontend] = put
		}
	}
	return ops
}

// giveRecord finds the port's record: the one it has, the one an earlier agent gave its frontends, or a new one.
func (t *table) giveRecord(port Port) error {
	if _, ok := t.records[port.ID]; ok {
		return nil
	}
	record, ok := t.inherited(port)
	switch {
	case ok:
	case len(t.free) > 0:
		record = t.free[len(t.free)-1]
		t.free = t.free[:len(t.free)-1]
	case t.next < t.max:
		record = t.next
		t.next++
	default:
		return fmt.Errorf("serve %s: %w: all %d records are in use", port.ID, bpf.ErrFull, t.max)
	}
	t.records[port.ID] = record
	t.owned[record] = true
	return nil
}

// inherited finds a record that an earlier agent gave this port and nobody else: another's frontends, or those of
// another kind, would get the port's backends before their time. The records of host ports are known already.
func (t *table) inherited(port Port) (uint32, bool) {
	if isPod(port.ID.Service) {
		return 0, false
	}
	foreign := func(f bpf.Frontend) bool {
		return t.owners[f] != port.ID || !slices.Contains(port.Frontends, Frontend{f, t.frontends[f].kind})
	}
	for _, f := range port.Frontends {
		record := t.frontends[f.Frontend].record
		if found := t.adopted[record]; slices.Contains(found, f.Frontend) && !t.owned[record] && !slices.ContainsFunc(found, foreign) {
			return record, true
		}
	}
	return 0, false
}

// shrink removes what a Service had and has no more: frontends that no wanted port has taken over, then records.
func (t *table) shrink(name cluster.Name, want []Port, claimed map[bpf.Frontend]bool) (ops []Op) {
	old := t.services[name]
	for _, port := range old {
		ops = append(ops, t.releaseFrontends(port, claimed)...)
	}
	for _, port := range old {
		record, ok := t.records[port.ID]
		if !ok || slices.ContainsFunc(want, func(p Port) bool { return p.ID == port.ID }) {
			continue
		}
		ops = append(ops, t.retire(record))
		delete(t.records, port.ID)
	}
	if len(want) == 0 {
		delete(t.services, name)
		delete(t.hosting, name)
	} else {
		t.put(name, want)
	}
	return ops
}

// releaseFrontends removes the frontends that point to the port's record and that nobody claims.
func (t *table) releaseFrontends(port Port, claimed map[bpf.Frontend]bool) (ops []Op) {
	record, ok := t.records[port.ID]
	if !ok {
		return nil
	}
	for _, f := range port.Frontends {
		if have, ok := t.frontends[f.Frontend]; ok && have.record == record && !claimed[f.Frontend] {
			ops = append(ops, Delete{f.Frontend})
			t.withdraw(f.Frontend)
			delete(t.frontends, f.Frontend)
			delete(t.owners, f.Frontend)
		}
	}
	return ops
}

// dropStrangers removes what the maps held before this agent and no Service wants.
func (t *table) dropStrangers(claimed map[bpf.Frontend]bool) (ops []Op) {
	for f := range t.frontends {
		if !claimed[f] {
			ops = append(ops, Delete{f})
			t.withdraw(f)
			delete(t.frontends, f)
		}
	}
	slices.SortFunc(ops, func(a, b Op) int { return strings.Compare(a.String(), b.String()) })
	for _, record := range slices.Sorted(maps.Keys(t.blocks)) {
		if !t.owned[record] {
			ops = append(ops, t.retire(record))
		}
	}
	return ops
}

func (t *table) retire(record uint32) Op {
	delete(t.blocks, record)
	delete(t.owned, record)
	t.retired = append(t.retired, record)
	return Retire{record}
}

// withdraw notes that a frontend loses its backends.
func (t *table) withdraw(f bpf.Frontend) {
	t.withdrawn = t.withdrawn || f.Protocol == uint8(cluster.UDP)
}

// withdraws reports whether a backend that serves in one block does not in the next.
func withdraws(from, to bpf.Block) bool {
	serving := map[netip.AddrPort]bool{}
	for _, list := range [][]netip.AddrPort{to.Cluster, to.Local, to.Draining} {
		for _, a := range list {
			serving[a] = true
		}
	}
	gone := func(a netip.AddrPort) bool { return !serving[a] }
	return slices.ContainsFunc(from.Cluster, gone) || slices.ContainsFunc(from.Local, gone) || slices.ContainsFunc(from.Draining, gone)
}

func sameBlock(a, b bpf.Block) bool { return a.Equal(b) }
