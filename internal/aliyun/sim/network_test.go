package sim

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/nearpath/nearpath/internal/aliyun"
)

// vpc sends a signed VPC action and returns the status and the answer.
func (c *caller) vpc(tb testing.TB, action string, extra map[string]string) (int, map[string]any) {
	tb.Helper()
	in := c.params(vpcVersion, action, extra)
	in["Signature"] = sign(stringToSign("POST", in), DefaultAccessSecret)
	return c.post(tb, in)
}

// list digs a list out of an answer: outer key, inner key.
func list(tb testing.TB, answer map[string]any, outer, inner string) []map[string]any {
	tb.Helper()
	wrapped, ok := answer[outer].(map[string]any)
	if !ok {
		tb.Fatalf("answer has no %s: %v", outer, answer)
	}
	var items []map[string]any
	for _, item := range wrapped[inner].([]any) {
		items = append(items, item.(map[string]any))
	}
	return items
}

func TestDescribeNetwork(t *testing.T) {
	t.Parallel()
	c := &caller{cloud: newCloud(t, func(cfg *Config) {
		cfg.SecondaryCIDRs = []netip.Prefix{netip.MustParsePrefix("172.16.0.0/16")}
		cfg.UserCIDRs = []netip.Prefix{netip.MustParsePrefix("30.0.0.0/8")}
		cfg.VSwitches = append(cfg.VSwitches, VSwitch{ID: "vsw-second", CIDR: netip.MustParsePrefix("172.16.1.0/24")})
		cfg.RouteTables = append(cfg.RouteTables, aliyun.RouteTable{ID: "vtb-own", Type: aliyun.RouteTableCustom, VSwitchIDs: []string{"vsw-second"}})
	})}

	_, answer := c.vpc(t, "DescribeVpcs", map[string]string{"VpcId": "vpc-other," + DefaultVPC})
	vpcs := list(t, answer, "Vpcs", "Vpc")
	if len(vpcs) != 1 || vpcs[0]["CidrBlock"] != "10.0.0.0/16" || answer["TotalCount"] != 1.0 {
		t.Fatalf("VPCs: %v", answer)
	}
	if got := fmt.Sprint(vpcs[0]["SecondaryCidrBlocks"], vpcs[0]["UserCidrs"]); got != "map[SecondaryCidrBlock:[172.16.0.0/16]] map[UserCidr:[30.0.0.0/8]]" {
		t.Errorf("additional CIDRs: %s", got)
	}

	_, answer = c.vpc(t, "DescribeRouteTableList", map[string]string{"VpcId": DefaultVPC})
	tables := map[any]string{}
	for _, table := range list(t, answer, "RouterTableList", "RouterTableListType") {
		tables[table["RouteTableId"]] = fmt.Sprintf("%v %v", table["RouteTableType"], table["VSwitchIds"])
	}
	if tables[DefaultRouteTable] != "System map[VSwitchId:[vsw-nodes vsw-pods]]" || tables["vtb-own"] != "Custom map[VSwitchId:[vsw-second]]" {
		t.Errorf("route tables: %v", tables)
	}
	_, answer = c.vpc(t, "DescribeVSwitchAttributes", map[string]string{"VSwitchId": "vsw-second"})
	if got := fmt.Sprint(answer["RouteTable"]); got != "map[RouteTableId:vtb-own RouteTableType:Custom]" || answer["AvailableIpAddressCount"] != 252.0 {
		t.Errorf("vSwitch: %v", answer)
	}

	_, answer = c.vpc(t, "DescribeNatGateways", map[string]string{"VpcId": DefaultVPC})
	gateways := list(t, answer, "NatGateways", "NatGateway")
	if len(gateways) != 1 || fmt.Sprint(gateways[0]["SnatTableIds"]) != "map[SnatTableId:[stb-"+DefaultNATGateway+"]]" || gateways[0]["NetworkType"] != NATInternet {
		t.Errorf("NAT gateways: %v", gateways)
	}
	_, answer = c.vpc(t, "DescribeSnatTableEntries", map[string]string{"NatGatewayId": DefaultNATGateway, "SourceVSwitchId": DefaultPodVSwitch})
	entries := list(t, answer, "SnatTableEntries", "SnatTableEntry")
	if len(entries) != 1 || entries[0]["SourceCIDR"] != "10.0.64.0/20" || entries[0]["SnatIp"] != "203.0.113.1" || entries[0]["Status"] != "Available" {
		t.Errorf("SNAT entries: %v", entries)
	}
}

