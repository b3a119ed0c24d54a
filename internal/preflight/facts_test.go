package preflight

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http/httptest"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"github.com/nearpath/nearpath/internal/aliyun"
	"github.com/nearpath/nearpath/internal/aliyun/sim"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func prefix(s string) netip.Prefix { return netip.MustParsePrefix(s) }

func prefixes(list ...string) (out []netip.Prefix) {
	for _, s := range list {
		out = append(out, prefix(s))
	}
	return out
}

func known[T any](v T) Known[T] { return Known[T]{Value: v, OK: true} }

// healthy are facts with nothing wrong: a node in zone a, a vSwitch for pods in each of two zones.
func healthy() Facts {
	toNAT := aliyun.Route{Destination: prefix("0.0.0.0/0"), NextHopType: aliyun.NextHopNATGateway, NextHopID: "ngw-1", Status: aliyun.StatusAvailable}
	local := aliyun.Route{Destination: prefix("10.0.0.0/20"), NextHopType: "local", Status: aliyun.StatusAvailable}
	return Facts{
		Query: Query{
			VSwitches: []string{"vsw-a", "vsw-b"}, ServiceCIDRs: prefixes("172.21.0.0/20", "fd00:21::/112"), PodCIDRs: prefixes("10.0.0.0/18"),
			NodeDNS: []netip.Addr{netip.MustParseAddr("169.254.20.10")}, RegionID: "cn-1",
		},
		Instance: known(aliyun.Instance{
			ID: "i-1", Type: "ecs.m", RegionID: "cn-1", ZoneID: "zone-a", VPCID: "vpc-1", VSwitchID: "vsw-node",
			SecurityGroupIDs: []string{"sg-1"},
		}),
		Type: known(aliyun.InstanceType{ID: "ecs.m", ENIs: 3, AddressesPerENI: 10, IPv6PerENI: 10}),
		VPC:  known(aliyun.VPC{ID: "vpc-1", CIDRs: prefixes("10.0.0.0/16", "192.168.0.0/16"), IPv6CIDR: prefix("2408:1::/56")}),
		VSwitches: known([]aliyun.VSwitch{
			{ID: "vsw-a", VPCID: "vpc-1", ZoneID: "zone-a", CIDR: prefix("10.0.0.0/20"), IPv6CIDR: prefix("2408:1::/64"), AvailableIPs: 100},
			{ID: "vsw-b", VPCID: "vpc-1", ZoneID: "zone-b", CIDR: prefix("10.0.16.0/20"), AvailableIPs: 5},
		}),
		NodeVSwitch: known([]aliyun.VSwitch{{ID: "vsw-node", VPCID: "vpc-1", ZoneID: "zone-a", CIDR: prefix("10.0.64.0/24")}}),
		Groups:      known([]aliyun.SecurityGroup{{ID: "sg-1", VPCID: "vpc-1", Type: "normal"}}),
		Held:        known(4),
		Routes: known([]aliyun.RouteTable{
			{ID: "vtb-system", Type: aliyun.RouteTableSystem, Routes: []aliyun.Route{local, toNAT}},
		}),
		SNAT: known([]aliyun.SNATEntry{
			{ID: "snat-a", NATGatewayID: "ngw-1", VSwitchID: "vsw-a", SourceCIDR: prefix("10.0.0.0/20"), Status: aliyun.StatusAvailable},
			{ID: "snat-node", NATGatewayID: "ngw-1", VSwitchID: "vsw-node", SourceCIDR: prefix("10.0.64.0/24"), Status: aliyun.StatusAvailable},
		}),
	}
}

// lines are the findings as text, for comparison.
func lines(findings []Finding) string {
	var out []string
	for _, f := range findings {
		out = append(out, f.String())
	}
	return strings.Join(out, "\n")
}

// A simCloud is the client of a simulated cloud; the security groups are given, so that a test can have any.
type simCloud struct {
	*aliyun.Client
	groups []aliyun.SecurityGroup
}

func (s *simCloud) DescribeSecurityGroups(context.Context, string, []string) ([]aliyun.SecurityGroup, error) {
	return s.groups, nil
}

