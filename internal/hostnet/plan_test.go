package hostnet

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

func text(ops []Step) string {
	var b strings.Builder
	for _, op := range ops {
		b.WriteString(op.String() + "\n")
	}
	return b.String()
}

func bareNode() Found {
	return Found{
		Links: []Link{
			{Index: 1, Name: "lo", MTU: 65536, Up: true, Running: true},
			{Index: 2, Name: "eth0", MAC: "00:16:3e:00:00:01", MTU: 1400, Up: true, Running: true},
			{Index: 3, Name: "eth1", MAC: "00:16:3e:00:00:02", MTU: 1500},
		},
		Families: []Family{IPv4, IPv6}, Uplinks: map[Family][]int{IPv4: {2}},
		Sysctls: map[string]string{
			"net/ipv4/ip_forward": "0", "net/ipv4/conf/eth1/rp_filter": "1", "net/ipv4/conf/eth1/forwarding": "0",
			"net/ipv4/conf/all/rp_filter": "0", "net/ipv4/conf/eth0/rp_filter": "1",
			"net/ipv6/conf/all/forwarding": "0", "net/ipv6/conf/eth0/accept_ra": "1", "net/ipv6/conf/eth1/disable_ipv6": "1",
			"net/ipv6/conf/eth1/accept_ra": "1", // no IPv6 forwarding key of the link: not every kernel has it
		},
		Loopback: []netip.Prefix{netip.MustParsePrefix("127.0.0.1/8")}, Addrs: map[int][]netip.Prefix{},
	}
}

// network is a gateway's subnet.
func network(gateway string) Net {
	p := netip.MustParsePrefix(gateway)
	return Net{p.Masked(), p.Addr()}
}

func twoENIs() Wanted {
	return Wanted{
		ENIs: []ENI{
			{MAC: "00:16:3e:00:00:03", Slot: 2, Nets: []Net{network("10.2.0.253/24")}},
			{MAC: "00:16:3e:00:00:02", Slot: 1, Nets: []Net{network("10.1.0.253/24"), network("fd00:1::253/64")}},
		},
		NodeDNS: []netip.Addr{netip.MustParseAddr("169.254.20.10")},
	}
}

func TestBuildOnBareNode(t *testing.T) {
	ops, absent := Build(twoENIs(), bareNode())
	want := `sysctl -w net/ipv4/ip_forward=1
sysctl -w net/ipv6/conf/eth0/accept_ra=2
sysctl -w net/ipv6/conf/all/forwarding=1
ip link set dev eth0 group 28272
sysctl -w net/ipv4/conf/eth1/rp_filter=2
sysctl -w net/ipv4/conf/eth1/forwarding=1
sysctl -w net/ipv6/conf/eth1/accept_ra=0
sysctl -w net/ipv6/conf/eth1/disable_ipv6=0
ip link set dev eth1 group 28272
ip link set dev eth1 mtu 1400
ip address add 169.254.1.1/32 dev eth1 scope link nodad
ip link set dev eth1 up
ip route replace default via 10.1.0.253 dev eth1 onlink table 1001 proto 110
ip -6 route replace default via fd00:1::253 dev eth1 onlink table 1001 proto 110
ip rule add pref 2048 fwmark 0x801/0x8ff lookup 1001 proto 110
ip -6 rule add pref 2048 fwmark 0x801/0x8ff lookup 1001 proto 110
ip rule add pref 2048 fwmark 0x802/0x8ff lookup 1002 proto 110
ip rule add pref 1500 lookup 254 suppress_prefixlength 0 suppress_ifgroup 28272 proto 110
ip -6 rule add pref 1500 lookup 254 suppress_prefixlength 0 suppress_ifgroup 28272 proto 110
ip address add 169.254.20.10/32 dev lo scope host
`
	if diff := cmp.Diff(want, text(ops)); diff != "" {
		t.Error(diff)
	}
	// One link is not there, the other not up.
	if len(absent) != 2 {
		t.Errorf("absent: %v", absent)
	}
	found := bareNode()
	found.Links[2].Up, found.Links[2].Running = true, true
	if _, absent := Build(twoENIs(), found); len(absent) != 1 || absent[0].Slot != 2 {
		t.Errorf("absent, with one link running: %v", absent)
	}
}

