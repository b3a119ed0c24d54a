package aliyun_test

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/nearpath/nearpath/internal/aliyun"
	"github.com/nearpath/nearpath/internal/aliyun/sim"
)

func byValue() cmp.Option {
	return cmpopts.EquateComparable(netip.Addr{}, netip.Prefix{})
}

func TestDescribeVPC(t *testing.T) {
	t.Parallel()
	_, url := cloudOf(t, func(c *sim.Config) {
		c.SecondaryCIDRs = []netip.Prefix{netip.MustParsePrefix("172.16.0.0/16")}
		c.UserCIDRs = []netip.Prefix{netip.MustParsePrefix("30.0.0.0/8")}
	})
	client := clientOf(t, url, nil)
	got, err := client.DescribeVPC(t.Context(), sim.DefaultVPC)
	if err != nil {
		t.Fatal(err)
	}
	if want := "[10.0.0.0/16 172.16.0.0/16 30.0.0.0/8]"; fmt.Sprint(got.CIDRs) != want || got.ID != sim.DefaultVPC {
		t.Errorf("%+v, want CIDRs %s", got, want)
	}
	if _, err := client.DescribeVPC(t.Context(), "vpc-none"); !errors.Is(err, aliyun.ErrNotFound) {
		t.Errorf("an unknown VPC: %v", err)
	}
}

func TestDescribeRouteTables(t *testing.T) {
	t.Parallel()
	cloud, url := cloudOf(t, func(c *sim.Config) {
		c.RouteTables = append(c.RouteTables, aliyun.RouteTable{ID: "vtb-own", Type: aliyun.RouteTableCustom, VSwitchIDs: []string{sim.DefaultPodVSwitch}})
	})
	client := clientOf(t, url, nil)
	for i := range 130 { // more than a page
		r := aliyun.Route{Destination: netip.PrefixFrom(netip.AddrFrom4([4]byte{192, 168, byte(i), 0}), 24), NextHopType: "Instance", NextHopID: "i-1", Status: "Pending"}
		if err := cloud.AddRoute("vtb-own", r); err != nil {
			t.Fatal(err)
		}
	}
	got, err := client.DescribeRouteTables(t.Context(), sim.DefaultVPC)
	if err != nil {
		t.Fatal(err)
	}
	local := []aliyun.Route{
		{Destination: netip.MustParsePrefix("100.64.0.0/10"), NextHopType: "service", Status: aliyun.StatusAvailable},
		{Destination: netip.MustParsePrefix("10.0.0.0/24"), NextHopType: "local", Status: aliyun.StatusAvailable},
		{Destination: netip.MustParsePrefix("10.0.64.0/20"), NextHopType: "local", Status: aliyun.StatusAvailable},
	}
	want := aliyun.RouteTable{
		ID: sim.DefaultRouteTable, Type: aliyun.RouteTableSystem, VSwitchIDs: []string{sim.DefaultNodeVSwitch},
		Routes: append(local, aliyun.Route{
			Destination: netip.MustParsePrefix("0.0.0.0/0"), NextHopType: aliyun.NextHopNATGateway,
			NextHopID: sim.DefaultNATGateway, Status: aliyun.StatusAvailable,
		}),
	}
	if diff := cmp.Diff(want, got[0], byValue()); diff != "" {
		t.Errorf("system table (-want +got):\n%s", diff)
	}
	own := got[1]
	if len(got) != 2 || len(own.Routes) != 133 || own.VSwitchIDs[0] != sim.DefaultPodVSwitch || own.Type != aliyun.RouteTableCustom {
		t.Errorf("%d tables, the second is %s of %v with %d routes", len(got), own.Type, own.VSwitchIDs, len(own.Routes))
	}
	if n := cloud.Calls()["DescribeRouteEntryList"]; n != 3 {
		t.Errorf("%d calls for routes, want 3", n)
	}
}

func TestDescribeSNATEntries(t *testing.T) {
	t.Parallel()
	cloud, url := cloudOf(t, func(c *sim.Config) {
		c.NATGateways = append(c.NATGateways, sim.NATGateway{
			ID: "ngw-private", NetworkType: sim.NATIntranet, Entries: []aliyun.SNATEntry{{VSwitchID: sim.DefaultPodVSwitch}},
		})
		c.NATGateways[0].IPs = append(c.NATGateways[0].IPs, netip.MustParseAddr("203.0.113.2"))
	})
	client := clientOf(t, url, nil)
	for i := range 60 { // more than a page
		cidr := netip.PrefixFrom(netip.AddrFrom4([4]byte{192, 168, byte(i), 0}), 24)
		if _, err := cloud.AddSNATEntry(sim.DefaultNATGateway, aliyun.SNATEntry{SourceCIDR: cidr, Status: "Pending"}); err != nil {
			t.Fatal(err)
		}
	}
	got, err := client.DescribeSNATEntries(t.Context(), sim.DefaultVPC)
	if err != nil || len(got) != 62 {
		t.Fatalf("%d entries, %v, want 62 without those of the intranet gateway", len(got), err)
	}
	want := aliyun.SNATEntry{
		ID: "snat-" + sim.DefaultPodVSwitch, TableID: "stb-" + sim.DefaultNATGateway, NATGatewayID: sim.DefaultNATGateway,
		VSwitchID: sim.DefaultPodVSwitch, SourceCIDR: netip.MustParsePrefix("10.0.64.0/20"), Status: aliyun.StatusAvailable,
		IPs: []netip.Addr{netip.MustParseAddr("203.0.113.1"), netip.MustParseAddr("203.0.113.2")},
	}
	if diff := cmp.Diff(want, got[1], byValue()); diff != "" {
		t.Errorf("entry (-want +got):\n%s", diff)
	}
	if e := got[61]; e.SourceCIDR.String() != "192.168.59.0/24" || e.VSwitchID != "" || e.Status != "Pending" {
		t.Errorf("last entry: %+v", e)
	}
}

func TestNetworkReadsMayBeForbidden(t *testing.T) {
	t.Parallel()
	for action, read := range map[string]func(context.Context, *aliyun.Client) error{
		"DescribeVpcs": func(ctx context.Context, c *aliyun.Client) error {
			_, err := c.DescribeVPC(ctx, sim.DefaultVPC)
			return err
		},
		"DescribeRouteTableList": describeTables,
		"DescribeRouteEntryList": describeTables,
		"DescribeNatGateways":    describeSNAT,

		"DescribeSnatTableEntries": describeSNAT,
	} {
		cloud, client := setup(t)
		cloud.Inject(sim.Fault{Action: action, Code: "Forbidden.RAM", HTTPStatus: 403})
		if err := read(t.Context(), client); !errors.Is(err, aliyun.ErrForbidden) {
			t.Errorf("%s is forbidden: %v", action, err)
		}
	}
	_, client := setup(t)
	if _, err := client.DescribeRouteTables(t.Context(), ""); err == nil {
		t.Error("route tables of no VPC are described")
	}
	if _, err := client.DescribeSNATEntries(t.Context(), ""); err == nil {
		t.Error("SNAT entries of no VPC are described")
	}
}

func describeTables(ctx context.Context, c *aliyun.Client) error {
	_, err := c.DescribeRouteTables(ctx, sim.DefaultVPC)
	return err
}

func describeSNAT(ctx context.Context, c *aliyun.Client) error {
	_, err := c.DescribeSNATEntries(ctx, sim.DefaultVPC)
	return err
}
