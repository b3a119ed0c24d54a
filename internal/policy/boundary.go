package policy

import (
	"maps"
	"net/netip"
	"slices"
)

// Boundaries are the networks that peers name and those that are excepted from them, and the class of each: it is that of
// every address whose longest boundary it is, as whether such an address is within a network or an exception is decided by
// whether the boundary is. An address is looked up as the kernel does, but IPv4 and IPv6 apart.
type boundaries = nets[*class]

// An edge is what begins to hold within a boundary.
type edge struct {
	ps     *peerSet
	term   int
	except bool
}

type termKey struct {
	ps   *peerSet
	term int
}

// A walk goes through nested boundaries in order, and knows at each which terms hold.
type walk struct {
	in, out map[termKey]int  // networks and exceptions that contain the boundary
	holds   map[*peerSet]int // terms that hold
	open    []open
}

// An open boundary contains the next one.
type open struct {
	prefix netip.Prefix
	edges  []edge
}

func (w *walk) count(e edge, by int) {
	key := termKey{e.ps, e.term}
	before := w.in[key] > 0 && w.out[key] == 0
	if e.except {
		w.out[key] += by
	} else {
		w.in[key] += by
	}
	after := w.in[key] > 0 && w.out[key] == 0
	switch {
	case after && !before:
		w.holds[e.ps]++
	case before && !after:
		if w.holds[e.ps]--; w.holds[e.ps] == 0 {
			delete(w.holds, e.ps)
		}
	}
}

// leave closes the boundaries that do not contain the next one.
func (w *walk) leave(next netip.Prefix) {
	for n := len(w.open); n > 0 && !contain(w.open[n-1].prefix, next); n = len(w.open) {
		for _, e := range w.open[n-1].edges {
			w.count(e, -1)
		}
		w.open = w.open[:n-1]
	}
}

var (
	ipv4    = netip.PrefixFrom(netip.IPv4Unspecified(), 0)
	mapped4 = netip.MustParseAddr("::ffff:0:0")
)

// rebound makes the boundaries anew.
func (c *Compiler) rebound() {
	old := c.bounds
	edges := c.edges()
	prefixes := slices.SortedFunc(maps.Keys(edges), comparePrefixes)
	w := walk{in: map[termKey]int{}, out: map[termKey]int{}, holds: map[*peerSet]int{}}
	c.bounds = boundaries{}
	shield := false
	for _, prefix := range prefixes {
		shield = shield || prefix.Contains(mapped4)
	}
	if _, ok := edges[ipv4]; shield && !ok {
		prefixes = slices.Insert(prefixes, 0, ipv4) // else what is said of such an IPv6 network would hold for IPv4
	}
	for _, prefix := range prefixes {
		w.leave(prefix)
		for _, e := range edges[prefix] {
			w.count(e, 1)
		}
		cl, above := c.heldBy(&w), c.bounds.within(prefix, c.none)
		if cl != above || prefix == ipv4 && shield {
			c.bounds.add(prefix, cl)
			cl.bounds++
		}
		w.open = append(w.open, open{prefix, edges[prefix]})
	}
	for _, cl := range old.values {
		cl.bounds--
		c.release(cl)
	}
}

// edges says what begins at which boundary.
func (c *Compiler) edges() map[netip.Prefix][]edge {
	edges := map[netip.Prefix][]edge{}
	for _, ps := range c.peerSets {
		if !ps.bounded {
			continue
		}
		for i := range ps.terms {
			t := &ps.terms[i]
			if !t.ofNets() {
				continue
			}
			for _, net := range t.Nets {
				edges[net] = append(edges[net], edge{ps, i, false})
			}
			for _, net := range t.Except {
				edges[net] = append(edges[net], edge{ps, i, true})
			}
		}
	}
	return edges
}

func (c *Compiler) heldBy(w *walk) *class {
	members := c.members[:0]
	for ps := range w.holds {
		members = append(members, ps.serial)
	}
	slices.Sort(members)
	c.members = members
	return c.class(members, nil, nil)
}
