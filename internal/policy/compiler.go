package policy

import (
	"maps"
	"net/netip"
	"slices"

	"github.com/nearpath/nearpath/internal/cluster"
)

// A Compiler turns a World into what the maps are to hold, and into the way there. Work follows what is touched. It is not
// safe for concurrent use.
type Compiler struct {
	namer
	w      World
	serial uint32

	// What the world says.
	programs   map[Ref]*program
	inSpace    map[string]map[*program]struct{} // by the namespace of the subjects, empty for any
	tiers      map[string]Tier
	subjects   map[uint16]*subject
	localAddrs map[netip.Addr]*subject
	listeners  []Listener

	// Who has which address, and who is alike.
	pods      map[cluster.Name][]netip.Addr // the addresses that pods claim
	groups    map[string]*group
	allGroups map[*group]struct{}
	groupsIn  map[string]map[*group]struct{} // by namespace
	addrs     map[netip.Addr]*address

	// What is to be said.
	peerSets   map[string]*peerSet
	bySerial   map[uint32]*peerSet
	placed     map[*peerSet]struct{}
	mixed      map[*peerSet]struct{}
	bounds     boundaries
	classes    map[string]*class
	none       *class
	sets       map[string]*set
	askedNames map[NamedPort]int // by rules of egress sets
	askedOfAny map[NamedPort]int // of those, by rules about anybody
	lists      map[string]*list

	dirty   dirty
	garbage bool // there are verdicts that nobody needs any more

	have    have
	room    Room
	unknown map[uint16]struct{} // numbers whose sets must be written, whatever was written before

	scratch []byte
	members []uint32
}

// dirty is what must be looked at again.
type dirty struct {
	addrs  map[netip.Addr]struct{} // may have another class
	groups bool                    // all that pods have are among them
	locals map[uint16]struct{}     // may have other sets
	bounds bool
	plan   map[netip.Addr]struct{} // the maps may say something else
	cidrs  bool                    // likewise
	pods   map[uint16]struct{}     // likewise
	all    bool                    // likewise, of everything
}

// A subject is a pod of this node.
type subject struct {
	local  *LocalPod
	pod    *cluster.PolicyPod // as it was last known, nil if it never was
	labels map[string]string  // of its namespace, likewise
	sets   [2]*set
	refs   [2][]Ref // the policies that apply, in order
}

// NewCompiler returns a compiler for empty maps. The secret must be the same at every start, as long as the maps are.
func NewCompiler(secret [16]byte, room Room) *Compiler {
	c := &Compiler{namer: namer{secret}, room: room, have: newHave(), lists: map[string]*list{}, unknown: map[uint16]struct{}{}}
	c.reset()
	return c
}

// reset forgets all but what the maps hold.
func (c *Compiler) reset() {
	c.programs, c.inSpace = map[Ref]*program{}, map[string]map[*program]struct{}{}
	c.subjects, c.localAddrs = map[uint16]*subject{}, map[netip.Addr]*subject{}
	c.listeners, c.pods = nil, map[cluster.Name][]netip.Addr{}
	c.groups, c.allGroups = map[string]*group{}, map[*group]struct{}{}
	c.groupsIn, c.addrs = map[string]map[*group]struct{}{}, map[netip.Addr]*address{}
	c.peerSets, c.bySerial = map[string]*peerSet{}, map[uint32]*peerSet{}
	c.placed, c.mixed = map[*peerSet]struct{}{}, map[*peerSet]struct{}{}
	c.bounds, c.classes, c.sets = boundaries{}, map[string]*class{}, map[string]*set{}
	c.none = &class{written: true}
	c.askedNames, c.askedOfAny = map[NamedPort]int{}, map[NamedPort]int{}
	c.dirty = dirty{
		addrs: map[netip.Addr]struct{}{}, locals: map[uint16]struct{}{}, plan: map[netip.Addr]struct{}{},
		pods: map[uint16]struct{}{}, all: true, cidrs: true,
	}
	c.garbage = true
}

