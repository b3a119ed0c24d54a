package preflight

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/nearpath/nearpath/internal/aliyun"
)

func TestPlan(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		change func(*Facts)
		want   string // every finding without its fix, one per line
	}{
		"healthy":       {func(*Facts) {}, ""},
		"nothing known": {func(f *Facts) { *f = Facts{Query: f.Query} }, ""},

		"Services in the VPC": {func(f *Facts) { f.Query.ServiceCIDRs = prefixes("192.168.8.0/24") },
			"error: service-cidr-overlap Service CIDR 192.168.8.0/24 and VPC CIDR 192.168.0.0/16: overlap (192.168.8.0/24; 192.168.0.0/16)"},
		"Services around a user CIDR": {func(f *Facts) {
			f.VPC.Value.CIDRs = append(f.VPC.Value.CIDRs, prefix("172.21.3.0/24"))
		}, "error: service-cidr-overlap Service CIDR 172.21.0.0/20 and VPC CIDR 172.21.3.0/24: overlap (172.21.0.0/20; 172.21.3.0/24)"},
		"Services in a vSwitch, VPC unknown": {func(f *Facts) {
			f.VPC, f.Query.ServiceCIDRs, f.Query.PodCIDRs = Known[aliyun.VPC]{}, prefixes("10.0.8.0/24"), nil
		}, "error: service-cidr-overlap Service CIDR 10.0.8.0/24 and vSwitch vsw-a: overlap (10.0.8.0/24; 10.0.0.0/20)"},
		"Services in the pods' range": {func(f *Facts) {
			f.VPC, f.Query.ServiceCIDRs, f.Query.PodCIDRs = Known[aliyun.VPC]{}, prefixes("10.0.32.0/24"), prefixes("10.0.0.0/18")
		}, "error: service-cidr-overlap Service CIDR 10.0.32.0/24 and pod CIDR 10.0.0.0/18: overlap (10.0.32.0/24; 10.0.0.0/18)"},
		"IPv6 Services in the VPC": {func(f *Facts) { f.Query.ServiceCIDRs = prefixes("2408:1:0:10::/112") },
			"error: service-cidr-overlap Service CIDR 2408:1:0:10::/112 and VPC CIDR 2408:1::/56: overlap (2408:1:0:10::/112; 2408:1::/56)"},
		"Services overlap each other": {func(f *Facts) { f.Query.ServiceCIDRs = prefixes("172.21.0.0/20", "172.21.4.0/24") },
			"error: service-cidr-overlap Service CIDR 172.21.0.0/20 and Service CIDR 172.21.4.0/24: overlap (172.21.0.0/20; 172.21.4.0/24)"},
		"vSwitches overlap": {func(f *Facts) { f.VSwitches.Value[1].CIDR = prefix("10.0.15.0/24") },
			"error: vswitch-overlap vSwitch vsw-a and vSwitch vsw-b: overlap (10.0.0.0/20; 10.0.15.0/24)"},
		"vSwitch listed twice": {func(f *Facts) { f.VSwitches.Value = append(f.VSwitches.Value, f.VSwitches.Value[0]) }, ""},
		"vSwitch outside the VPC": {func(f *Facts) { f.VSwitches.Value[1].CIDR, f.Query.PodCIDRs = prefix("10.1.0.0/24"), nil },
			"error: vswitch-outside-vpc vSwitch vsw-b: outside (10.1.0.0/24; 10.0.0.0/16 192.168.0.0/16)"},
		"vSwitch outside the pods' range": {func(f *Facts) { f.Query.PodCIDRs = prefixes("10.0.0.0/20", "fd00::/64") },
			"error: pod-cidr-outside-vpc pod CIDR fd00::/64: outside (fd00::/64; 2408:1::/56)\n" +
				"warning: vswitch-outside-pod-cidr vSwitch vsw-a: outside (2408:1::/64; fd00::/64)\n" +
				"warning: vswitch-outside-pod-cidr vSwitch vsw-b: outside (10.0.16.0/20; 10.0.0.0/20)"},
		"pods outside the VPC": {func(f *Facts) {
			f.VSwitches.Value, f.Query.PodCIDRs, f.Query.VSwitches = f.VSwitches.Value[:1], prefixes("10.0.0.0/15"), []string{"vsw-a"}
		},
			"error: pod-cidr-outside-vpc pod CIDR 10.0.0.0/15: outside (10.0.0.0/15; 10.0.0.0/16 192.168.0.0/16)"},
		"Services in the cloud's range": {func(f *Facts) { f.Query.ServiceCIDRs = prefixes("100.100.0.0/16") },
			"error: reserved-range Service CIDR 100.100.0.0/16: overlap (100.100.0.0/16; 100.64.0.0/10: the cloud's own services (DNS, metadata, load balancers))"},
		"node DNS in the VPC": {func(f *Facts) { f.Query.NodeDNS = []netip.Addr{netip.MustParseAddr("192.168.0.53")} },
			"error: node-dns-address 192.168.0.53 and VPC CIDR 192.168.0.0/16: overlap (192.168.0.53; 192.168.0.0/16)"},
		"node DNS is a Service": {func(f *Facts) { f.Query.NodeDNS = []netip.Addr{netip.MustParseAddr("172.21.0.10")} },
			"error: node-dns-address 172.21.0.10 and Service CIDR 172.21.0.0/20: overlap (172.21.0.10; 172.21.0.0/20)"},

		"wrong region":           {func(f *Facts) { f.Query.RegionID = "cn-2" }, "error: region i-1: mismatch (configured: cn-2; instance: cn-1)"},
		"unknown vSwitch":        {func(f *Facts) { f.Query.VSwitches = append(f.Query.VSwitches, "vsw-none") }, "error: vswitch-missing vsw-none: not found (region: cn-1)"},
		"vSwitch of another VPC": {func(f *Facts) { f.VSwitches.Value[1].VPCID = "vpc-2" }, "error: vswitch-vpc vsw-b: mismatch (vSwitch: vpc-2; instance: vpc-1)"},
		"no vSwitch in the zone": {func(f *Facts) { f.Instance.Value.ZoneID = "zone-c" },
			"error: zone i-1: mismatch (instance: zone-c; vSwitches: zone-a zone-b)"},
		"dual stack without IPv6": {func(f *Facts) {
			f.Query.DualStack, f.Type.Value.IPv6PerENI, f.VSwitches.Value[0].IPv6CIDR = true, 0, netip.Prefix{}
		}, "error: instance-type-ipv6 ecs.m: no IPv6 (IPv6 addresses per ENI: 0; pool.stack: dual)\n" +
			"error: vswitch-ipv6 vsw-a: no IPv6 (IPv6 CIDR: none; pool.stack: dual)"},
		"dual stack": {func(f *Facts) { f.Query.DualStack = true }, ""},

		"unknown security group":        {func(f *Facts) { f.Query.SecurityGroups = []string{"sg-none"} }, "error: security-group-missing sg-none: not found (region: cn-1)"},
		"security group of another VPC": {func(f *Facts) { f.Groups.Value[0].VPCID = "vpc-2" }, "error: security-group-vpc sg-1: mismatch (security group: vpc-2; instance: vpc-1)"},
		"too many security groups": {func(f *Facts) {
			f.Query.SecurityGroups, f.Groups.Value = nil, nil
			for i := range 11 {
				id := fmt.Sprint("sg-", i)
				f.Query.SecurityGroups = append(f.Query.SecurityGroups, id)
				f.Groups.Value = append(f.Groups.Value, aliyun.SecurityGroup{ID: id, VPCID: "vpc-1", Type: "normal"})
			}
		}, "error: security-group-count i-1: too many (security groups: 11; at most: 10)"},
		"security groups of two types": {func(f *Facts) {
			f.Query.SecurityGroups = []string{"sg-2", "sg-1"}
			f.Groups.Value = append(f.Groups.Value, aliyun.SecurityGroup{ID: "sg-2", VPCID: "vpc-1", Type: "enterprise"})
		}, "warning: security-group-types i-1: mixed (enterprise: sg-2; normal: sg-1)"},

		"small instance type":   {func(f *Facts) { f.Type.Value.ENIs = 1 }, "error: instance-type ecs.m: cannot carry pods (ENIs: 1; addresses per ENI: 10)"},
		"just enough addresses": {func(f *Facts) { f.VSwitches.Value[0].AvailableIPs = 16 }, ""},
		"one address too few": {func(f *Facts) { f.VSwitches.Value[0].AvailableIPs = 15 },
			"warning: addresses vsw-a: too few (free: 15; needed to fill the node: 16 of 20)"},
		"enough for the pool's limit": {func(f *Facts) { f.VSwitches.Value[0].AvailableIPs, f.Query.MaxENIs = 6, 1 }, ""},
		"no address": {func(f *Facts) { f.VSwitches.Value[0].AvailableIPs, f.Held.Value = 0, 0 },
			"error: addresses vsw-a: none (free: 0; needed to fill the node: 20 of 20)"},
		"no address, but some held": {func(f *Facts) { f.VSwitches.Value[0].AvailableIPs = 0 },
			"warning: addresses vsw-a: too few (free: 0; needed to fill the node: 16 of 20)"},
	} {
		f := healthy()
		tc.change(&f)
		var got []string
		for _, finding := range Plan(f) {
			if finding.Fix == "" {
				t.Errorf("%s: %s has no fix", name, finding)
			}
			got = append(got, strings.TrimSuffix(finding.String(), ": "+finding.Fix))
		}
		if got := strings.Join(got, "\n"); got != tc.want {
			t.Errorf("%s:\n%s\nwant\n%s", name, got, tc.want)
		}
	}
}

