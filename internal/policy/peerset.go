package policy

import (
	"net/netip"
	"slices"
	"strings"
)

// A peerSet is the peers of rules: a set of addresses. It lives as long as a set of a local pod uses it.
type peerSet struct {
	serial uint32 // grows, and is never used again
	id     uint64
	key    string
	terms  []term
	// mixed says that some term needs to know who has the address and the address itself. Pods' and nodes' addresses
	// are asked one by one then, and what the boundaries say of them does not count.
	mixed bool
	// placed says that some term has addresses of its own: of nodes or names.
	placed bool
	// bounded says that some term holds for networks.
	bounded bool
	uses    int // by rules of sets
	// asks counts the rules of egress sets that ask these peers for ports by name.
	asks    map[NamedPort]int
	sets    map[*set]struct{}
	classes map[*class]struct{}
}

// A term is a Peer: addresses that satisfy all of its conditions.
type term struct {
	Peer
	places map[netip.Addr]struct{} // nil without Nodes and Domains
}

func (t *term) hasPlaces() bool { return t.Nodes != nil || len(t.Domains) > 0 }

// ofGroups says that the term is decided by who has the address.
func (t *term) ofGroups() bool {
	return t.Pods != nil && len(t.Nets) == 0 && len(t.Except) == 0 && !t.hasPlaces()
}

// ofNets says that the term holds for networks: whoever has an address there, if nobody known has it.
func (t *term) ofNets() bool { return t.Pods == nil && len(t.Nets) > 0 && !t.hasPlaces() }

// ofPlaces says that the term is a list of addresses.
func (t *term) ofPlaces() bool {
	return t.Pods == nil && t.NotPods == nil && len(t.Nets) == 0 && len(t.Except) == 0
}

func (t *term) holdsGroup(g *group, namespaceLabels map[string]string) bool {
	return (t.Pods == nil || g != nil && t.Pods.matches(g.pod, namespaceLabels)) &&
		(t.NotPods == nil || g == nil || !t.NotPods.matches(g.pod, namespaceLabels))
}

// holds asks for everything.
func (t *term) holds(addr netip.Addr, g *group, namespaceLabels map[string]string) bool {
	if !t.holdsGroup(g, namespaceLabels) {
		return false
	}
	within := func(net netip.Prefix) bool { return net.Contains(addr) }
	if len(t.Nets) > 0 && !slices.ContainsFunc(t.Nets, within) || slices.ContainsFunc(t.Except, within) {
		return false
	}
	if t.hasPlaces() {
		_, ok := t.places[addr]
		return ok
	}
	return true
}

// peersKey is the content of a peer-set, empty if nobody is in it.
func peersKey(peers []Peer) string {
	var keys []string
	for i := range peers {
		if !peers[i].nobody() {
			keys = append(keys, peers[i].key())
		}
	}
	slices.Sort(keys)
	return strings.Join(slices.Compact(keys), "\n")
}

// peerSet returns the one with these peers, and makes it if there is none.
func (c *Compiler) peerSet(key string, peers []Peer) *peerSet {
	if ps := c.peerSets[key]; ps != nil {
		return ps
	}
	c.serial++
	ps := &peerSet{
		serial: c.serial, id: c.id([]byte("peers\n" + key)), key: key,
		asks: map[NamedPort]int{}, sets: map[*set]struct{}{}, classes: map[*class]struct{}{},
	}
	for i := range peers {
		if peers[i].nobody() {
			continue
		}
		t := term{Peer: peers[i]}
		ps.mixed = ps.mixed || !t.ofGroups() && !t.ofPlaces() && (!t.ofNets() || t.NotPods != nil)
		ps.placed = ps.placed || t.hasPlaces()
		ps.bounded = ps.bounded || t.ofNets()
		ps.terms = append(ps.terms, t)
	}
	c.peerSets[key], c.bySerial[ps.serial] = ps, ps
	c.dirty.bounds = c.dirty.bounds || ps.bounded
	if ps.placed {
		c.place(ps)
	}
	if ps.mixed {
		c.mixed[ps] = struct{}{}
		c.touchAll()
	}
	c.enrol(ps)
	return ps
}

// drop forgets a peer-set that no set uses.
func (c *Compiler) drop(ps *peerSet) {
	delete(c.peerSets, ps.key)
	delete(c.bySerial, ps.serial)
	c.dirty.bounds = c.dirty.bounds || ps.bounded
	if ps.mixed {
		delete(c.mixed, ps)
		c.touchAll()
	}
	for cl := range ps.classes {
		for addr := range cl.addrs {
			c.dirty.addrs[addr] = struct{}{}
		}
	}
	delete(c.placed, ps)
	for g := range c.allGroups {
		if i, ok := slices.BinarySearch(g.members, ps.serial); ok {
			g.members = slices.Delete(g.members, i, i+1)
		}
	}
}

// enrol makes the groups that a new peer-set holds its members.
func (c *Compiler) enrol(ps *peerSet) {
	if ps.mixed {
		return
	}
	for namespace, groups := range c.groupsIn {
		labels := c.w.NamespaceLabels(namespace)
		if !ps.reaches(namespace, labels) {
			continue
		}
		for g := range groups {
			if ps.holdsGroup(g, labels) {
				g.members = append(g.members, ps.serial) // the highest so far
				c.touchGroup(g)
			}
		}
	}
}

// reaches reports whether pods of the namespace may be in the peer-set.
func (ps *peerSet) reaches(namespace string, labels map[string]string) bool {
	for i := range ps.terms {
		if t := &ps.terms[i]; t.ofGroups() {
			only := Pods{Namespace: t.Pods.Namespace, Namespaces: t.Pods.Namespaces}
			if only.matches(Labelled{Namespace: namespace}, labels) {
				return true
			}
		}
	}
	return false
}

func (ps *peerSet) holdsGroup(g *group, namespaceLabels map[string]string) bool {
	for i := range ps.terms {
		if t := &ps.terms[i]; t.ofGroups() && t.holdsGroup(g, namespaceLabels) {
			return true
		}
	}
	return false
}

// place looks up the addresses of nodes and names anew.
func (c *Compiler) place(ps *peerSet) {
	c.placed[ps] = struct{}{}
	for i := range ps.terms {
		t := &ps.terms[i]
		if !t.hasPlaces() {
			continue
		}
		places := c.places(&t.Peer)
		for addr := range t.places {
			if _, ok := places[addr]; !ok {
				c.dirty.addrs[addr] = struct{}{}
			}
		}
		for addr := range places {
			if _, ok := t.places[addr]; !ok {
				c.dirty.addrs[addr] = struct{}{}
			}
		}
		t.places = places
	}
}

func (c *Compiler) places(p *Peer) map[netip.Addr]struct{} {
	nodes := c.nodeAddrs(p)
	if len(p.Domains) == 0 {
		return nodes
	}
	named := map[netip.Addr]struct{}{}
	for _, name := range p.Domains {
		for _, addr := range c.w.Domain(name) {
			addr = addr.Unmap()
			if _, ok := nodes[addr]; ok || p.Nodes == nil {
				named[addr] = struct{}{}
			}
		}
	}
	return named
}

func (c *Compiler) nodeAddrs(p *Peer) map[netip.Addr]struct{} {
	addrs := map[netip.Addr]struct{}{}
	if p.Nodes == nil {
		return addrs
	}
	for node := range c.w.Nodes() {
		if !p.Nodes.Matches(Labelled{Name: node.Name, Labels: node.Labels}) {
			continue
		}
		for _, addr := range node.Addrs {
			addrs[addr.Unmap()] = struct{}{}
		}
	}
	return addrs
}