// Update follows the world to a state in which only what is touched is different from the last one.
func (c *Compiler) Update(w World, t Touched) {
	c.w = w
	full := t.Full
	if full {
		t = c.everything()
	}
	if t.Tiers {
		c.retier()
	}
	for _, ref := range t.Policies {
		c.updateProgram(ref)
	}
	for _, number := range t.Locals {
		c.updateLocal(number)
	}
	for _, name := range t.Pods {
		c.updatePod(name)
	}
	c.dirty.groups = full // who gets a group is touched, and all have got theirs
	c.touchLocals(t)
	for _, namespace := range t.Namespaces {
		c.relabel(namespace)
	}
	for ps := range c.placed {
		if t.Nodes || slices.ContainsFunc(t.Domains, ps.asksName) {
			c.place(ps)
		}
	}
	if t.Listeners {
		c.relisten()
	}
	for number := range c.dirty.locals {
		c.updateSubject(number)
	}
	clear(c.dirty.locals)
	if c.dirty.bounds {
		c.moveBounds()
	}
	c.reclassify()
}

// everything begins anew.
func (c *Compiler) everything() Touched {
	old := c.subjects
	c.reset()
	t := Touched{Tiers: true, Listeners: true}
	for p := range c.w.Policies() {
		t.Policies = append(t.Policies, p.Ref)
	}
	for local := range c.w.Locals() {
		t.Locals = append(t.Locals, local.Number)
		if was := old[local.Number]; was != nil && was.local.Name == local.Name && was.local.UID == local.UID {
			// What was known of a pod that the API has forgotten.
			c.subjects[local.Number] = &subject{local: local, pod: was.pod, labels: was.labels}
		}
	}
	for pod := range c.w.Pods() {
		t.Pods = append(t.Pods, pod.Name)
	}
	return t
}

func (ps *peerSet) asksName(name string) bool {
	return slices.ContainsFunc(ps.terms, func(t term) bool { return slices.Contains(t.Domains, name) })
}

func (c *Compiler) retier() {
	c.tiers = map[string]Tier{}
	for _, t := range c.w.Tiers() {
		c.tiers[t.Name] = t
	}
	for number := range c.subjects {
		c.dirty.locals[number] = struct{}{}
	}
}

func (c *Compiler) updateProgram(ref Ref) {
	old := c.programs[ref]
	if old != nil {
		space := c.inSpace[old.Subject.Namespace]
		if delete(space, old); len(space) == 0 {
			delete(c.inSpace, old.Subject.Namespace)
		}
		delete(c.programs, ref)
	}
	var now *program
	if p := c.w.Policy(ref); p != nil {
		now = prepare(p)
		c.programs[ref] = now
		space := c.inSpace[p.Subject.Namespace]
		if space == nil {
			space = map[*program]struct{}{}
			c.inSpace[p.Subject.Namespace] = space
		}
		space[now] = struct{}{}
	}
	for number, s := range c.subjects {
		if old != nil && c.applies(old, s) || now != nil && c.applies(now, s) {
			c.dirty.locals[number] = struct{}{}
		}
	}
}

// applies reports whether the policy is about the pod; about one that the API does not know yet, whether it may be.
func (c *Compiler) applies(p *program, s *subject) bool {
	if s.pod == nil {
		only := Pods{Namespace: p.Subject.Namespace, Namespaces: p.Subject.Namespaces}
		return only.matches(Labelled{Namespace: s.local.Name.Namespace}, c.w.NamespaceLabels(s.local.Name.Namespace))
	}
	return p.Subject.matches(labelled(s.pod), s.labels)
}

func (c *Compiler) updateLocal(number uint16) {
	old, now := c.subjects[number], c.w.Local(number)
	var was []netip.Addr
	if old != nil {
		was = old.local.Addrs
	}
	maps.DeleteFunc(c.localAddrs, func(_ netip.Addr, s *subject) bool { return s == old && old != nil })
	switch {
	case now == nil && old == nil:
		return
	case now == nil:
		delete(c.subjects, number)
		delete(c.have.pods, number)
		for _, s := range old.sets {
			c.unuse(s)
		}
	case old == nil || old.local.Name != now.Name || old.local.UID != now.UID:
		c.subjects[number] = &subject{local: now}
		if old != nil {
			c.subjects[number].sets = old.sets // until the new ones are known
		}
	default:
		old.local = now
	}
	// The number may have been another pod's in between: what the kernel has for it now is not known.
	c.dirty.locals[number], c.dirty.pods[number], c.unknown[number] = struct{}{}, struct{}{}, struct{}{}
	if now != nil {
		for _, addr := range now.Addrs {
			c.localAddrs[addr] = c.subjects[number]
			c.reown(addr)
		}
	}
	for _, addr := range was {
		c.reown(addr)
	}
}