func TestBuildReplacesWhatIsNotWanted(t *testing.T) {
	found := bareNode()
	found.Routes = []Route{
		{Table: 1001, Link: 9, Gateway: netip.MustParseAddr("10.1.0.1")}, // replaced
		{Table: 1007, Link: 3, Gateway: netip.MustParseAddr("10.7.0.253")},
		{Table: 1002, Link: 3, Gateway: netip.MustParseAddr("fd00:2::1")}, // a family that the ENI does not have
		{Table: 300, Link: 3, Gateway: netip.MustParseAddr("10.7.0.253")}, // not in our range
	}
	wrong := mainRule(IPv4)
	wrong.SuppressIfGroup = 1
	found.Rules = []Rule{wrong, mainRule(IPv4), mainRule(IPv4), mainRule(IPv6), podRule(IPv4, 1), podRule(IPv4, 7)}
	ops, _ := Build(twoENIs(), found)
	got := text(ops)
	for _, line := range []string{
		"ip route del default via 10.7.0.253 table 1007 proto 110\n",
		"ip -6 route del default via fd00:2::1 table 1002 proto 110\n",
		"ip rule del pref 1500 lookup 254 suppress_prefixlength 0 suppress_ifgroup 1 proto 110\n",
		"ip rule del pref 1500 lookup 254 suppress_prefixlength 0 suppress_ifgroup 28272 proto 110\n",
		"ip route replace default via 10.1.0.253 dev eth1",
		"ip rule del pref 2048 fwmark 0x807/0x8ff lookup 1007 proto 110\n",
	} {
		if strings.Count(got, line) != 1 {
			t.Errorf("%q is not there once in:\n%s", line, got)
		}
	}
	for _, line := range []string{"ip rule add pref 1500 ", "table 300", "ip rule add pref 2048 fwmark 0x801", "route del default via 10.1.0.1"} {
		if strings.Contains(got, line) {
			t.Errorf("%q in:\n%s", line, got)
		}
	}
}

// A link that is an uplink or ENI no more leaves the group, if that can be told.
func TestBuildUngroupsFormerUplinks(t *testing.T) {
	for name, tt := range map[string]struct {
		uplinks []int
		group   int
		want    bool
	}{
		"former":          {[]int{2}, LinkGroup, true},
		"uplink":          {[]int{2, 4}, LinkGroup, false},
		"other group":     {[]int{2}, 7, false},
		"no uplink known": {nil, LinkGroup, false},
	} {
		found := bareNode()
		found.Links = append(found.Links, Link{Index: 4, Name: "eth3", MAC: "00:16:3e:00:00:09", Group: tt.group})
		found.Links[2].Group = LinkGroup // an ENI
		found.Uplinks = map[Family][]int{IPv4: tt.uplinks}
		steps, _ := Build(twoENIs(), found)
		if got := strings.Contains(text(steps), "ip link set dev eth3 group 0\n"); got != tt.want {
			t.Errorf("%s:\n%s", name, text(steps))
		}
		if strings.Contains(text(steps), "dev eth1 group 0") {
			t.Errorf("%s: the ENI is taken out:\n%s", name, text(steps))
		}
	}
}

// Programs of an earlier process, which nobody can see, are taken off what leaves the group and what is an ENI now; and
// none is put on what has no Ethernet header.
func TestBuildDetachesWhatMayBeThere(t *testing.T) {
	found := bareNode()
	found.Attached = map[Attachment]bool{}
	found.Links = append(found.Links, Link{Index: 4, Name: "eth3", MAC: "00:16:3e:00:00:09", Group: LinkGroup},
		Link{Index: 5, Name: "eth4", MAC: "00:16:3e:00:00:0a"}, Link{Index: 6, Name: "wg0", Kind: "wireguard"})
	found.Uplinks[IPv4] = []int{6, 2}
	found.ENIDefaults = []MainRoute{{Family: IPv4, Link: 5, Priority: 5}}
	wanted := twoENIs()
	wanted.Known = []string{"00:16:3e:00:00:0a", "00:16:3e:00:00:02"}
	steps, _ := Build(wanted, found)
	for _, line := range []string{
		"detach program uplink from dev eth3\n", "detach program ipvlan-parent from dev eth3\n", "detach program uplink from dev eth1\n",
		"detach program uplink from dev eth4\n", "detach program uplink from dev wg0\n", "attach program uplink to dev eth0\n",
		"ip route del default dev eth4 metric 5 proto 0\n",
	} {
		if strings.Count(text(steps), line) != 1 {
			t.Errorf("%q is not there once in:\n%s", line, text(steps))
		}
	}
	for _, line := range []string{"attach program uplink to dev wg0", "eth4 group", "dev eth4 up"} {
		if strings.Contains(text(steps), line) {
			t.Errorf("%q in:\n%s", line, text(steps))
		}
	}
	carry(&found, steps)
	if again, _ := Build(wanted, found); len(again) > 0 {
		t.Errorf("still\n%s", text(again))
	}
}

