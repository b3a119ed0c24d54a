package policy

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"iter"
	"net/netip"
	"slices"

	"github.com/nearpath/nearpath/internal/cluster"
)

// A class is all that rules may ask about an address: which peer-sets hold it, which ports its pod calls by the names
// that are asked for, and, of a listener, whom it stands for.
type class struct {
	id      uint64 // 0 for the one about which nothing is to be said
	serial  uint32 // grows, and is never used again
	key     string
	members []uint32                // serials of peer-sets, sorted
	names   []cluster.NamedPort     // sorted
	via     []via                   // sorted
	addrs   map[netip.Addr]struct{} // who has it; without those that have it by a boundary
	bounds  int                     // boundaries that have it
	written bool                    // the maps hold its verdicts
}

// A via is one that a listener stands for.
type via struct {
	class    *class
	protocol cluster.Protocol
	port     uint16 // of the listener
	target   uint16 // of the backend
}

func (v via) compare(o via) int {
	return cmp.Or(cmp.Compare(v.class.id, o.class.id), cmp.Compare(v.protocol, o.protocol), cmp.Compare(v.port, o.port), cmp.Compare(v.target, o.target))
}

// class returns the one with this content, and makes it if there is none. It takes over the slices if it makes one.
func (c *Compiler) class(members []uint32, names []cluster.NamedPort, through []via) *class {
	if len(members) == 0 && len(names) == 0 && len(through) == 0 {
		return c.none
	}
	c.scratch = c.scratch[:0]
	for _, m := range members {
		c.scratch = binary.LittleEndian.AppendUint32(c.scratch, m)
	}
	for _, n := range names {
		c.scratch = fmt.Appendf(c.scratch, "\n%s/%d/%d", n.Name, n.Protocol, n.Port)
	}
	for _, v := range through {
		c.scratch = fmt.Appendf(c.scratch, "\nvia %x/%d/%d/%d", v.class.serial, v.protocol, v.port, v.target)
	}
	if cl := c.classes[string(c.scratch)]; cl != nil {
		return cl
	}
	c.serial++
	cl := &class{
		serial: c.serial, key: string(c.scratch), members: slices.Clone(members), names: slices.Clone(names), via: through,
		addrs: map[netip.Addr]struct{}{},
	}
	cl.id = c.id(c.contentOf(cl))
	c.classes[cl.key] = cl
	for m := range c.eachMember(cl) {
		m.classes[cl] = struct{}{}
	}
	return cl
}

// contentOf names peer-sets by what they are, where the key has their serials.
func (c *Compiler) contentOf(cl *class) []byte {
	ids := make([]uint64, len(cl.members))
	for i, m := range cl.members {
		ids[i] = c.bySerial[m].id
	}
	slices.Sort(ids)
	content := fmt.Appendf(nil, "class\n%x", ids)
	for _, n := range cl.names {
		content = fmt.Appendf(content, "\n%q/%d/%d", n.Name, n.Protocol, n.Port)
	}
	for _, v := range cl.via {
		content = fmt.Appendf(content, "\nvia %x/%d/%d/%d", v.class.id, v.protocol, v.port, v.target)
	}
	return content
}

// eachMember yields the peer-sets that hold the address or, of a listener, one that it stands for.
func (c *Compiler) eachMember(cl *class) iter.Seq[*peerSet] {
	serials := cl.members
	for _, v := range cl.via {
		serials = slices.Concat(serials, v.class.members)
	}
	return func(yield func(*peerSet) bool) {
		for _, serial := range serials {
			if ps := c.bySerial[serial]; ps != nil && !yield(ps) {
				return
			}
		}
	}
}

// release forgets a class that nobody has any more.
func (c *Compiler) release(cl *class) {
	if cl == c.none || cl.bounds > 0 || len(cl.addrs) > 0 || c.classes[cl.key] != cl {
		return
	}
	delete(c.classes, cl.key)
	for m := range c.eachMember(cl) {
		delete(m.classes, cl)
	}
	c.garbage = true
}

func (cl *class) has(serial uint32) bool {
	_, ok := slices.BinarySearch(cl.members, serial)
	return ok
}

// reclassify finds the classes of all addresses that may have another one.
func (c *Compiler) reclassify() {
	for addr := range c.dirty.addrs {
		c.classify(addr)
		c.dirty.plan[addr] = struct{}{}
	}
	clear(c.dirty.addrs)
	c.dirty.groups = false
	for _, l := range c.listeners {
		c.classifyListener(l)
		c.dirty.plan[l.Addr] = struct{}{}
	}
}

