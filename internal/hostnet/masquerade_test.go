package hostnet

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"pgregory.net/rapid"
)

func prefixes(texts ...string) (out []netip.Prefix) {
	for _, s := range texts {
		out = append(out, netip.MustParsePrefix(s))
	}
	return out
}

// settled is a node in the wanted state but for what pods' way out needs, with both families on the uplink.
func settled(wanted Wanted) Found {
	found := bareNode()
	found.Uplinks[IPv6] = []int{2}
	wanted.Egress = Egress{}
	ops, _ := Build(wanted, found)
	carry(&found, ops)
	return found
}

func nodeSNAT() Egress {
	return Egress{
		Mode: EgressNodeSNAT, VPC: prefixes("10.0.0.0/14", "fd00::/16"),
		Services: prefixes("172.21.0.0/20"), Exempt: prefixes("192.168.0.0/16", "10.2.0.0/16"),
	}
}

func TestNodeSNAT(t *testing.T) {
	wanted := twoENIs()
	found := settled(wanted)
	wanted.Egress = nodeSNAT()
	ops, _ := Build(wanted, found)
	want := `ip rule add pref 2000 fwmark 0x1000/0x1000 lookup 254 proto 110
ip -6 rule add pref 2000 fwmark 0x1000/0x1000 lookup 254 proto 110
sysctl -w net/ipv4/conf/eth0/rp_filter=2
nft 'add table inet nearpath; delete table inet nearpath; table inet nearpath {` +
		` set pods4 { type ipv4_addr; flags interval; elements = { 10.1.0.0/24, 10.2.0.0/24 }; };` +
		` set direct4 { type ipv4_addr; flags interval; elements = { 10.0.0.0/14, 172.21.0.0/20, 192.168.0.0/16 }; };` +
		` set pods6 { type ipv6_addr; flags interval; elements = { fd00:1::/64 }; };` +
		` set direct6 { type ipv6_addr; flags interval; elements = { fd00::/16 }; };` +
		` chain outside { type filter hook prerouting priority dstnat + 1;` +
		` iifgroup != 28272 ip saddr @pods4 ip daddr != @direct4 ct direction original meta mark set meta mark | 0x1000;` +
		` iifgroup != 28272 ip6 saddr @pods6 ip6 daddr != @direct6 ct direction original meta mark set meta mark | 0x1000; };` +
		` chain masquerade { type nat hook postrouting priority srcnat;` +
		` meta mark & 0x1000 == 0x1000 oifname "eth0" masquerade fully-random; }; }'
`
	if diff := cmp.Diff(want, text(ops)); diff != "" {
		t.Error(diff)
	}
	carry(&found, ops)
	wanted.Egress = Egress{}
	if ops, _ := Build(wanted, found); len(ops) != 0 {
		t.Errorf("while it is not known what is wanted:\n%s", text(ops))
	}
	wanted.Egress.Mode = EgressNone
	ops, _ = Build(wanted, found)
	if diff := cmp.Diff(`nft delete table inet nearpath
ip rule del pref 2000 fwmark 0x1000/0x1000 lookup 254 proto 110
ip -6 rule del pref 2000 fwmark 0x1000/0x1000 lookup 254 proto 110
`, text(ops)); diff != "" {
		t.Error(diff)
	}
}

// What cannot go by the uplink, or what would take the VPC for the outside, goes by the ENI.
func TestNodeSNATOfOneFamily(t *testing.T) {
	for name, change := range map[string]func(*Wanted, *Found){
		"no uplink":         func(_ *Wanted, f *Found) { delete(f.Uplinks, IPv6) },
		"no VPC CIDR":       func(w *Wanted, _ *Found) { w.Egress.VPC = of(IPv4, w.Egress.VPC) },
		"no pods":           func(w *Wanted, _ *Found) { w.ENIs[1].Nets = w.ENIs[1].Nets[:1] },
		"not in the kernel": func(_ *Wanted, f *Found) { f.Families = []Family{IPv4} },
	} {
		wanted := twoENIs()
		found := settled(wanted)
		wanted.Egress = nodeSNAT()
		change(&wanted, &found)
		nat, needed := found.masquerade(wanted)
		if diff := cmp.Diff([]Family{IPv4}, nat.families()); !needed || diff != "" {
			t.Errorf("%s: families: %s", name, diff)
		}
		if len(of(IPv6, nat.Direct)) != 0 {
			t.Errorf("%s: direct: %v", name, nat.Direct)
		}
	}
}

// While a default route is away, as in a restart of the DHCP client, the NAT stays.
func TestNodeSNATKeepsItsUplinks(t *testing.T) {
	for name, families := range map[string][]Family{"both": {IPv4, IPv6}, "IPv6": {IPv6}} {
		wanted := twoENIs()
		found := settled(wanted)
		wanted.Egress = nodeSNAT()
		steps, _ := Build(wanted, found)
		carry(&found, steps)
		for _, f := range families {
			delete(found.Uplinks, f)
		}
		if steps, _ := Build(wanted, found); len(steps) != 0 {
			t.Errorf("%s away:\n%s", name, text(steps))
		}
	}
}