// newSim starts a simulated cloud with one instance and returns it with a client and the query of that instance.
func newSim(t *testing.T, change func(*sim.Config)) (*sim.Cloud, *simCloud, Query) {
	t.Helper()
	cfg := sim.DefaultConfig()
	if change != nil {
		change(&cfg)
	}
	cloud, err := sim.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(cloud.Handler())
	t.Cleanup(func() { server.Close(); _ = cloud.Close() })
	in, _, err := cloud.RunInstance(t.Context(), sim.InstanceSpec{Type: "ecs.sim.small", VSwitchID: sim.DefaultNodeVSwitch})
	if err != nil {
		t.Fatal(err)
	}
	client, err := aliyun.NewClient(aliyun.Config{
		RegionID: sim.DefaultRegion, Endpoint: server.URL,
		Credentials: aliyun.StaticCredentials{AccessKeyID: sim.DefaultAccessKey, AccessKeySecret: sim.DefaultAccessSecret},
	})
	if err != nil {
		t.Fatal(err)
	}
	in.SecurityGroupIDs = nil // the metadata service does not tell
	groups := []aliyun.SecurityGroup{{ID: sim.DefaultSecurityGroup, VPCID: sim.DefaultVPC, Type: "normal"}}
	return cloud, &simCloud{client, groups}, Query{
		Instance: in, VSwitches: []string{sim.DefaultPodVSwitch}, ServiceCIDRs: prefixes("172.21.0.0/20"), NodeDNS: []netip.Addr{netip.MustParseAddr("169.254.20.10")},
	}
}