// Plan finds an overlap exactly where prefixes overlap.
func TestPlanFindsEveryOverlapAndNoOther(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		f := healthy()
		f.VPC.Value = aliyun.VPC{ID: "vpc-1", CIDRs: rapid.SliceOfN(aPrefix(), 1, 3).Draw(t, "VPC")}
		f.Query.ServiceCIDRs = rapid.SliceOfN(aPrefix(), 0, 3).Draw(t, "Services")
		f.Query.PodCIDRs = rapid.SliceOfN(aPrefix(), 0, 2).Draw(t, "pods")
		for i := range f.VSwitches.Value {
			f.VSwitches.Value[i].CIDR, f.VSwitches.Value[i].IPv6CIDR = aPrefix().Draw(t, "vSwitch"), netip.Prefix{}
		}
		a, b := f.VSwitches.Value[0].CIDR, f.VSwitches.Value[1].CIDR
		want := map[[2]netip.Prefix]bool{}
		pair := func(x, y netip.Prefix) {
			if x.Overlaps(y) {
				want[canonical(x, y)] = true
			}
		}
		pair(a, b)
		for i, s := range f.Query.ServiceCIDRs {
			for _, o := range append(append(append([]netip.Prefix{a, b}, f.VPC.Value.CIDRs...), f.Query.PodCIDRs...), f.Query.ServiceCIDRs[:i]...) {
				pair(s, o)
			}
		}
		got := map[[2]netip.Prefix]bool{}
		for _, finding := range Plan(f) {
			if finding.Check == CheckVSwitchOverlap || finding.Check == CheckServiceOverlap {
				got[canonical(prefix(finding.Values[0]), prefix(finding.Values[1]))] = true
			}
		}
		if fmt.Sprint(got) != fmt.Sprint(want) {
			t.Fatalf("found %v, want %v", got, want)
		}
	})
}

