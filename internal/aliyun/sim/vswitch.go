package sim

import (
	"net/netip"
	"slices"

	"github.com/nearpath/nearpath/internal/aliyun"
)

// A subnet is a vSwitch with its addresses. Cloud.mu guards the pools.
type subnet struct {
	VSwitch
	pools map[aliyun.Family]*addrPool // of IPv6 only where it is turned on
}

func newSubnet(v VSwitch) *subnet {
	s := &subnet{VSwitch: v, pools: map[aliyun.Family]*addrPool{aliyun.IPv4: newAddrPool(v.ID, v.CIDR, v.MaxAddresses)}}
	if v.IPv6CIDR.IsValid() {
		s.pools[aliyun.IPv6] = newAddrPool(v.ID, v.IPv6CIDR, 0)
	}
	return s
}

// free is how many IPv4 addresses are left.
func (s *subnet) free() int { return s.pools[aliyun.IPv4].free() }

// take gives all of what is wanted or nothing.
func (s *subnet) take(w want) (grant, error) {
	pool := s.pools[w.family]
	if pool == nil {
		if w.slots() == 0 {
			return grant{}, nil
		}
		return grant{}, refuse(codeIPv6Off, "The specified vSwitch %q has IPv6 not turned on.", s.ID)
	}
	if err := pool.takeThese(w.addrs); err != nil {
		return grant{}, err
	}
	g := grant{addrs: slices.Clone(w.addrs)}
	picked, err := pool.take(w.count)
	if err != nil {
		s.release(g)
		return grant{}, err
	}
	g.addrs = append(g.addrs, picked...)
	if g.prefixes, err = pool.takePrefixes(w.prefixes, w.prefixCount); err != nil {
		s.release(g)
		return grant{}, err
	}
	return g, nil
}

// takeAll gives all of what is wanted or nothing.
func (s *subnet) takeAll(wants []want) (grant, error) {
	var all grant
	for _, w := range wants {
		g, err := s.take(w)
		if err != nil {
			s.release(all)
			return grant{}, err
		}
		all.addrs = append(all.addrs, g.addrs...)
		all.prefixes = append(all.prefixes, g.prefixes...)
	}
	return all, nil
}

func (s *subnet) release(g grant) {
	for _, a := range g.all() {
		s.pools[aliyun.FamilyOf(a)].release([]netip.Addr{a})
	}
}

// nets are the vSwitch's networks, IPv4 first.
func (s *subnet) nets() []Net {
	var nets []Net
	for _, f := range []aliyun.Family{aliyun.IPv4, aliyun.IPv6} {
		if p := s.pools[f]; p != nil {
			nets = append(nets, Net{Subnet: p.cidr, Gateway: p.gateway})
		}
	}
	return nets
}

var describeVSwitchesParams = []string{
	"VpcId", "VSwitchId", "VSwitchName", "ZoneId", "Tag.N.Key", "Tag.N.Value", "PageNumber", "PageSize",
}

// describeVSwitches accepts a request that names neither region nor VPC: every request has a region.
func (c *Cloud) describeVSwitches(in input) (object, error) {
	tags, err := in.tags()
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	var found []*subnet
	for _, s := range c.subnets {
		if matches(in, "VSwitchId", s.ID) && matches(in, "VSwitchName", s.ID) && matches(in, "ZoneId", s.ZoneID) &&
			matches(in, "VpcId", s.VPCID) && matchTags(tags, s.Tags) {
			found = append(found, s)
		}
	}
	slices.SortFunc(found, func(a, b *subnet) int { return a.CIDR.Addr().Compare(b.CIDR.Addr()) })
	pg, err := numberedPage(in, len(found), 50)
	if err != nil {
		return nil, err
	}
	if c.cfg.MaxVSwitchPages > 0 && pg.number > c.cfg.MaxVSwitchPages {
		return nil, refuse(codeDeepPage, "Request was denied due to deep paging: page %d.", pg.number)
	}
	items := []object{}
	for _, s := range found[pg.start:pg.end] {
		items = append(items, describeVSwitch(s))
	}
	return pg.describe(object{"VSwitches": object{"VSwitch": items}}), nil
}

// describeVSwitch is a vSwitch as lists of the API show it. The caller holds Cloud.mu.
func describeVSwitch(s *subnet) object {
	return object{
		"VSwitchId": s.ID, "VSwitchName": s.ID, "VpcId": s.VPCID, "ZoneId": s.ZoneID, "Status": "Available",
		"CidrBlock": s.CIDR.String(), "AvailableIpAddressCount": s.free(),
		"Ipv6CidrBlock": v6Text(s.IPv6CIDR), "EnabledIpv6": s.IPv6CIDR.IsValid(),
		"Tags": object{"Tag": describeTags(s.Tags, "Key", "Value")},
	}
}

// matches reports whether a filter parameter is absent or has the value.
func matches(in input, name, value string) bool {
	want := in.text(name)
	return want == "" || want == value
}
