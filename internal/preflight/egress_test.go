package preflight

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/nearpath/nearpath/internal/aliyun"
)

func TestEgress(t *testing.T) {
	t.Parallel()
	dflt := prefix("0.0.0.0/0")
	route := func(kind, id, status string) aliyun.Route {
		return aliyun.Route{Destination: dflt, NextHopType: kind, NextHopID: id, Status: status}
	}
	table := func(kind string, routes ...aliyun.Route) aliyun.RouteTable {
		return aliyun.RouteTable{ID: "vtb-own", Type: kind, VSwitchIDs: []string{"vsw-a"}, Routes: routes}
	}
	for name, tc := range map[string]struct {
		change func(*Facts)
		result string
		text   string // somewhere in the finding
	}{
		"healthy": {func(*Facts) {}, ResultReady, "default route of vtb-system goes to ngw-1; SNAT entry snat-a"},
		"custom table without a route": {func(f *Facts) {
			f.Routes.Value = append(f.Routes.Value, table(aliyun.RouteTableCustom))
		}, ResultNoRoute, "to route table vtb-own"},
		"custom table with a route": {func(f *Facts) {
			f.Routes.Value[0].Routes = nil
			f.Routes.Value = append(f.Routes.Value, table(aliyun.RouteTableCustom, route(aliyun.NextHopNATGateway, "ngw-1", "Available")))
		}, ResultReady, "vtb-own goes to ngw-1"},
		"system table that names the vSwitch too": {func(f *Facts) {
			f.Routes.Value[0].VSwitchIDs = []string{"vsw-a"}
			f.Routes.Value = append(f.Routes.Value, table(aliyun.RouteTableCustom))
		}, ResultNoRoute, "to route table vtb-own"},
		"table named by the vSwitch": {func(f *Facts) {
			own := table(aliyun.RouteTableCustom)
			own.VSwitchIDs = nil
			f.Routes.Value = append(f.Routes.Value, own)
			f.VSwitches.Value[0].RouteTableID = own.ID
		}, ResultNoRoute, "vtb-own has no IPv4 default route"},
		"custom table of another vSwitch": {func(f *Facts) {
			own := table(aliyun.RouteTableCustom)
			own.VSwitchIDs = []string{"vsw-b"}
			f.Routes.Value = append(f.Routes.Value, own)
		}, ResultReady, "vtb-system"},
		"only an IPv6 default route": {func(f *Facts) {
			f.Routes.Value[0].Routes = []aliyun.Route{{Destination: prefix("::/0"), NextHopType: "IPv6Gateway", NextHopID: "ipv6gw-1", Status: "Available"}}
		}, ResultNoRoute, "no IPv4 default route"},
		"route not available": {func(f *Facts) {
			f.Routes.Value[0].Routes = []aliyun.Route{route(aliyun.NextHopNATGateway, "ngw-1", "Modifying")}
		}, ResultNoRoute, "NatGateway ngw-1 is Modifying"},
		"route to a transit router": {func(f *Facts) {
			f.Routes.Value[0].Routes = []aliyun.Route{route("Attachment", "tr-attach-1", "Available")}
		}, ResultUnknown, "goes to Attachment tr-attach-1"},
		"no tables at all":       {func(f *Facts) { f.Routes.Value = nil }, ResultUnknown, "none is bound"},
		"routes forbidden":       {func(f *Facts) { f.Routes = Known[[]aliyun.RouteTable]{Reason: "Forbidden.RAM"} }, ResultUnknown, "vpc:DescribeRouteTableList"},
		"SNAT entries forbidden": {func(f *Facts) { f.SNAT = Known[[]aliyun.SNATEntry]{Reason: "Forbidden.RAM"} }, ResultUnknown, "Forbidden.RAM"},
		"vSwitches forbidden": {func(f *Facts) {
			f.VSwitches, f.Query.VSwitches = Known[[]aliyun.VSwitch]{Reason: "no"}, []string{"vsw-a"}
		}, ResultUnknown, "no"},
		"nothing was asked": {func(f *Facts) { f.SNAT = Known[[]aliyun.SNATEntry]{} }, ResultUnknown, "was not read"},
		"no entry":          {func(f *Facts) { f.SNAT.Value = f.SNAT.Value[1:] }, ResultNoSNATEntry, "add an SNAT entry for vSwitch vsw-a (10.0.0.0/20) to NAT gateway ngw-1"},
		"entry for everything": {func(f *Facts) {
			f.SNAT.Value[0].VSwitchID, f.SNAT.Value[0].SourceCIDR = "", dflt
		}, ResultReady, "snat-a"},
		"entry for half": {func(f *Facts) {
			f.SNAT.Value[0].VSwitchID, f.SNAT.Value[0].SourceCIDR = "", prefix("10.0.0.0/21")
		}, ResultNoSNATEntry, "snat-a is for a part of vSwitch vsw-a"},
		"entries for both halves": {func(f *Facts) {
			f.SNAT.Value[0].VSwitchID, f.SNAT.Value[0].SourceCIDR = "", prefix("10.0.0.0/21")
			other := f.SNAT.Value[0]
			other.ID, other.SourceCIDR = "snat-b", prefix("10.0.8.0/21")
			f.SNAT.Value = append(f.SNAT.Value, other)
		}, ResultReady, "snat-a, snat-b"},
		"entry for another vSwitch of the same CIDR": {func(f *Facts) { f.SNAT.Value[0].VSwitchID = "vsw-other" }, ResultNoSNATEntry, "ngw-1 has no SNAT entry"},
		"entry pending":            {func(f *Facts) { f.SNAT.Value[0].Status = "Pending" }, ResultSNATNotAvailable, "snat-a is Pending"},
		"entry on another gateway": {func(f *Facts) { f.SNAT.Value[0].NATGatewayID = "ngw-2" }, ResultNoSNATEntry, "on another NAT gateway than ngw-1"},
		"two gateways, entries on one": {func(f *Facts) {
			f.Routes.Value[0].Routes = append(f.Routes.Value[0].Routes, route(aliyun.NextHopNATGateway, "ngw-2", "Available"))
		}, ResultSNATNotAvailable, "not covered on NAT gateway ngw-2"},
		"two gateways, entries on both": {func(f *Facts) {
			f.Routes.Value[0].Routes = append(f.Routes.Value[0].Routes, route(aliyun.NextHopNATGateway, "ngw-2", "Available"))
			other := f.SNAT.Value[0]
			other.ID, other.NATGatewayID = "snat-b", "ngw-2"
			f.SNAT.Value = append(f.SNAT.Value, other)
		}, ResultReady, "snat-a, snat-b"},
		"two gateways, half on each": {func(f *Facts) {
			f.Routes.Value[0].Routes = append(f.Routes.Value[0].Routes, route(aliyun.NextHopNATGateway, "ngw-2", "Available"))
			f.SNAT.Value[0].VSwitchID, f.SNAT.Value[0].SourceCIDR = "", prefix("10.0.0.0/21")
			other := f.SNAT.Value[0]
			other.ID, other.NATGatewayID, other.SourceCIDR = "snat-b", "ngw-2", prefix("10.0.8.0/21")
			f.SNAT.Value = append(f.SNAT.Value, other)
		}, ResultSNATNotAvailable, "ngw-1 and ngw-2"},
		"entry that names no gateway":     {func(f *Facts) { f.SNAT.Value[0].NATGatewayID = "" }, ResultReady, "snat-a"},
		"no entry, node with public IP":   {func(f *Facts) { f.SNAT.Value = nil; public(f) }, ResultNoSNATEntry, "203.0.113.9, which helps only the node's primary address"},
		"healthy, node with public IP":    {func(f *Facts) { public(f) }, ResultReady, "snat-a"},
		"no vSwitch in the node's zone":   {func(f *Facts) { f.VSwitches.Value = f.VSwitches.Value[:1]; f.Instance.Value.ZoneID = "zone-c" }, ResultReady, "snat-a"},
		"node SNAT":                       {func(f *Facts) { f.Query.Egress = ModeNodeSNAT; f.SNAT.Value = f.SNAT.Value[1:] }, ResultReady, "SNAT entry snat-node"},
		"node SNAT without entry":         {func(f *Facts) { f.Query.Egress = ModeNodeSNAT; f.SNAT.Value = f.SNAT.Value[:1] }, ResultNoSNATEntry, "give the node a public address"},
		"node SNAT with a public IP":      {func(f *Facts) { f.Query.Egress = ModeNodeSNAT; f.Routes.Value = nil; public(f) }, ResultReady, "203.0.113.9"},
		"node SNAT, vSwitch not readable": {func(f *Facts) { f.Query.Egress = ModeNodeSNAT; f.NodeVSwitch = Known[[]aliyun.VSwitch]{Reason: "no"} }, ResultUnknown, "no"},
	} {
		f := healthy()
		tc.change(&f)
		got := Egress(f)
		if len(got) != 1 || got[0].Result != tc.result || !strings.Contains(got[0].String(), tc.text) {
			t.Errorf("%s: %s\nwant one finding %q with %q", name, lines(got), tc.result, tc.text)
			continue
		}
		wanted := map[string]Severity{ResultReady: OK, ResultUnknown: Unknown, ResultSNATNotAvailable: Warning, ResultNoRoute: Error, ResultNoSNATEntry: Error}
		if got[0].Severity != wanted[tc.result] || got[0].problem() && got[0].Fix == "" {
			t.Errorf("%s: %s has the severity %s", name, got[0], got[0].Severity)
		}
	}
}