func canonical(a, b netip.Prefix) [2]netip.Prefix {
	if b.String() < a.String() {
		a, b = b, a
	}
	return [2]netip.Prefix{a, b}
}

// Plan finds a vSwitch outside the VPC exactly when no CIDR of the VPC contains it whole.
func TestPlanFindsWhatIsOutside(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		f := healthy()
		f.VPC.Value = aliyun.VPC{ID: "vpc-1", CIDRs: rapid.SliceOfN(aPrefix(), 1, 3).Draw(t, "VPC")}
		f.VSwitches.Value = f.VSwitches.Value[:1]
		v := &f.VSwitches.Value[0]
		v.CIDR, v.IPv6CIDR = aPrefix().Draw(t, "vSwitch"), netip.Prefix{}
		inside := false
		for _, p := range f.VPC.Value.CIDRs {
			inside = inside || p.Contains(v.CIDR.Addr()) && p.Contains(last(v.CIDR))
		}
		found := false
		for _, finding := range Plan(f) {
			found = found || finding.Check == CheckVSwitchOutsideVPC
		}
		if found == inside {
			t.Fatalf("%s in %v: found %v", v.CIDR, f.VPC.Value.CIDRs, found)
		}
	})
}

// last is the last address of an IPv4 prefix.
func last(p netip.Prefix) netip.Addr {
	b := p.Masked().Addr().As4()
	for i := p.Bits(); i < 32; i++ {
		b[i/8] |= 0x80 >> (i % 8)
	}
	return netip.AddrFrom4(b)
}