// touchLocals finds the pods of this node whose sets may be others.
func (c *Compiler) touchLocals(t Touched) {
	if len(t.Pods) == 0 && len(t.Namespaces) == 0 {
		return
	}
	pods, namespaces := asSet(t.Pods), asSet(t.Namespaces)
	for number, s := range c.subjects {
		_, pod := pods[s.local.Name]
		_, namespace := namespaces[s.local.Name.Namespace]
		if pod {
			for _, addr := range s.local.Addrs {
				c.reown(addr)
			}
		}
		if pod || namespace {
			c.dirty.locals[number] = struct{}{}
		}
	}
}

func asSet[K comparable](keys []K) map[K]struct{} {
	all := make(map[K]struct{}, len(keys))
	for _, key := range keys {
		all[key] = struct{}{}
	}
	return all
}

func (c *Compiler) relisten() {
	for _, l := range c.listeners {
		c.dirty.addrs[l.Addr] = struct{}{}
	}
	c.listeners = c.w.Listeners()
	for _, l := range c.listeners {
		c.dirty.addrs[l.Addr] = struct{}{}
	}
}

// updateSubject finds the sets of a pod of this node.
func (c *Compiler) updateSubject(number uint16) {
	s := c.subjects[number]
	if s == nil {
		return
	}
	if pod := s.local.pod(c.w); pod != nil {
		s.pod = pod
	}
	// A namespace that is gone keeps the labels that it had, for what runs there.
	if c.w.HasNamespace(s.local.Name.Namespace) {
		s.labels = c.w.NamespaceLabels(s.local.Name.Namespace)
	}
	old := s.sets
	for d := range s.sets {
		s.sets[d], s.refs[d] = c.setOf(Direction(d), s)
		if s.sets[d] != nil {
			s.sets[d].uses++
		}
	}
	for _, was := range old {
		c.unuse(was)
	}
	c.dirty.pods[number] = struct{}{}
}

func (c *Compiler) setOf(d Direction, s *subject) (*set, []Ref) {
	var programs []*program
	for _, space := range []string{s.local.Name.Namespace, ""} {
		for p := range c.inSpace[space] {
			if p.Applies[d] && c.applies(p, s) {
				programs = append(programs, p)
			}
		}
	}
	if len(programs) == 0 {
		return nil, nil
	}
	c.order(programs)
	refs := make([]Ref, len(programs))
	for i, p := range programs {
		refs[i] = p.Ref
	}
	if s.pod == nil { // nobody can say which: nothing is allowed until somebody can
		return c.intern(d, []setTier{{end: Deny}}), refs
	}
	return c.set(d, s.pod, s.labels, programs), refs
}

// moveBounds makes the boundaries anew, and finds the addresses that are within others.
func (c *Compiler) moveBounds() {
	old := c.bounds
	c.rebound()
	c.dirty.bounds, c.dirty.cidrs = false, true
	for addr := range c.addrs {
		if old.of(addr, c.none) != c.bounds.of(addr, c.none) {
			c.dirty.addrs[addr] = struct{}{}
		}
		c.dirty.plan[addr] = struct{}{}
	}
	for addr := range c.have.leftPeers { // entries that say what was around them, until Prune
		c.dirty.plan[addr] = struct{}{}
	}
}

// Isolating returns the policies that apply to the direction of a pod of this node, in the order in which they are asked.
func (c *Compiler) Isolating(number uint16, d Direction) []Ref {
	if s := c.subjects[number]; s != nil {
		return slices.Clone(s.refs[d])
	}
	return nil
}

// MaySelect reports whether some policy may be about a pod of the namespace.
func (c *Compiler) MaySelect(namespace string) bool {
	for _, space := range []string{namespace, ""} {
		for p := range maps.Keys(c.inSpace[space]) {
			if c.applies(p, &subject{local: &LocalPod{Name: cluster.Name{Namespace: namespace}}}) {
				return true
			}
		}
	}
	return false
}