func (c *Compiler) classify(addr netip.Addr) {
	a := c.addrs[addr]
	if c.isListener(addr) {
		return
	}
	placed := c.isPlaced(addr)
	if a == nil {
		if !placed {
			return
		}
		a = &address{}
		c.addrs[addr] = a
	}
	if a.group == nil && !placed {
		c.give(addr, a, nil)
		delete(c.addrs, addr)
		return
	}
	members, names := c.contains(addr, a.group)
	c.give(addr, a, c.class(members, names, nil))
}

// give makes it the address's class.
func (c *Compiler) give(addr netip.Addr, a *address, cl *class) {
	old := a.class
	if old == cl {
		return
	}
	if a.class = cl; cl != nil && cl != c.none {
		cl.addrs[addr] = struct{}{}
	}
	if old != nil && old != c.none {
		delete(old.addrs, addr)
		c.release(old)
	}
}

func (c *Compiler) isListener(addr netip.Addr) bool {
	return slices.ContainsFunc(c.listeners, func(l Listener) bool { return l.Addr == addr })
}

// isPlaced reports whether some peer-set lists the address.
func (c *Compiler) isPlaced(addr netip.Addr) bool {
	for ps := range c.placed {
		for i := range ps.terms {
			if _, ok := ps.terms[i].places[addr]; ok {
				return true
			}
		}
	}
	return false
}

// contains says which peer-sets hold the address, and which of its ports they ask for by name. The results are good until the
// next call.
func (c *Compiler) contains(addr netip.Addr, g *group) ([]uint32, []cluster.NamedPort) {
	members := c.members[:0]
	for _, m := range c.bounds.of(addr, c.none).members {
		if !c.bySerial[m].mixed {
			members = append(members, m)
		}
	}
	if g != nil {
		members = append(members, g.members...)
	}
	for ps := range c.placed {
		if !ps.mixed && ps.lists(addr) {
			members = append(members, ps.serial)
		}
	}
	for ps := range c.mixed {
		if c.mixedHolds(ps, addr, g) {
			members = append(members, ps.serial)
		}
	}
	slices.Sort(members)
	members = slices.Compact(members)
	c.members = members
	return members, c.asked(members, g)
}

func (ps *peerSet) lists(addr netip.Addr) bool {
	for i := range ps.terms {
		if _, ok := ps.terms[i].places[addr]; ok {
			return true
		}
	}
	return false
}

func (c *Compiler) mixedHolds(ps *peerSet, addr netip.Addr, g *group) bool {
	var labels map[string]string
	if g != nil {
		labels = c.w.NamespaceLabels(g.pod.Namespace)
	}
	for i := range ps.terms {
		if ps.terms[i].holds(addr, g, labels) {
			return true
		}
	}
	return false
}

func (c *Compiler) asked(members []uint32, g *group) (names []cluster.NamedPort) {
	if g == nil || len(g.ports) == 0 || len(c.askedNames) == 0 {
		return nil
	}
	for _, port := range g.ports {
		name := NamedPort{port.Protocol, port.Name}
		if c.askedNames[name] == 0 {
			continue
		}
		if c.askedOfAny[name] > 0 || slices.ContainsFunc(members, func(m uint32) bool { return c.bySerial[m].asks[name] > 0 }) {
			names = append(names, port)
		}
	}
	return names
}

// classifyListener makes the class of a listener, after those of whom it stands for are known.
func (c *Compiler) classifyListener(l Listener) {
	a := c.addrs[l.Addr]
	if a == nil {
		a = &address{}
		c.addrs[l.Addr] = a
	}
	members, names := c.contains(l.Addr, a.group)
	members = slices.Clone(members)
	var through []via
	for _, b := range l.Backends {
		behind := c.classOf(b.Addr)
		if behind == c.none && b.Port == b.Target {
			continue
		}
		through = append(through, via{behind, b.Protocol, b.Port, b.Target})
	}
	slices.SortFunc(through, via.compare)
	c.give(l.Addr, a, c.class(members, names, slices.Compact(through)))
}

// classOf is the class of any address, in the state that is wanted.
func (c *Compiler) classOf(addr netip.Addr) *class {
	if a := c.addrs[addr]; a != nil && a.class != nil {
		return a.class
	}
	return c.bounds.of(addr, c.none)
}