// carry makes the changes in the model, as the kernel would.
func carry(found *Found, ops []Step) {
	edit := func(index int, f func(*Link)) {
		for i := range found.Links {
			if found.Links[i].Index == index {
				f(&found.Links[i])
			}
		}
	}
	for _, op := range ops {
		switch o := op.Op.(type) {
		case SetSysctl:
			found.Sysctls[o.Key] = o.Value
		case SetGroup:
			edit(o.Link.Index, func(l *Link) { l.Group = o.Group })
		case SetMTU:
			edit(o.Link.Index, func(l *Link) { l.MTU = o.MTU })
		case SetUp:
			edit(o.Link.Index, func(l *Link) { l.Up, l.Running, l.NoARP = true, true, false })
		case SetRoute:
			found.Routes = append(removed(found.Routes, func(r Route) bool {
				return r.Table == o.Route.Table && familyOf(r.Gateway) == familyOf(o.Route.Gateway)
			}), o.Route)
		case DeleteRoute:
			found.Routes = removed(found.Routes, func(r Route) bool { return r == o.Route })
		case AddRule:
			found.Rules = append(found.Rules, o.Rule)
		case DeleteRule:
			for i, r := range found.Rules {
				if r == o.Rule {
					found.Rules = append(found.Rules[:i:i], found.Rules[i+1:]...)
					break
				}
			}
		case AddCompanion:
			found.Links = append(found.Links, Link{Index: 100 + len(found.Links), Name: o.Name, Kind: kindIPVlan, Parent: o.Parent.Index, MTU: 1500, MAC: o.Parent.MAC})
		case DeleteLink:
			found.Links = slices.DeleteFunc(found.Links, func(l Link) bool { return l.Index == o.Link.Index })
		case SetIPVlanPort:
			edit(o.Link.Index, func(l *Link) { l.IPVlan, l.NoARP = o.Port, false })
		case SetNoARP:
			edit(o.Link.Index, func(l *Link) { l.NoARP = true })
		case Attach:
			found.Attached[o.Attachment] = true
			delete(found.Detached, o.Attachment)
		case Detach:
			delete(found.Attached, o.Attachment)
			if found.Detached == nil {
				found.Detached = map[Attachment]bool{}
			}
			found.Detached[o.Attachment] = true
		case SetNode:
			found.Node = &o
		case DeleteMainRoute:
			found.ENIDefaults = slices.DeleteFunc(found.ENIDefaults, func(r MainRoute) bool { return r == o.Route })
		case AddAddr:
			found.Addrs[o.Link.Index] = append(found.Addrs[o.Link.Index], o.Addr)
		case DeleteAddr:
			found.Addrs[o.Link.Index] = slices.DeleteFunc(found.Addrs[o.Link.Index], func(p netip.Prefix) bool { return p == o.Addr })
		case AddLoopback:
			found.Loopback = append(found.Loopback, o.Addr)
		case SetNAT:
			found.NAT = &o.NAT
		case DeleteNAT:
			found.NAT = nil
		}
	}
}

func removed(routes []Route, which func(Route) bool) []Route {
	var kept []Route
	for _, r := range routes {
		if !which(r) {
			kept = append(kept, r)
		}
	}
	return kept
}

