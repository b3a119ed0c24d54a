package policy

import (
	"cmp"
	"net/netip"
	"slices"
)

// Nets finds the longest network with an address, as the kernel's trie does, but IPv4 and IPv6 apart.
type nets[V any] struct {
	prefixes []netip.Prefix // by address, then from short to long
	values   []V
	parents  []int32 // of each the longest one that contains it, -1 for none
}

// add is called in the order of comparePrefixes.
func (n *nets[V]) add(prefix netip.Prefix, value V) {
	parent := int32(len(n.prefixes)) - 1
	for parent >= 0 && !contain(n.prefixes[parent], prefix) {
		parent = n.parents[parent]
	}
	n.prefixes, n.values, n.parents = append(n.prefixes, prefix), append(n.values, value), append(n.parents, parent)
}

// find returns where the longest one is that contains the prefix, or is it, -1 for none.
func (n *nets[V]) find(prefix netip.Prefix) int32 {
	at, found := slices.BinarySearchFunc(n.prefixes, prefix, comparePrefixes)
	if found {
		return int32(at)
	}
	i := int32(at) - 1
	for i >= 0 && !contain(n.prefixes[i], prefix) {
		i = n.parents[i]
	}
	return i
}

// of returns the value for an address, or the other one.
func (n *nets[V]) of(addr netip.Addr, none V) V { return n.within(host(addr), none) }

func (n *nets[V]) within(prefix netip.Prefix, none V) V {
	if i := n.find(prefix); i >= 0 {
		return n.values[i]
	}
	return none
}

func host(addr netip.Addr) netip.Prefix { return netip.PrefixFrom(addr, addr.BitLen()) }

// Bits counts those of IPv4 as mapped into IPv6.
func bits(p netip.Prefix) int {
	if p.Addr().Is4() {
		return p.Bits() + 96
	}
	return p.Bits()
}

func comparePrefixes(a, b netip.Prefix) int {
	return cmp.Or(a.Addr().Compare(b.Addr()), cmp.Compare(a.Bits(), b.Bits()))
}

func contain(outer, inner netip.Prefix) bool {
	return outer.Bits() <= inner.Bits() && outer.Contains(inner.Addr())
}
