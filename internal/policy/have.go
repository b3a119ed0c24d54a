package policy

import (
	"encoding/binary"
	"maps"
	"net/netip"
	"slices"
)

// A list is the intervals of verdicts. Equal ones are one.
type list struct{ intervals []Interval }

// cells is how many the maps need for it.
func (l *list) cells() int {
	if len(l.intervals) < 2 {
		return 0
	}
	return len(l.intervals)
}

func (c *Compiler) list(intervals []Interval) *list {
	c.scratch = c.scratch[:0]
	for _, i := range intervals {
		lo := i.Lo
		if i.Log {
			lo |= 1 << 31
		}
		c.scratch = binary.LittleEndian.AppendUint32(binary.LittleEndian.AppendUint32(c.scratch, lo), i.Hi)
	}
	if l := c.lists[string(c.scratch)]; l != nil {
		return l
	}
	l := &list{intervals}
	c.lists[string(c.scratch)] = l
	return l
}

// have is what the maps hold.
type have struct {
	verdicts map[VerdictKey]*list
	peers    map[netip.Addr]uint64
	cidrs    map[netip.Prefix]uint64
	pods     map[uint16]PodSets

	nets  nets[uint64]   // cidrs
	inUse map[uint64]int // classes, by peers and cidrs
	lists map[*list]int  // by verdicts
	cells int            // of these, each once
	limbo int            // cells of lists that were in use before the last Grace
	// What nobody wants any more. Each has the class that its addresses are to have without it, or will have it soon.
	leftPeers map[netip.Addr]struct{}
	leftCIDRs map[netip.Prefix]struct{}
}

func newHave() have {
	return have{
		verdicts: map[VerdictKey]*list{}, peers: map[netip.Addr]uint64{}, cidrs: map[netip.Prefix]uint64{}, pods: map[uint16]PodSets{},
		inUse: map[uint64]int{}, lists: map[*list]int{},
		leftPeers: map[netip.Addr]struct{}{}, leftCIDRs: map[netip.Prefix]struct{}{},
	}
}

// verdict is what the kernel finds, nil for nothing.
func (h *have) verdict(set, class uint64) *list {
	if l := h.verdicts[VerdictKey{Set: set, Class: class}]; l != nil {
		return l
	}
	return h.verdicts[VerdictKey{Set: set}]
}

func (h *have) putVerdict(k VerdictKey, l *list) {
	h.deleteVerdict(k)
	h.verdicts[k] = l
	if h.lists[l]++; h.lists[l] == 1 {
		h.cells += l.cells()
	}
}

func (h *have) deleteVerdict(k VerdictKey) {
	l := h.verdicts[k]
	if l == nil {
		return
	}
	delete(h.verdicts, k)
	if h.lists[l]--; h.lists[l] == 0 {
		delete(h.lists, l)
		h.cells -= l.cells()
		h.limbo += l.cells()
	}
}

func (h *have) count(class uint64, by int) {
	if h.inUse[class] += by; h.inUse[class] == 0 {
		delete(h.inUse, class)
	}
}

func (h *have) putPeer(addr netip.Addr, class uint64) {
	h.deletePeer(addr)
	h.peers[addr] = class
	h.count(class, 1)
}

func (h *have) deletePeer(addr netip.Addr) {
	if class, ok := h.peers[addr]; ok {
		delete(h.peers, addr)
		h.count(class, -1)
	}
	delete(h.leftPeers, addr)
}

// putCIDR and deleteCIDR leave nets for reindex.
func (h *have) putCIDR(prefix netip.Prefix, class uint64) {
	h.deleteCIDR(prefix)
	h.cidrs[prefix] = class
	h.count(class, 1)
}

func (h *have) deleteCIDR(prefix netip.Prefix) {
	if class, ok := h.cidrs[prefix]; ok {
		delete(h.cidrs, prefix)
		h.count(class, -1)
	}
	delete(h.leftCIDRs, prefix)
}

func (h *have) reindex() {
	h.nets = nets[uint64]{}
	for _, prefix := range slices.SortedFunc(maps.Keys(h.cidrs), comparePrefixes) {
		h.nets.add(prefix, h.cidrs[prefix])
	}
}

// class is what the kernel finds, and whether for the address alone.
func (h *have) class(addr netip.Addr) (class uint64, exact bool) {
	if class, exact = h.peers[addr]; exact {
		return class, true
	}
	return h.nets.of(addr, 0), false
}

// Adopt begins with what the maps hold, as after a start or a write that failed. The next plan looks at everything.
func (c *Compiler) Adopt(contents Contents) {
	c.have = newHave()
	for key, intervals := range contents.Verdicts {
		c.have.putVerdict(key, c.list(intervals))
	}
	for addr, class := range contents.Peers {
		c.have.putPeer(addr, class)
	}
	for prefix, class := range contents.CIDRs {
		c.have.putCIDR(prefix, class)
	}
	c.have.pods = maps.Clone(contents.Pods)
	if c.have.pods == nil {
		c.have.pods = map[uint16]PodSets{}
	}
	c.have.reindex()
	for _, s := range c.sets {
		s.written = false
	}
	for _, cl := range c.classes {
		cl.written = false
	}
	c.dirty.all, c.dirty.cidrs, c.garbage = true, true, true
}