func TestRouteEntriesArePagedByToken(t *testing.T) {
	t.Parallel()
	c := &caller{cloud: newCloud(t, nil)}
	for i := range 20 {
		r := aliyun.Route{Destination: netip.PrefixFrom(netip.AddrFrom4([4]byte{192, 168, byte(i), 0}), 24), NextHopType: "Instance", NextHopID: "i-1"}
		if err := c.cloud.AddRoute(DefaultRouteTable, r); err != nil {
			t.Fatal(err)
		}
	}
	seen, pages, token := map[any]bool{}, 0, ""
	for {
		_, answer := c.vpc(t, "DescribeRouteEntryList", map[string]string{"RouteTableId": DefaultRouteTable, "MaxResult": "7", "NextToken": token})
		for _, r := range list(t, answer, "RouteEntrys", "RouteEntry") {
			seen[r["DestinationCidrBlock"]] = true
		}
		pages++
		if token = answer["NextToken"].(string); token == "" {
			break
		}
	}
	// Two vSwitches, the cloud's services, the default route, and ours.
	if len(seen) != 24 || pages != 4 || !seen["0.0.0.0/0"] || !seen["100.64.0.0/10"] || !seen["10.0.64.0/20"] {
		t.Errorf("%d destinations on %d pages: %v", len(seen), pages, seen)
	}
	_, answer := c.vpc(t, "DescribeRouteEntryList", map[string]string{"RouteTableId": DefaultRouteTable, "DestinationCidrBlock": "0.0.0.0/0"})
	if got := fmt.Sprint(list(t, answer, "RouteEntrys", "RouteEntry")[0]["NextHops"]); !strings.Contains(got, "NextHopId:"+DefaultNATGateway) {
		t.Errorf("default route: %s", got)
	}
}

func TestNetworkChanges(t *testing.T) {
	t.Parallel()
	c := &caller{cloud: newCloud(t, nil)}
	entries := func() (ids []any) {
		_, answer := c.vpc(t, "DescribeSnatTableEntries", map[string]string{"SnatTableId": "stb-" + DefaultNATGateway})
		for _, e := range list(t, answer, "SnatTableEntries", "SnatTableEntry") {
			ids = append(ids, e["SnatEntryId"])
		}
		return ids
	}
	if err := c.cloud.RemoveSNATEntry("snat-" + DefaultPodVSwitch); err != nil {
		t.Fatal(err)
	}
	if got := fmt.Sprint(entries()); got != "[snat-"+DefaultNodeVSwitch+"]" {
		t.Errorf("after removal: %v", got)
	}
	added, err := c.cloud.AddSNATEntry(DefaultNATGateway, aliyun.SNATEntry{SourceCIDR: netip.MustParsePrefix("10.0.0.0/16"), Status: "Pending"})
	if err != nil || added.ID == "" || added.TableID != "stb-"+DefaultNATGateway || len(added.IPs) != 1 {
		t.Errorf("added %+v, %v", added, err)
	}
	if got := entries(); len(got) != 2 || got[1] != added.ID {
		t.Errorf("after addition: %v", got)
	}
	dflt := netip.MustParsePrefix("0.0.0.0/0")
	if err := c.cloud.RemoveRoute(DefaultRouteTable, dflt); err != nil {
		t.Fatal(err)
	}
	_, answer := c.vpc(t, "DescribeRouteEntryList", map[string]string{"RouteTableId": DefaultRouteTable, "DestinationCidrBlock": dflt.String()})
	if routes := list(t, answer, "RouteEntrys", "RouteEntry"); len(routes) != 0 {
		t.Errorf("after removal: %v", routes)
	}
	nat := aliyun.Route{Destination: dflt, NextHopType: aliyun.NextHopNATGateway, NextHopID: DefaultNATGateway}
	for name, err := range map[string]error{
		"route removed twice":   c.cloud.RemoveRoute(DefaultRouteTable, dflt),
		"route of no table":     c.cloud.RemoveRoute("vtb-none", dflt),
		"entry removed twice":   c.cloud.RemoveSNATEntry("snat-" + DefaultPodVSwitch),
		"route to no gateway":   c.cloud.AddRoute(DefaultRouteTable, aliyun.Route{Destination: dflt, NextHopType: aliyun.NextHopNATGateway, NextHopID: "ngw-none"}),
		"route in no table":     c.cloud.AddRoute("vtb-none", nat),
		"route without address": c.cloud.AddRoute(DefaultRouteTable, aliyun.Route{NextHopType: "Instance"}),
		"route twice":           errorsOfTwo(c.cloud.AddRoute(DefaultRouteTable, nat), c.cloud.AddRoute(DefaultRouteTable, nat)),
		"entry for nothing":     second(c.cloud.AddSNATEntry(DefaultNATGateway, aliyun.SNATEntry{})),
		"entry for no vSwitch":  second(c.cloud.AddSNATEntry(DefaultNATGateway, aliyun.SNATEntry{VSwitchID: "vsw-none"})),
		"entry of no gateway":   second(c.cloud.AddSNATEntry("ngw-none", aliyun.SNATEntry{VSwitchID: DefaultPodVSwitch})),
		"entry that exists":     second(c.cloud.AddSNATEntry(DefaultNATGateway, aliyun.SNATEntry{ID: added.ID, VSwitchID: DefaultPodVSwitch})),
	} {
		if err == nil {
			t.Errorf("%s is accepted", name)
		}
	}
}

