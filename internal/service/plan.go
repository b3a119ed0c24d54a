package service

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

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
	Frontend bpf.Frontend
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
	return fmt.Sprintf("put frontend %s -> record %d", o.Frontend, o.Record)
}
func (o Delete) String() string { return fmt.Sprintf("delete frontend %s", o.Frontend) }
func (o Retire) String() string { return fmt.Sprintf("retire record %d", o.Record) }

func describe(b bpf.Block) string {
	var s strings.Builder
	fmt.Fprintf(&s, "cluster %v", b.Cluster)
	if b.InternalLocal {
		fmt.Fprintf(&s, ", local %v", b.Local)
	}
	if b.InternalDrop {
		s.WriteString(", drop")
	}
	if b.NodeDNS {
		s.WriteString(", node DNS first")
	}
	return s.String()
}

// A Plan is the way from one state of the maps to another. Grow has a list of Ops for each port that changes: one port
// may fail without the others. Every prefix of Grow followed by any prefix of Shrink leaves each frontend on a whole
// block: what a frontend points to is published before it points there, and is retired after nothing does.
type Plan struct {
	Grow   [][]Op
	Shrink []Op
}

// A table is what the maps hold, and for whom.
type table struct {
	frontends map[bpf.Frontend]uint32
	blocks    map[uint32]bpf.Block
	services  map[cluster.Name][]Port
	records   map[PortID]uint32
	owners    map[bpf.Frontend]PortID
	owned     map[uint32]bool // the numbers in records
	free      []uint32        // numbers below next that nobody uses
	next, max uint32
}

// plan computes the way from t to a state in which the given Services have exactly the given Ports; no Ports mean
// that the Service is gone. With full, Services that are not named have none either, and what the maps hold for
// nobody goes too. It changes t to the state after the plan, so a caller that fails to apply it must adopt anew.
//
// Each of the errors is a port that cannot be served: no record is left for it, or an older Service has its frontend.
// Everything else is planned all the same, and a full plan serves the rest as soon as it can.
func (t *table) plan(want map[cluster.Name][]Port, full bool) (p Plan, refused []error) {
	if full {
		want = t.widen(want)
		clear(t.owners)
	}
	names, claimed := byAge(want), map[bpf.Frontend]bool{}
	for _, name := range names {
		for _, port := range want[name] {
			ops, err := t.grow(port, want, claimed)
			if err != nil {
				refused = append(refused, err)
			}
			if len(ops) > 0 {
				p.Grow = append(p.Grow, ops)
			}
		}
	}
	for _, name := range names {
		p.Shrink = append(p.Shrink, t.shrink(name, want[name], claimed)...)
	}
	if full {
		p.Shrink = append(p.Shrink, t.dropStrangers(claimed)...)
	}
	return p, refused
}

// widen adds the Services that are to go because nobody names them.
func (t *table) widen(want map[cluster.Name][]Port) map[cluster.Name][]Port {
	want = maps.Clone(want)
	for name := range t.services {
		if _, ok := want[name]; !ok {
			want[name] = nil
		}
	}
	return want
}

// grow makes port served: its block first, then the frontends that point to it.
func (t *table) grow(port Port, want map[cluster.Name][]Port, claimed map[bpf.Frontend]bool) (ops []Op, err error) {
	record, err := t.recordOf(port)
	if err != nil {
		return nil, err
	}
	if have, ok := t.blocks[record]; !ok || !sameBlock(have, port.Block) {
		ops = append(ops, Publish{record, port.ID, port.Block})
		t.blocks[record] = port.Block
	}
	for _, f := range port.Frontends {
		if owner, ok := t.owners[f]; ok && owner != port.ID && t.keeps(owner, f, want, claimed) {
			err = fmt.Errorf("serve %s at %s: %s has it and is older", port.ID, f, owner)
			continue
		}
		claimed[f] = true
		t.owners[f] = port.ID
		if have, ok := t.frontends[f]; !ok || have != record {
			ops = append(ops, Put{f, record})
			t.frontends[f] = record
		}
	}
	return ops, err
}

// keeps reports whether the owner of a frontend still has it: it claimed it in this plan, or is not part of it.
func (t *table) keeps(owner PortID, f bpf.Frontend, want map[cluster.Name][]Port, claimed map[bpf.Frontend]bool) bool {
	if claimed[f] {
		return true
	}
	_, planned := want[owner.Service]
	return !planned
}

// recordOf finds the port's record: the one it has, the one an earlier agent gave its frontends, or a new one.
func (t *table) recordOf(port Port) (uint32, error) {
	if record, ok := t.records[port.ID]; ok {
		return record, nil
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
		return 0, fmt.Errorf("serve %s: %w: all %d records are in use", port.ID, bpf.ErrFull, t.max)
	}
	t.records[port.ID] = record
	t.owned[record] = true
	return record, nil
}

func (t *table) inherited(port Port) (uint32, bool) {
	for _, f := range port.Frontends {
		if record, ok := t.frontends[f]; ok && !t.owned[record] {
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
	} else {
		t.services[name] = want
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
		if have, ok := t.frontends[f]; ok && have == record && !claimed[f] {
			ops = append(ops, Delete{f})
			delete(t.frontends, f)
			delete(t.owners, f)
		}
	}
	return ops
}

// dropStrangers removes what the maps held before this agent and no Service wants.
func (t *table) dropStrangers(claimed map[bpf.Frontend]bool) (ops []Op) {
	for f := range t.frontends {
		if !claimed[f] {
			ops = append(ops, Delete{f})
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
	t.free = append(t.free, record)
	return Retire{record}
}

func sameBlock(a, b bpf.Block) bool {
	return slices.Equal(a.Cluster, b.Cluster) && slices.Equal(a.Local, b.Local) &&
		a.InternalLocal == b.InternalLocal && a.InternalDrop == b.InternalDrop &&
		a.ExternalLocal == b.ExternalLocal && a.ExternalDrop == b.ExternalDrop && a.NodeDNS == b.NodeDNS
}

// byAge orders Services by creation, the oldest first, so that it has the first claim on a frontend.
func byAge(m map[cluster.Name][]Port) []cluster.Name {
	created := func(name cluster.Name) (t time.Time) {
		if ports := m[name]; len(ports) > 0 {
			t = ports[0].Created
		}
		return t
	}
	return slices.SortedFunc(maps.Keys(m), func(a, b cluster.Name) int {
		return cmp.Or(created(a).Compare(created(b)), strings.Compare(a.String(), b.String()))
	})
}
