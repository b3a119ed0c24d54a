package policy

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"slices"
)

// A TooLargeError says that what is wanted does not fit into a map. Nothing of it was planned.
type TooLargeError struct {
	Map        string
	Need, Room int
}

func (e *TooLargeError) Error() string {
	return fmt.Sprintf("the policies need %d entries in %s, which has room for %d: write fewer or smaller ones", e.Need, e.Map, e.Room)
}

// A move is an address or a network that gets another class.
type move struct {
	addr   netip.Addr   // of an entry of its own,
	prefix netip.Prefix // or of a network
	from   uint64       // what the kernel finds now
	to     *class       // what is wanted
	target uint64       // what it gets now: to, or a class between the two
}

func (m move) compare(o move) int {
	if m.addr.IsValid() != o.addr.IsValid() {
		if m.addr.IsValid() {
			return -1
		}
		return 1
	}
	if m.addr.IsValid() {
		return m.addr.Compare(o.addr)
	}
	return cmp.Or(cmp.Compare(bits(o.prefix), bits(m.prefix)), comparePrefixes(m.prefix, o.prefix))
}

// A planning is a plan on its way. Until it is committed nothing has happened.
//
// Who reads set, class and verdict while it is carried out must see, of each pod, peer and point, either the verdict from
// before or the one that is wanted. Up to the moment in which a pod gets its new sets it is under the old ones. So an address
// may only be given a class about which both say what they are to say of that address: the old sets what they say
// of its old class, the new sets what they say of its new one. Mostly the new class will do, as nobody has it
// yet and the old sets' verdicts about it can be what they must. Where that fails, as somebody has it already about whom the old
// sets say something else, the address gets a class of its own kind in between, and Prune gives it the wanted one later.
//
// Addresses with entries of their own come before networks, and long networks before short ones: so each shields what must not
// see its surroundings change.
type planning struct {
	c        *Compiler
	verdicts map[VerdictKey]*list
	moves    []move
	pods     map[uint16]PodSets
	old      []uint64          // sets that pods leave and nobody has after
	between  map[uint64]*class // what the classes between lead to
	sets     []*set            // that are written
	classes  []*class          // likewise
}

// Plan returns the Ops from what the maps hold to what is wanted, in order; none if it is there. After it Prune has to be
// called. The Ops must be applied, or Adopt be called. The error is a [TooLargeError]: there is no plan then, and the next one will
// try again.
func (c *Compiler) Plan() ([]Op, error) {
	p := &planning{c: c, verdicts: map[VerdictKey]*list{}, pods: map[uint16]PodSets{}, between: map[uint64]*class{}}
	p.findPods()
	p.findMoves()
	p.aim()
	p.writeVerdicts()
	if err := p.fits(); err != nil {
		return nil, err
	}
	ops := p.ops()
	p.commit()
	return ops, nil
}

func idOf(s *set) uint64 {
	if s == nil {
		return 0
	}
	return s.id
}

// findPods finds the pods that get other sets, and the sets that go.
func (p *planning) findPods() {
	c := p.c
	wanted := map[uint64]bool{0: true}
	for number, s := range c.subjects {
		sets := PodSets{idOf(s.sets[Ingress]), idOf(s.sets[Egress])}
		wanted[sets[Ingress]], wanted[sets[Egress]] = true, true
		_, unknown := c.unknown[number]
		if _, dirty := c.dirty.pods[number]; unknown || (dirty || c.dirty.all) && c.have.pods[number] != sets {
			p.pods[number] = sets
		}
	}
	for number := range p.pods {
		for d, set := range c.have.pods[number] {
			if set != p.pods[number][d] && !wanted[set] && !slices.Contains(p.old, set) {
				p.old = append(p.old, set)
			}
		}
	}
	slices.Sort(p.old)
}

func (p *planning) findMoves() {
	c := p.c
	if c.dirty.all {
		for addr := range c.addrs {
			p.findMove(addr)
		}
		for addr := range c.have.peers {
			if c.addrs[addr] == nil {
				p.findMove(addr)
			}
		}
	} else {
		for addr := range c.dirty.plan {
			p.findMove(addr)
		}
	}
	if c.dirty.cidrs {
		p.findNets()
	}
	slices.SortFunc(p.moves, move.compare)
}

func (p *planning) findMove(addr netip.Addr) {
	c := p.c
	to, around := c.classOf(addr), c.bounds.of(addr, c.none)
	from, exact := c.have.class(addr)
	if to == around { // no entry is needed
		if !exact {
			return
		}
		c.have.leftPeers[addr] = struct{}{}
	} else {
		delete(c.have.leftPeers, addr)
	}
	if !exact || from != to.id {
		p.moves = append(p.moves, move{addr: addr, from: from, to: to})
	}
}