// errorsOfTwo is the second error, if the first call went well.
func errorsOfTwo(first, second error) error {
	if first != nil {
		return nil
	}
	return second
}

func second[T any](_ T, err error) error { return err }

func TestNetworkRefusals(t *testing.T) {
	t.Parallel()
	c := &caller{cloud: newCloud(t, nil)}
	for _, tc := range []struct {
		action string
		params map[string]string
		status int
		code   string
	}{
		{"DescribeVSwitchAttributes", nil, 400, codeMissingParameter + ".VSwitchId"},
		{"DescribeVSwitchAttributes", map[string]string{"VSwitchId": "vsw-none"}, 404, codeVSwitchNotFound},
		{"DescribeRouteEntryList", nil, 400, codeMissingParameter + ".RouteTableId"},
		{"DescribeRouteEntryList", map[string]string{"RouteTableId": "vtb-none"}, 404, codeRouteTableNotFound},
		{"DescribeRouteEntryList", map[string]string{"RouteTableId": DefaultRouteTable, "MaxResult": "101"}, 400, codeInvalidParameter},
		{"DescribeSnatTableEntries", nil, 400, codeMissingParameter + ".SnatTableId"},
		{"DescribeSnatTableEntries", map[string]string{"SnatTableId": "stb-none"}, 404, codeSNATTableNotFound},
		{"DescribeSnatTableEntries", map[string]string{"NatGatewayId": "ngw-none"}, 404, codeNATGatewayNotFound},
		{"DescribeNatGateways", map[string]string{"PageSize": "51"}, 400, codeInvalidParameter},
		{"DescribeVpcs", map[string]string{"PageSize": "51"}, 400, codeInvalidParameter},
	} {
		if status, answer := c.vpc(t, tc.action, tc.params); status != tc.status || answer["Code"] != tc.code {
			t.Errorf("%s(%v) = %d, %v; want %d, %s", tc.action, tc.params, status, answer["Code"], tc.status, tc.code)
		}
	}
}

func TestNetworkConfig(t *testing.T) {
	t.Parallel()
	custom := aliyun.RouteTable{ID: "vtb-a", Type: aliyun.RouteTableCustom, VSwitchIDs: []string{DefaultPodVSwitch}}
	for name, change := range map[string]func(*Config){
		"two system tables": func(c *Config) {
			c.RouteTables = append(c.RouteTables, aliyun.RouteTable{ID: "vtb-b", Type: aliyun.RouteTableSystem})
		},
		"unknown table type": func(c *Config) { c.RouteTables = append(c.RouteTables, aliyun.RouteTable{ID: "vtb-b", Type: "x"}) },
		"vSwitch in two":     func(c *Config) { b := custom; b.ID = "vtb-b"; c.RouteTables = append(c.RouteTables, custom, b) },
		"unknown vSwitch": func(c *Config) {
			b := custom
			b.VSwitchIDs = []string{"vsw-none"}
			c.RouteTables = append(c.RouteTables, b)
		},
		"gateway twice":       func(c *Config) { c.NATGateways = append(c.NATGateways, c.NATGateways[0]) },
		"IPv6 secondary CIDR": func(c *Config) { c.SecondaryCIDRs = []netip.Prefix{netip.MustParsePrefix("fd00::/64")} },
	} {
		cfg := DefaultConfig()
		change(&cfg)
		if cloud, err := New(cfg); err == nil {
			_ = cloud.Close()
			t.Errorf("%s is accepted", name)
		}
	}
	// A cloud without the network's part still has the table that every VPC has.
	c := newCloud(t, func(cfg *Config) { cfg.RouteTables, cfg.NATGateways = nil, nil })
	if got := c.tableOf(DefaultPodVSwitch); got != DefaultRouteTable {
		t.Errorf("vSwitch is in the table %q", got)
	}
}