func mustGather(t *testing.T, cloud Cloud, q Query) Facts {
	t.Helper()
	f, err := Gather(t.Context(), cloud, q)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func TestTheDefaultSimulatedNetworkIsHealthy(t *testing.T) {
	t.Parallel()
	_, cloud, q := newSim(t, nil)
	f := mustGather(t, cloud, q)
	if got := Plan(f); len(got) != 0 {
		t.Errorf("plan:\n%s", lines(got))
	}
	if got := Egress(f); len(got) != 1 || got[0].Object != sim.DefaultPodVSwitch || got[0].Result != ResultReady {
		t.Errorf("egress:\n%s", lines(got))
	}
}

// The trap: a vSwitch that is added for pods has a route out and no SNAT entry, while the node's own has both.
func TestANewVSwitchHasNoWayOut(t *testing.T) {
	t.Parallel()
	added := "vsw-added"
	sims, cloud, q := newSim(t, func(c *sim.Config) {
		c.VSwitches = append(c.VSwitches, sim.VSwitch{ID: added, CIDR: prefix("10.0.128.0/20")})
	})
	q.VSwitches = append(q.VSwitches, added)
	result := func() Finding {
		for _, f := range Egress(mustGather(t, cloud, q)) {
			if f.Object == added {
				return f
			}
		}
		t.Fatal("nothing is said of the vSwitch")
		return Finding{}
	}
	if f := result(); f.Result != ResultNoSNATEntry || f.Severity != Error || !strings.Contains(f.Fix, added) || !strings.Contains(f.Fix, sim.DefaultNATGateway) {
		t.Errorf("before: %s", f)
	}
	entry, err := sims.AddSNATEntry(sim.DefaultNATGateway, aliyun.SNATEntry{VSwitchID: added, Status: "Pending"})
	if err != nil {
		t.Fatal(err)
	}
	if f := result(); f.Result != ResultSNATNotAvailable || f.Severity != Warning || !strings.Contains(f.Values[1], entry.ID+" is Pending") {
		t.Errorf("while it is pending: %s", f)
	}
	if _, err := sims.AddSNATEntry(sim.DefaultNATGateway, aliyun.SNATEntry{SourceCIDR: prefix("10.0.0.0/16")}); err != nil {
		t.Fatal(err)
	}
	if f := result(); f.Result != ResultReady {
		t.Errorf("after: %s", f)
	}
	if err := sims.RemoveRoute(sim.DefaultRouteTable, prefix("0.0.0.0/0")); err != nil {
		t.Fatal(err)
	}
	if f := result(); f.Result != ResultNoRoute || !strings.Contains(f.Fix, sim.DefaultRouteTable) {
		t.Errorf("without a route: %s", f)
	}
}

func TestGatherLeavesUnknownWhatIsForbidden(t *testing.T) {
	t.Parallel()
	for action, want := range map[string]struct{ plan, egress string }{
		"DescribeInstances":         {"instance security groups", ResultReady},
		"DescribeInstanceTypes":     {"instance type", ResultReady},
		"DescribeVpcs":              {"VPC", ResultReady},
		"DescribeVSwitches":         {"vSwitches", ResultUnknown},
		"DescribeNetworkInterfaces": {"ENIs", ResultReady},
		"DescribeRouteTableList":    {"", ResultUnknown},
		"DescribeRouteEntryList":    {"", ResultUnknown},
		"DescribeNatGateways":       {"", ResultUnknown},
		"DescribeSnatTableEntries":  {"", ResultUnknown},
	} {
		sims, cloud, q := newSim(t, nil)
		sims.Inject(sim.Fault{Action: action, Times: 100, Code: "Forbidden.RAM", HTTPStatus: 403, Message: "User not authorized."})
		f := mustGather(t, cloud, q)
		var unread []string
		for _, finding := range Plan(f) {
			if finding.Check != CheckRead || finding.Severity != Unknown || finding.Values[0] != action+": Forbidden.RAM" {
				t.Errorf("%s is forbidden: %s", action, finding)
			}
			unread = append(unread, finding.Object)
		}
		if got := strings.Join(unread, " "); got != want.plan {
			t.Errorf("%s is forbidden: %q is unread, want %q", action, got, want.plan)
		}
		egress := Egress(f)
		if len(egress) != 1 || egress[0].Result != want.egress || egress[0].Severity > Unknown {
			t.Errorf("%s is forbidden: egress is %s", action, lines(egress))
		}
	}
}

func TestGatherFailsWhenTheCloudDoesNotAnswer(t *testing.T) {
	t.Parallel()
	for name, failure := range map[string]error{"down": aliyun.ErrUnavailable, "throttled": aliyun.ErrThrottled, "ended": context.Canceled} {
		for _, question := range slices.Sorted(maps.Keys(newFakeCloud(healthy()).calls())) {
			cloud := newFakeCloud(healthy())
			cloud.fail = map[string]error{question: fmt.Errorf("%s: %w", question, failure)}
			q := cloud.facts.Query
			q.Egress = ModeNodeSNAT
			if _, err := Gather(t.Context(), cloud, q); !errors.Is(err, failure) {
				t.Errorf("%s is %s: %v", question, name, err)
			}
		}
	}
}

func TestGatherAsksForTheInstancesOwnWhenNothingIsConfigured(t *testing.T) {
	t.Parallel()
	cloud := newFakeCloud(healthy())
	q := Query{Instance: cloud.facts.Instance.Value}
	mustGather(t, cloud, q)
	if fmt.Sprint(cloud.askedVSwitches) != "[[vsw-node]]" || fmt.Sprint(cloud.askedGroups) != "[sg-1]" {
		t.Errorf("asked for vSwitches %v, security groups %v", cloud.askedVSwitches, cloud.askedGroups)
	}
	q.Egress = ModeNone
	before := cloud.counts["DescribeRouteTables"] + cloud.counts["DescribeSNATEntries"]
	if f := mustGather(t, cloud, q); len(Egress(f)) != 0 {
		t.Error("egress is judged though pods have none")
	}
	if after := cloud.counts["DescribeRouteTables"] + cloud.counts["DescribeSNATEntries"]; after != before {
		t.Error("routes are read though pods have no way out to check")
	}
}

func TestGatherCountsWhatPodsHave(t *testing.T) {
	t.Parallel()
	sims, cloud, q := newSim(t, nil)
	eni, err := cloud.CreateENI(t.Context(), aliyun.CreateENI{
		VSwitchID: sim.DefaultPodVSwitch, SecurityGroupIDs: []string{sim.DefaultSecurityGroup}, SecondaryIPs: 2, ClientToken: "t",
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := cloud.AttachENI(t.Context(), eni.ID, q.Instance.ID); err != nil {
		t.Fatal(err)
	}
	if f := mustGather(t, cloud, q); f.Held != known(3) {
		t.Errorf("held: %+v, want 3; ENIs: %v", f.Held, sims.ENIs())
	}
}