// Whatever the kernel's state, after one round there is nothing more to do.
func TestBuildConverges(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		found := bareNode()
		for i := range found.Links {
			l := &found.Links[i]
			l.Up, l.MTU = rapid.Bool().Draw(t, "up"), rapid.IntRange(1300, 1501).Draw(t, "mtu")
			l.Group = rapid.SampledFrom([]int{0, 1, LinkGroup}).Draw(t, "group")
		}
		for _, f := range found.Families {
			found.Uplinks[f] = rapid.SliceOfNDistinct(rapid.IntRange(1, 2), 0, 2, rapid.ID).Draw(t, "uplinks")
		}
		for range rapid.IntRange(0, 4).Draw(t, "routes") {
			found.Routes = append(found.Routes, Route{
				Table: rapid.IntRange(999, 1004).Draw(t, "table"), Link: rapid.IntRange(1, 4).Draw(t, "link"),
				Gateway: netip.MustParseAddr(rapid.SampledFrom([]string{"10.1.0.252", "10.1.0.253", "fd00:1::253"}).Draw(t, "gateway")),
			})
		}
		for range rapid.IntRange(0, 3).Draw(t, "rules") {
			family := rapid.SampledFrom(found.Families).Draw(t, "family")
			r := rapid.SampledFrom([]Rule{mainRule(family), outsideRule(family)}).Draw(t, "rule")
			r.Priority += rapid.IntRange(0, 1).Draw(t, "priority")
			r.SuppressPrefixLen = rapid.IntRange(-1, 0).Draw(t, "suppress")
			found.Rules = append(found.Rules, r)
		}
		found.NAT = rapid.SampledFrom([]*NAT{nil, {}, {Uplinks: []string{"eth0"}, Pods: prefixes("10.1.0.0/24")}, {Uplinks: []string{"eth1", "gone"}, Pods: prefixes("fd00:1::/64")}}).Draw(t, "nat")
		wanted := twoENIs()
		wanted.Egress = Egress{
			Mode: rapid.SampledFrom([]EgressMode{"", EgressNone, EgressNodeSNAT}).Draw(t, "egress"),
			VPC:  rapid.SliceOf(rapid.SampledFrom(prefixes("10.0.0.0/8", "fd00::/16"))).Draw(t, "VPC"),
		}
		if rapid.Bool().Draw(t, "parent") {
			wanted.Parents = []string{"00:16:3e:00:00:02"}
		}
		if rapid.Bool().Draw(t, "companion") {
			found.Links = append(found.Links, Link{
				Index: 5, Name: rapid.SampledFrom([]string{"npc1", "npc2", "npc9"}).Draw(t, "name"), Kind: kindIPVlan, MTU: 1500,
				Parent: rapid.IntRange(2, 3).Draw(t, "below"), IPVlan: IPVlanPort{Mode: IPVlanMode(rapid.IntRange(0, 2).Draw(t, "mode"))},
			})
		}
		if rapid.Bool().Draw(t, "programs") {
			found.Attached = map[Attachment]bool{{RoleIPVlanParent, 3}: true, {RoleUplink, 2}: rapid.Bool().Draw(t, "attached")}
		}
		found.Addrs[2] = rapid.SliceOfNDistinct(rapid.SampledFrom(prefixes("10.0.0.2/24", "10.0.0.3/24", "fd00::2/64")), 0, 3, rapid.ID).Draw(t, "addresses")
		found.Addrs[3] = rapid.SliceOfNDistinct(rapid.SampledFrom(prefixes("10.0.0.2/32", "10.0.0.9/32", "169.254.1.1/32")), 0, 3, rapid.ID).Draw(t, "ENI's addresses")
		found.ENIDefaults = []MainRoute{{Family: IPv4, Link: 3, Priority: 5}}
		if rapid.Bool().Draw(t, "known") {
			wanted.Known = []string{"00:16:3e:00:00:02", "00:16:3e:00:00:09", ""}
		}
		ops, _ := Build(wanted, found)
		carry(&found, ops)
		if slices.ContainsFunc(ops, func(s Step) bool { _, adds := s.Op.(AddCompanion); return adds }) {
			ops, _ = Build(wanted, found)
			carry(&found, ops)
		}
		if again, _ := Build(wanted, found); len(again) > 0 {
			t.Fatalf("after\n%sstill\n%s", text(ops), text(again))
		}
	})
}

func TestENICheck(t *testing.T) {
	good := network("10.1.0.253/24")
	for want, e := range map[string]ENI{
		"":         {Slot: 255, Nets: []Net{good, network("fd00::1/64")}},
		"slot 0":   {Nets: []Net{good}},
		"slot 256": {Slot: 256, Nets: []Net{good}},
		"invalid":  {Slot: 1, Nets: []Net{{Subnet: good.Subnet}}},
		"one fam":  {Slot: 1, Nets: []Net{{Subnet: good.Subnet, Gateway: netip.MustParseAddr("fd00::1")}}},
	} {
		err := e.Check()
		if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("want %q: %v", want, err)
		}
	}
}