func public(f *Facts) { f.Instance.Value.PublicIP = netip.MustParseAddr("203.0.113.9") }

// aPrefix draws from a space so small that prefixes meet.
func aPrefix() *rapid.Generator[netip.Prefix] {
	return rapid.Custom(func(t *rapid.T) netip.Prefix {
		bits := rapid.IntRange(4, 14).Draw(t, "bits")
		addr := netip.AddrFrom4([4]byte{byte(rapid.IntRange(8, 11).Draw(t, "a")), byte(rapid.IntRange(0, 255).Draw(t, "b")), 0, 0})
		return netip.PrefixFrom(addr, bits).Masked()
	})
}

func anEntry() *rapid.Generator[aliyun.SNATEntry] {
	return rapid.Custom(func(t *rapid.T) aliyun.SNATEntry {
		e := aliyun.SNATEntry{
			ID:           fmt.Sprint("snat-", rapid.IntRange(0, 99).Draw(t, "id")),
			NATGatewayID: rapid.SampledFrom([]string{"", "ngw-1", "ngw-2"}).Draw(t, "gateway"),
			Status:       rapid.SampledFrom([]string{"Available", "Pending"}).Draw(t, "status"),
			VSwitchID:    rapid.SampledFrom([]string{"", "", "vsw-a", "vsw-b"}).Draw(t, "vSwitch"),
		}
		e.SourceCIDR = aPrefix().Draw(t, "cidr")
		return e
	})
}

