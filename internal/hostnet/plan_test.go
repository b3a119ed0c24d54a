package hostnet

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

func text(ops []Op) string {
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
		Uplink: 2,
		Sysctls: map[string]string{
			"net/ipv4/ip_forward": "0", "net/ipv4/conf/eth1/rp_filter": "1", "net/ipv4/conf/eth1/forwarding": "0",
			"net/ipv6/conf/eth1/accept_ra": "1", // no IPv6 forwarding key: a kernel without it
		},
		Loopback: []netip.Prefix{netip.MustParsePrefix("127.0.0.1/8")},
	}
}

func twoENIs() Wanted {
	return Wanted{
		ENIs: []ENI{
			{MAC: "00:16:3e:00:00:03", Slot: 2, Gateway: netip.MustParseAddr("10.2.0.253")},
			{MAC: "00:16:3e:00:00:02", Slot: 1, Gateway: netip.MustParseAddr("10.1.0.253")},
		},
		NodeDNS: netip.MustParseAddr("169.254.20.10"),
	}
}

func TestBuildOnBareNode(t *testing.T) {
	ops, absent := Build(twoENIs(), bareNode())
	want := `sysctl -w net/ipv4/ip_forward=1
ip link set dev eth0 group 28272
sysctl -w net/ipv4/conf/eth1/rp_filter=2
sysctl -w net/ipv4/conf/eth1/forwarding=1
sysctl -w net/ipv6/conf/eth1/accept_ra=0
ip link set dev eth1 group 28272
ip link set dev eth1 mtu 1400
ip link set dev eth1 up
ip route replace default via 10.1.0.253 dev eth1 onlink table 1001 proto 110
ip rule add pref 1500 lookup 254 suppress_prefixlength 0 suppress_ifgroup 28272 proto 110
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
		{Table: 300, Link: 3, Gateway: netip.MustParseAddr("10.7.0.253")}, // not in our range
	}
	wrong := mainRule()
	wrong.SuppressIfGroup = 1
	found.Rules = []Rule{wrong, mainRule(), mainRule(), {Priority: PriorityPod, Table: 1001}}
	ops, _ := Build(twoENIs(), found)
	got := text(ops)
	for _, line := range []string{
		"ip route del default via 10.7.0.253 table 1007 proto 110\n",
		"ip rule del pref 1500 lookup 254 suppress_prefixlength 0 suppress_ifgroup 1 proto 110\n",
		"ip rule del pref 1500 lookup 254 suppress_prefixlength 0 suppress_ifgroup 28272 proto 110\n",
		"ip route replace default via 10.1.0.253 dev eth1",
	} {
		if strings.Count(got, line) != 1 {
			t.Errorf("%q is not there once in:\n%s", line, got)
		}
	}
	for _, line := range []string{"ip rule add", "table 300", "pref 2048", "route del default via 10.1.0.1"} {
		if strings.Contains(got, line) {
			t.Errorf("%q in:\n%s", line, got)
		}
	}
}

// carry makes the changes in the model, as the kernel would.
func carry(found *Found, ops []Op) {
	edit := func(index int, f func(*Link)) {
		for i := range found.Links {
			if found.Links[i].Index == index {
				f(&found.Links[i])
			}
		}
	}
	for _, op := range ops {
		switch o := op.(type) {
		case SetSysctl:
			found.Sysctls[o.Key] = o.Value
		case SetGroup:
			edit(o.Link.Index, func(l *Link) { l.Group = LinkGroup })
		case SetMTU:
			edit(o.Link.Index, func(l *Link) { l.MTU = o.MTU })
		case SetUp:
			edit(o.Link.Index, func(l *Link) { l.Up, l.Running = true, true })
		case SetRoute:
			found.Routes = append(removed(found.Routes, func(r Route) bool { return r.Table == o.Route.Table }), o.Route)
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
		case AddLoopback:
			found.Loopback = append(found.Loopback, o.Addr)
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
		found.Uplink = rapid.IntRange(0, 3).Draw(t, "uplink")
		for range rapid.IntRange(0, 4).Draw(t, "routes") {
			found.Routes = append(found.Routes, Route{
				Table: rapid.IntRange(999, 1004).Draw(t, "table"), Link: rapid.IntRange(1, 4).Draw(t, "link"),
				Gateway: netip.AddrFrom4([4]byte{10, 1, 0, byte(rapid.IntRange(252, 253).Draw(t, "gateway"))}),
			})
		}
		for range rapid.IntRange(0, 3).Draw(t, "rules") {
			r := mainRule()
			r.Priority += rapid.IntRange(0, 1).Draw(t, "priority")
			r.SuppressPrefixLen = rapid.IntRange(-1, 0).Draw(t, "suppress")
			found.Rules = append(found.Rules, r)
		}
		wanted := twoENIs()
		ops, _ := Build(wanted, found)
		carry(&found, ops)
		if again, _ := Build(wanted, found); len(again) != 0 {
			t.Fatalf("after\n%sstill\n%s", text(ops), text(again))
		}
	})
}
