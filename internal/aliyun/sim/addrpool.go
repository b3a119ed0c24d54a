package sim

import (
	"encoding/binary"
	"math"
	"net/netip"

	"github.com/nearpath/nearpath/internal/aliyun"
)

const (
	// reserved is how many addresses of a vSwitch the cloud keeps in each family: the first, the gateway, and the last two.
	reserved = 4
	// delegatedBits is the size of an IPv4 prefix that goes to an ENI as a whole.
	delegatedBits = 28
)

// An addrPool is a vSwitch's addresses of one family. Cloud.mu guards it.
type addrPool struct {
	vSwitch string
	cidr    netip.Prefix
	gateway netip.Addr
	last    uint64 // offset of the last address; a prefix is never shorter than /64
	used    map[netip.Addr]bool
	next    uint64 // offset where the search for a free address starts
	quota   int    // most addresses in use; zero: none
}

func newAddrPool(vSwitch string, cidr netip.Prefix, quota int) *addrPool {
	p := &addrPool{vSwitch: vSwitch, cidr: cidr, used: map[netip.Addr]bool{}, next: 1, quota: quota}
	p.last = math.MaxUint64 >> (64 - (cidr.Addr().BitLen() - cidr.Bits()))
	p.gateway = p.at(p.last - 2)
	return p
}

// at adds an offset to the first address.
func (p *addrPool) at(offset uint64) netip.Addr {
	base := p.cidr.Addr().As16() // an IPv4 address is in the last four bytes
	low := binary.BigEndian.Uint64(base[8:])
	binary.BigEndian.PutUint64(base[8:], low+offset)
	a := netip.AddrFrom16(base)
	if p.cidr.Addr().Is4() {
		return a.Unmap()
	}
	return a
}

// free is how many addresses can be taken; of IPv6 more than anybody counts.
func (p *addrPool) free() int {
	n := p.last + 1 - reserved - uint64(len(p.used)) // last+1 may wrap, and the subtraction wraps it back
	return int(min(n, math.MaxInt32))
}

// assignable reports whether instances may have the address.
func (p *addrPool) assignable(a netip.Addr) bool {
	return p.cidr.Contains(a) && a != p.at(0) && a.Less(p.gateway)
}

// mayTake checks room and quota for n more addresses.
func (p *addrPool) mayTake(n int) error {
	if n > p.free() {
		return refuse(codeIPNotEnough, "The specified vSwitch %s has %d free addresses, which is not enough for %d.", p.vSwitch, p.free(), n)
	}
	if p.quota > 0 && len(p.used)+n > p.quota {
		return refuse(codeAddressQuota, "The quota of %d private addresses of vSwitch %s is exceeded.", p.quota, p.vSwitch)
	}
	return nil
}

// take picks n addresses, going round so that a freed one is not used again at once.
func (p *addrPool) take(n int) ([]netip.Addr, error) {
	if err := p.mayTake(n); err != nil {
		return nil, err
	}
	var addrs []netip.Addr
	for len(addrs) < n {
		a := p.at(p.next)
		if p.next++; p.next >= p.last-2 {
			p.next = 1
		}
		if !p.used[a] {
			p.used[a] = true
			addrs = append(addrs, a)
		}
	}
	return addrs, nil
}

// takeThese takes all of the addresses or none.
func (p *addrPool) takeThese(addrs []netip.Addr) error {
	for _, a := range addrs {
		if !p.assignable(a) {
			return refuse(codeIPInvalid, "The address %s is not in the vSwitch %s or is reserved.", a, p.vSwitch)
		}
		if p.used[a] {
			return refuse(codeIPAssigned, "The address %s is in use.", a)
		}
	}
	if err := p.mayTake(len(addrs)); err != nil {
		return err
	}
	for _, a := range addrs {
		p.used[a] = true
	}
	return nil
}

// takePrefixes takes the named prefixes and finds more, all or none.
func (p *addrPool) takePrefixes(named []netip.Prefix, count int) ([]netip.Prefix, error) {
	var taken []netip.Prefix
	undo := func(err error) ([]netip.Prefix, error) {
		for _, t := range taken {
			p.release(members(t))
		}
		return nil, err
	}
	for _, n := range named {
		if err := p.takeThese(members(n)); err != nil {
			return undo(err)
		}
		taken = append(taken, n)
	}
	for range count {
		n, ok := p.freePrefix()
		if !ok {
			return undo(refuse(codeIPNotEnough, "The specified vSwitch %s has no free /%d prefix.", p.vSwitch, delegatedBits))
		}
		if err := p.takeThese(members(n)); err != nil {
			return undo(err)
		}
		taken = append(taken, n)
	}
	return taken, nil
}

// freePrefix finds the first prefix none of whose addresses is in use or reserved.
func (p *addrPool) freePrefix() (netip.Prefix, bool) {
	const size = 1 << (32 - delegatedBits)
	for offset := uint64(0); offset+size-1 <= p.last; offset += size {
		prefix := netip.PrefixFrom(p.at(offset), delegatedBits)
		free := true
		for _, a := range members(prefix) {
			free = free && p.assignable(a) && !p.used[a]
		}
		if free {
			return prefix, true
		}
	}
	return netip.Prefix{}, false
}

func (p *addrPool) release(addrs []netip.Addr) {
	for _, a := range addrs {
		delete(p.used, a)
	}
}

// members are the addresses of a delegated prefix.
func members(p netip.Prefix) []netip.Addr {
	var addrs []netip.Addr
	for a := p.Masked().Addr(); p.Contains(a); a = a.Next() {
		addrs = append(addrs, a)
	}
	return addrs
}

// A want is what a request asks of one family: addresses or prefixes, each by name or by number.
type want struct {
	family      aliyun.Family
	addrs       []netip.Addr
	count       int
	prefixes    []netip.Prefix
	prefixCount int
}

// slots is what the request counts for in the limits of an ENI: a prefix counts like an address.
func (w want) slots() int { return len(w.addrs) + w.count + len(w.prefixes) + w.prefixCount }

// A grant is what an ENI got from the pools of its vSwitch, of either family.
type grant struct {
	addrs    []netip.Addr
	prefixes []netip.Prefix
}

// all are the addresses with those of the prefixes.
func (g grant) all() []netip.Addr {
	var addrs []netip.Addr
	addrs = append(addrs, g.addrs...)
	for _, p := range g.prefixes {
		addrs = append(addrs, members(p)...)
	}
	return addrs
}