// findNets looks at all boundaries, those that the maps hold and those that are wanted: between two of them nothing changes.
func (p *planning) findNets() {
	c := p.c
	wanted := make(map[netip.Prefix]struct{}, len(c.bounds.prefixes))
	for i, prefix := range c.bounds.prefixes {
		wanted[prefix] = struct{}{}
		delete(c.have.leftCIDRs, prefix)
		class, ok := c.have.cidrs[prefix]
		if ok && class == c.bounds.values[i].id {
			continue
		}
		if !ok {
			class = c.have.nets.within(prefix, 0)
		}
		p.moves = append(p.moves, move{prefix: prefix, from: class, to: c.bounds.values[i]})
	}
	for prefix, class := range c.have.cidrs {
		if _, ok := wanted[prefix]; ok {
			continue
		}
		c.have.leftCIDRs[prefix] = struct{}{}
		if to := c.bounds.within(prefix, c.none); class != to.id {
			p.moves = append(p.moves, move{prefix: prefix, from: class, to: to})
		}
	}
}

// aim chooses the classes that addresses get now.
func (p *planning) aim() {
	type pair struct{ from, to uint64 }
	targets := map[pair]uint64{}
	for i := range p.moves {
		m := &p.moves[i]
		if len(p.old) == 0 || m.from == m.to.id {
			m.target = m.to.id
			continue
		}
		key := pair{m.from, m.to.id}
		target, ok := targets[key]
		if !ok {
			target = m.to.id
			if !p.serves(m.from, target) {
				target = p.c.id(fmt.Appendf(nil, "between %x %x", m.from, m.to.id))
				p.between[target] = m.to
			}
			p.alias(m.from, target)
			targets[key] = target
		}
		m.target = target
	}
}

// serves reports whether the old sets say of the one class what they say of the other, or can be made to.
func (p *planning) serves(from, to uint64) bool {
	have := &p.c.have
	taken := to == 0 || have.inUse[to] > 0
	for _, set := range p.old {
		is := have.verdict(set, to)
		if l, ok := p.verdicts[VerdictKey{Set: set, Class: to}]; ok {
			is = l
		} else if !taken {
			continue
		}
		if is != have.verdict(set, from) {
			return false
		}
	}
	return true
}

// alias makes the old sets say of the one class what they say of the other.
func (p *planning) alias(from, to uint64) {
	have := &p.c.have
	for _, set := range p.old {
		l, key := have.verdict(set, from), VerdictKey{Set: set, Class: to}
		if l == nil {
			l = p.c.list(nil)
		}
		// Also where the maps say so already: it must not be said otherwise for others.
		p.verdicts[key] = l
	}
}

// writeVerdicts says what all sets say of all classes that are wanted now, and of those in between.
func (p *planning) writeVerdicts() {
	c := p.c
	for _, s := range c.sets {
		if s.written {
			continue
		}
		p.sets = append(p.sets, s)
		p.put(VerdictKey{Set: s.id}, s.fallback)
		for cl := range c.classesFor(s) {
			p.say(s, cl, cl.id)
		}
	}
	p.writeClasses()
	for target, cl := range p.between {
		for s := range c.setsFor(cl) {
			p.say(s, cl, target)
		}
	}
	if c.dirty.all {
		p.correct()
	}
}

// writeClasses has the sets that are written already say what they say of new classes.
func (p *planning) writeClasses() {
	for _, cl := range p.c.classes {
		if cl.written {
			continue
		}
		p.classes = append(p.classes, cl)
		for s := range p.c.setsFor(cl) {
			if s.written {
				p.say(s, cl, cl.id)
			}
		}
	}
}

// say puts what the set says of the one class as the verdict about the other.
func (p *planning) say(s *set, about *class, to uint64) {
	l, key := p.c.list(s.verdict(about)), VerdictKey{Set: s.id, Class: to}
	if l != s.fallback || p.c.have.verdicts[key] != nil {
		p.put(key, l)
	}
}

func (p *planning) put(key VerdictKey, l *list) {
	if p.c.have.verdicts[key] != l {
		p.verdicts[key] = l
	}
}

// correct finds verdicts that the maps hold and that say something else, as a plan that was broken off may have left.
func (p *planning) correct() {
	sets, classes := map[uint64]*set{}, map[uint64]*class{}
	for _, s := range p.c.sets {
		sets[s.id] = s
	}
	for _, cl := range p.c.classes {
		classes[cl.id] = cl
	}
	for key := range p.c.have.verdicts {
		if s, cl := sets[key.Set], classes[key.Class]; s != nil && cl != nil {
			p.say(s, cl, cl.id)
		}
	}
}