// An SNAT entry that is added makes no vSwitch less ready.
func TestEntriesOnlyHelp(t *testing.T) {
	t.Parallel()
	rank := map[string]int{ResultNoSNATEntry: 1, ResultSNATNotAvailable: 2, ResultReady: 3}
	rapid.Check(t, func(t *rapid.T) {
		f := healthy()
		f.VSwitches.Value[0].CIDR = aPrefix().Draw(t, "vSwitch")
		f.SNAT.Value = rapid.SliceOfN(anEntry(), 0, 6).Draw(t, "entries")
		before := Egress(f)[0]
		f.SNAT.Value = append(f.SNAT.Value, anEntry().Draw(t, "added"))
		after := Egress(f)[0]
		if rank[before.Result] == 0 || rank[after.Result] < rank[before.Result] {
			t.Fatalf("%s became %s", before, after)
		}
	})
}

// Covering is membership, address by address.
func TestCoveredIsMembership(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		p := aPrefix().Draw(t, "p")
		by := rapid.SliceOfN(aPrefix(), 0, 6).Draw(t, "by")
		want := true
		for a, n := p.Addr(), 0; n < 1<<(16-min(p.Bits(), 16)) && p.Contains(a); n++ { // no prefix is longer than /14
			in := false
			for _, q := range by {
				in = in || q.Contains(a)
			}
			want = want && in
			b := a.As4()
			b[1]++
			if b[1] == 0 {
				b[0]++
			}
			a = netip.AddrFrom4(b)
		}
		if got := covered(p, by); got != want {
			t.Fatalf("covered(%s, %v) = %v", p, by, got)
		}
	})
}

// The order in which the cloud lists things means nothing.
func TestOrderMeansNothing(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		f := healthy()
		f.VPC.Value.CIDRs = rapid.SliceOfN(aPrefix(), 1, 4).Draw(t, "VPC")
		f.Query.ServiceCIDRs = rapid.SliceOfN(aPrefix(), 0, 3).Draw(t, "Services")
		f.Query.PodCIDRs = rapid.SliceOfN(aPrefix(), 0, 3).Draw(t, "pods")
		f.VSwitches.Value[0].CIDR, f.VSwitches.Value[1].CIDR = aPrefix().Draw(t, "a"), aPrefix().Draw(t, "b")
		f.VSwitches.Value[1].ZoneID = rapid.SampledFrom([]string{"zone-a", "zone-b"}).Draw(t, "zone")
		f.SNAT.Value = rapid.SliceOfNDistinct(anEntry(), 0, 5, func(e aliyun.SNATEntry) string { return e.ID }).Draw(t, "entries")
		f.Routes.Value[0].Routes = append(f.Routes.Value[0].Routes, aliyun.Route{Destination: prefix("0.0.0.0/0"), NextHopType: aliyun.NextHopNATGateway, NextHopID: "ngw-2", Status: "Available"})
		f.Groups.Value = append(f.Groups.Value, aliyun.SecurityGroup{ID: "sg-2", VPCID: "vpc-2", Type: "enterprise"})
		f.Query.SecurityGroups = []string{"sg-1", "sg-2", "sg-none"}
		before := lines(All(f))
		r := rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 0))
		shuffle(r, f.VPC.Value.CIDRs)
		shuffle(r, f.Query.ServiceCIDRs)
		shuffle(r, f.Query.PodCIDRs)
		shuffle(r, f.VSwitches.Value)
		shuffle(r, f.SNAT.Value)
		shuffle(r, f.Routes.Value[0].Routes)
		shuffle(r, f.Query.SecurityGroups)
		if after := lines(All(f)); after != before {
			t.Fatalf("in one order:\n%s\nin another:\n%s", before, after)
		}
	})
}

func shuffle[T any](r *rand.Rand, s []T) {
	r.Shuffle(len(s), func(i, j int) { s[i], s[j] = s[j], s[i] })
}
