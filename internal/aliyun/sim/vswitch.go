package sim

import (
	"encoding/binary"
	"net/netip"
	"slices"
)

// reserved is how many addresses of a vSwitch the cloud keeps: the first, the gateway, and the last two.
const reserved = 4

// A subnet is a vSwitch with its addresses. Cloud.mu guards it.
type subnet struct {
	VSwitch
	gateway netip.Addr
	used    map[netip.Addr]bool
	next    uint32 // offset where the search for a free address starts
}

func newSubnet(v VSwitch) *subnet {
	s := &subnet{VSwitch: v, used: map[netip.Addr]bool{}, next: 1}
	s.gateway = s.at(s.size() - 3)
	return s
}

func (s *subnet) size() uint32 { return 1 << (32 - s.CIDR.Bits()) }

func (s *subnet) free() int { return int(s.size()) - reserved - len(s.used) }

func (s *subnet) at(offset uint32) netip.Addr {
	base := s.CIDR.Addr().As4()
	var a [4]byte
	binary.BigEndian.PutUint32(a[:], binary.BigEndian.Uint32(base[:])+offset)
	return netip.AddrFrom4(a)
}

// assignable reports whether instances may have the address.
func (s *subnet) assignable(a netip.Addr) bool {
	return s.CIDR.Contains(a) && a != s.at(0) && a.Less(s.gateway)
}

// take picks n addresses, going round so that a freed one is not used again at once.
func (s *subnet) take(n int) ([]netip.Addr, error) {
	if n > s.free() {
		return nil, refuse(codeIPNotEnough, "The specified vSwitch %s has %d free addresses, which is not enough for %d.", s.ID, s.free(), n)
	}
	var addrs []netip.Addr
	for len(addrs) < n {
		a := s.at(s.next)
		if s.next++; s.next >= s.size()-3 {
			s.next = 1
		}
		if !s.used[a] {
			s.used[a] = true
			addrs = append(addrs, a)
		}
	}
	return addrs, nil
}

// takeThese takes all of the addresses or none.
func (s *subnet) takeThese(addrs []netip.Addr) error {
	for _, a := range addrs {
		if !s.assignable(a) {
			return refuse(codeIPInvalid, "The address %s is not in the vSwitch %s or is reserved.", a, s.ID)
		}
		if s.used[a] {
			return refuse(codeIPAssigned, "The address %s is in use.", a)
		}
	}
	for _, a := range addrs {
		s.used[a] = true
	}
	return nil
}

func (s *subnet) release(addrs []netip.Addr) {
	for _, a := range addrs {
		delete(s.used, a)
	}
}

var describeVSwitchesParams = []string{"VpcId", "VSwitchId", "ZoneId", "PageNumber", "PageSize"}

func (c *Cloud) describeVSwitches(in input) (object, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	var found []*subnet
	for _, s := range c.subnets {
		if matches(in, "VSwitchId", s.ID) && matches(in, "ZoneId", s.ZoneID) && matches(in, "VpcId", c.cfg.VPCID) {
			found = append(found, s)
		}
	}
	slices.SortFunc(found, func(a, b *subnet) int { return a.CIDR.Addr().Compare(b.CIDR.Addr()) })
	pg, err := numberedPage(in, len(found), 50)
	if err != nil {
		return nil, err
	}
	items := []object{}
	for _, s := range found[pg.start:pg.end] {
		items = append(items, object{
			"VSwitchId": s.ID, "VSwitchName": s.ID, "VpcId": c.cfg.VPCID, "ZoneId": s.ZoneID,
			"CidrBlock": s.CIDR.String(), "AvailableIpAddressCount": s.free(), "Status": "Available",
		})
	}
	return pg.describe(object{"VSwitches": object{"VSwitch": items}}), nil
}

// matches reports whether a filter parameter is absent or has the value.
func matches(in input, name, value string) bool {
	want := in.text(name)
	return want == "" || want == value
}