// classesFor are those about which the set may say something of their own.
func (c *Compiler) classesFor(s *set) map[*class]struct{} {
	found := map[*class]struct{}{}
	for _, ps := range s.peers {
		for cl := range ps.classes {
			found[cl] = struct{}{}
		}
	}
	for _, l := range c.listeners {
		found[c.classOf(l.Addr)] = struct{}{}
	}
	if s.asksAny {
		for _, cl := range c.classes {
			if len(cl.names) > 0 {
				found[cl] = struct{}{}
			}
		}
	}
	delete(found, c.none)
	return found
}

// setsFor are those that may say something of their own about the class.
func (c *Compiler) setsFor(cl *class) map[*set]struct{} {
	found := map[*set]struct{}{}
	if cl == c.none {
		return found
	}
	for ps := range c.eachMember(cl) {
		for s := range ps.sets {
			found[s] = struct{}{}
		}
	}
	if len(cl.names) > 0 || len(cl.via) > 0 {
		for _, s := range c.sets {
			if s.asksAny || len(cl.via) > 0 {
				found[s] = struct{}{}
			}
		}
	}
	return found
}

// fits checks that everything has room at every moment of the plan.
func (p *planning) fits() error {
	room := p.c.room
	verdicts, cells := p.needVerdicts()
	peers, cidrs := p.needEntries()
	for _, check := range []TooLargeError{
		{"policy_verdicts", verdicts, room.Verdicts}, {"policy_ports", cells, room.Cells},
		{"policy_peers", peers, room.Peers}, {"policy_cidrs", cidrs, room.CIDRs},
	} {
		if check.Need > check.Room {
			return &check
		}
	}
	return nil
}

func (p *planning) needVerdicts() (verdicts, cells int) {
	have := &p.c.have
	verdicts, cells = len(have.verdicts), have.cells+have.limbo
	fresh := map[*list]bool{}
	for key, l := range p.verdicts {
		if have.verdicts[key] == nil {
			verdicts++
		}
		if have.lists[l] == 0 && !fresh[l] {
			fresh[l] = true
			cells += l.cells()
		}
	}
	return verdicts, cells
}

func (p *planning) needEntries() (peers, cidrs int) {
	have := &p.c.have
	peers, cidrs = len(have.peers), len(have.cidrs)
	for _, m := range p.moves {
		if m.addr.IsValid() {
			if _, ok := have.peers[m.addr]; !ok {
				peers++
			}
		} else if _, ok := have.cidrs[m.prefix]; !ok {
			cidrs++
		}
	}
	return peers, cidrs
}

func (p *planning) ops() (ops []Op) {
	keys := slices.SortedFunc(maps.Keys(p.verdicts), compareKeys)
	for _, key := range keys {
		if p.c.have.verdicts[key] != p.verdicts[key] {
			ops = append(ops, PutVerdict{key, p.verdicts[key].intervals})
		}
	}
	for _, m := range p.moves {
		if m.addr.IsValid() {
			ops = append(ops, PutPeer{m.addr, m.target})
		} else {
			ops = append(ops, PutCIDR{m.prefix, m.target})
		}
	}
	for _, number := range slices.Sorted(maps.Keys(p.pods)) {
		ops = append(ops, PutPod{number, p.pods[number]})
	}
	if len(p.moves) > 0 || len(p.pods) > 0 {
		ops = append(ops, Bump{})
	}
	return ops
}

func compareKeys(a, b VerdictKey) int {
	return cmp.Or(cmp.Compare(a.Set, b.Set), cmp.Compare(a.Class, b.Class))
}

func (p *planning) commit() {
	c := p.c
	for key, l := range p.verdicts {
		c.have.putVerdict(key, l)
	}
	clear(c.dirty.plan)
	clear(c.dirty.pods)
	clear(c.unknown)
	c.dirty.cidrs, c.dirty.all = false, false
	p.commitMoves()
	maps.Copy(c.have.pods, p.pods)
	for _, s := range p.sets {
		s.written = true
	}
	for _, cl := range p.classes {
		cl.written = true
	}
	c.garbage = c.garbage || len(p.old) > 0
}

func (p *planning) commitMoves() {
	c, nets := p.c, false
	for _, m := range p.moves {
		settled := m.target == m.to.id
		if m.addr.IsValid() {
			_, left := c.have.leftPeers[m.addr]
			if c.have.putPeer(m.addr, m.target); left {
				c.have.leftPeers[m.addr] = struct{}{}
			}
			if !settled {
				c.dirty.plan[m.addr] = struct{}{}
			}
			continue
		}
		_, left := c.have.leftCIDRs[m.prefix]
		if c.have.putCIDR(m.prefix, m.target); left {
			c.have.leftCIDRs[m.prefix] = struct{}{}
		}
		nets, c.dirty.cidrs = true, c.dirty.cidrs || !settled
	}
	if nets {
		c.have.reindex()
	}
}