func TestNodeSNATBySeveralUplinks(t *testing.T) {
	wanted := twoENIs()
	found := settled(wanted)
	found.Links = append(found.Links, Link{Index: 4, Name: "bond0", Up: true, Running: true})
	found.Uplinks[IPv4] = []int{2, 4}
	wanted.Egress = nodeSNAT()
	steps, _ := Build(wanted, found)
	if nat, _ := found.masquerade(wanted); !slices.Equal(nat.Uplinks, []string{"bond0", "eth0"}) {
		t.Errorf("masquerades on %v", nat.Uplinks)
	}
	if !strings.Contains(text(steps), "ip link set dev bond0 group 28272\n") {
		t.Errorf("an uplink has no group:\n%s", text(steps))
	}
}

func TestEgressCheck(t *testing.T) {
	for want, e := range map[string]Egress{
		"":             nodeSNAT(),
		"no VPC CIDR":  {Mode: EgressNodeSNAT},
		`mode "snat"`:  {Mode: "snat"},
		"10.1.0.0/16":  {VPC: []netip.Prefix{netip.MustParsePrefix("10.1.2.3/16")}},
		"Service CIDR": {Services: make([]netip.Prefix, 1)},
	} {
		err := e.Check()
		if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("want %q: %v", want, err)
		}
	}
}

func drawPrefixes(t *rapid.T, name string) []netip.Prefix {
	prefix := rapid.Custom(func(t *rapid.T) netip.Prefix {
		raw := rapid.SliceOfN(rapid.Byte(), 16, 16).Draw(t, "address")
		if rapid.Bool().Draw(t, "IPv4") {
			raw = raw[:4]
		}
		addr, _ := netip.AddrFromSlice(raw)
		return netip.PrefixFrom(addr, rapid.IntRange(0, addr.BitLen()).Draw(t, "bits")).Masked()
	})
	return disjoint(rapid.SliceOfN(prefix, 0, 8).Draw(t, name))
}

// What the kernel says of a table that SetNAT made is understood as the NAT that it was made for, in whatever order the
// kernel lists it; and every change to it shows.
func TestNATFromObjects(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := NAT{Uplinks: []string{"eth0"}, Pods: drawPrefixes(t, "pods")}
		for _, f := range n.families() {
			n.Direct = append(n.Direct, of(f, drawPrefixes(t, "direct"))...)
		}
		if rapid.Bool().Draw(t, "second uplink") {
			n.Uplinks = append(n.Uplinks, "a-name-of-15-chr")
		}
		if len(n.Pods) == 0 {
			return
		}
		o := n.objects()
		for i := range o.sets {
			o.sets[i].elements = rapid.Permutation(o.sets[i].elements).Draw(t, "elements")
		}
		o.sets = rapid.Permutation(o.sets).Draw(t, "sets")
		if got := natFrom(o); !got.equal(n) {
			t.Fatalf("got %s\nwant %s", got, n)
		}
		spoil(t, &o)
		if got := natFrom(o); got.equal(n) {
			t.Fatal("a changed table looks as it was made")
		}
	})
}

// spoil changes the table as somebody with nft may.
func spoil(t *rapid.T, o *natObjects) {
	accept := &nftables.Rule{Chain: o.chains[0], Exprs: []expr.Any{&expr.Verdict{Kind: expr.VerdictAccept}}}
	changes := map[string]func(){
		"flush chains":   func() { o.rules = nil },
		"delete a rule":  func() { o.rules = o.rules[1:] },
		"add a rule":     func() { o.rules = append(o.rules, accept) },
		"insert a rule":  func() { o.rules = append([]*nftables.Rule{accept}, o.rules...) },
		"delete a chain": func() { o.chains = o.chains[1:] },
		"add a chain":    func() { o.chains = append(o.chains, &nftables.Chain{Name: "foreign", Table: ourTable()}) },
		"flush a set":    func() { o.sets[0].elements = append(intervals(prefixes("203.0.113.0/24")), o.sets[0].elements...) },
		"add a set":      func() { o.sets = append(o.sets, natSet{Set: &nftables.Set{Name: "foreign"}}) },
		"other policy":   func() { drop := nftables.ChainPolicyDrop; o.chains[0].Policy = &drop },
		"other bits":     func() { o.rules[0].Exprs[len(o.rules[0].Exprs)-2] = markBits(0, 1) },
	}
	names := []string{"flush chains", "delete a rule", "add a rule", "insert a rule", "delete a chain", "add a chain", "flush a set", "add a set", "other policy", "other bits"}
	changes[rapid.SampledFrom(names).Draw(t, "change")]()
}

func TestAfter(t *testing.T) {
	for p, want := range map[string]string{
		"10.0.0.0/8": "11.0.0.0", "10.0.0.1/32": "10.0.0.2", "10.0.0.0/31": "10.0.0.2", "0.0.0.0/0": "invalid IP",
		"255.255.255.255/32": "invalid IP", "fd00::/16": "fd01::", "ffff::/16": "invalid IP",
	} {
		if got := after(netip.MustParsePrefix(p)).String(); got != want {
			t.Errorf("after %s: %s, want %s", p, got, want)
		}
	}
}
