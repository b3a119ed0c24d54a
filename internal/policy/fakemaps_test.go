package policy

import (
	"errors"
	"maps"
	"net/netip"
	"slices"
)

// fakeMaps are maps without a kernel, looked up as it does.
type fakeMaps struct {
	Verdicts    map[VerdictKey][]Interval
	Peers       map[netip.Addr]uint64
	CIDRs       map[netip.Prefix]uint64
	Pods        map[uint16]PodSets
	room        Room
	generations int
	graces      int
	fail        int // how many writes from now on one fails; 0: none
}

func newFakeMaps() *fakeMaps {
	return &fakeMaps{
		Verdicts: map[VerdictKey][]Interval{}, Peers: map[netip.Addr]uint64{}, CIDRs: map[netip.Prefix]uint64{}, Pods: map[uint16]PodSets{},
		room: Room{Verdicts: 1 << 18, Peers: 1 << 17, CIDRs: 1 << 17, Cells: 1 << 18, Pods: 1024},
	}
}

var errInjected = errors.New("injected")

func (m *fakeMaps) write() error {
	if m.fail > 0 {
		if m.fail--; m.fail == 0 {
			return errInjected
		}
	}
	return nil
}

func (m *fakeMaps) PutVerdict(k VerdictKey, l []Interval) error {
	m.Verdicts[k] = slices.Clone(l)
	return m.write()
}

func (m *fakeMaps) DeleteVerdict(k VerdictKey) error { delete(m.Verdicts, k); return m.write() }
func (m *fakeMaps) PutPeer(a netip.Addr, class uint64) error {
	m.Peers[a] = class
	return m.write()
}
func (m *fakeMaps) DeletePeer(a netip.Addr) error { delete(m.Peers, a); return m.write() }
func (m *fakeMaps) PutCIDR(p netip.Prefix, class uint64) error {
	m.CIDRs[p] = class
	return m.write()
}
func (m *fakeMaps) DeleteCIDR(p netip.Prefix) error { delete(m.CIDRs, p); return m.write() }
func (m *fakeMaps) PutPod(n uint16, sets PodSets) error {
	m.Pods[n] = sets
	return m.write()
}
func (m *fakeMaps) Bump() error  { m.generations++; return m.write() }
func (m *fakeMaps) Grace() error { m.graces++; return m.write() }
func (m *fakeMaps) Contents() (Contents, error) {
	c := m.clone()
	return Contents{Verdicts: c.Verdicts, Peers: c.Peers, CIDRs: c.CIDRs, Pods: c.Pods}, nil
}
func (m *fakeMaps) Room() Room { return m.room }

func (m *fakeMaps) clone() *fakeMaps {
	c := *m
	c.Verdicts, c.Peers, c.CIDRs, c.Pods = maps.Clone(m.Verdicts), maps.Clone(m.Peers), maps.Clone(m.CIDRs), maps.Clone(m.Pods)
	return &c
}

// class goes through all networks, as 128 bits with IPv4 mapped into IPv6.
func (m *fakeMaps) class(addr netip.Addr) uint64 {
	if class, ok := m.Peers[addr]; ok {
		return class
	}
	x, best, found := netip.AddrFrom16(addr.As16()), -1, uint64(0)
	for prefix, class := range m.CIDRs {
		long := bits(prefix)
		wide, err := wide(prefix.Addr()).Prefix(long)
		if err != nil {
			panic(err)
		}
		if long > best && samePrefix(wide, x, long) {
			best, found = long, class
		}
	}
	return found
}

func wide(a netip.Addr) netip.Addr { return netip.AddrFrom16(a.As16()) }

// samePrefix compares bits: netip thinks that mapped addresses are in no network of IPv6.
func samePrefix(p netip.Prefix, x netip.Addr, long int) bool {
	a, b := p.Addr().As16(), x.As16()
	for i := range long {
		if (a[i/8]^b[i/8])>>(7-i%8)&1 != 0 {
			return false
		}
	}
	return true
}

// list is what a set says of a class, and whether the set is known.
func (m *fakeMaps) list(set, class uint64) []Interval {
	if l, ok := m.Verdicts[VerdictKey{Set: set, Class: class}]; ok {
		return l
	}
	return m.Verdicts[VerdictKey{Set: set}]
}

// lookup is 0 for no, 1 for yes, 2 for yes and written down.
func lookup(list []Interval, point uint32) int {
	for _, i := range list {
		if i.Lo <= point && point <= i.Hi {
			if i.Log {
				return 2
			}
			return 1
		}
	}
	return 0
}
