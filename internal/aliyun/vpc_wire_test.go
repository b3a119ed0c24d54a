package aliyun

import (
	"encoding/json"
	"fmt"
	"testing"
)

func TestReadRoutes(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct{ body, want string }{
		"one next hop": {
			`{"DestinationCidrBlock":"0.0.0.0/0","Status":"Available","NextHops":{"NextHop":[{"NextHopType":"NatGateway","NextHopId":"ngw-1","Enabled":1}]}}`,
			"[{0.0.0.0/0 NatGateway ngw-1 Available}]",
		},
		"two next hops": {
			`{"DestinationCidrBlock":"10.1.0.1/16","NextHops":{"NextHop":[{"NextHopType":"RouterInterface","NextHopId":"a","Enabled":"1"},{"NextHopType":"RouterInterface","NextHopId":"b"}]}}`,
			"[{10.1.0.0/16 RouterInterface a } {10.1.0.0/16 RouterInterface b }]",
		},
		"without a list": {
			`{"DestinationCidrBlock":"::/0","Status":"Pending","NextHopType":"IPv6Gateway","NextHopId":"ipv6gw-1"}`,
			"[{::/0 IPv6Gateway ipv6gw-1 Pending}]",
		},
		"a prefix list": {`{"DestinationCidrBlock":"pl-1","NextHops":{"NextHop":[{"NextHopType":"Instance"}]}}`, "[]"},
	} {
		var w wireRoute
		if err := json.Unmarshal([]byte(tc.body), &w); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if got := fmt.Sprint(w.routes()); got != tc.want {
			t.Errorf("%s: %s, want %s", name, got, tc.want)
		}
	}
}

func FuzzDecodeNetwork(f *testing.F) {
	f.Add([]byte(`{"Vpcs":{"Vpc":[{"VpcId":"vpc-1","CidrBlock":"10.0.0.1/8","SecondaryCidrBlocks":{"SecondaryCidrBlock":["172.16.0.0/12"]},"UserCidrs":{"UserCidr":["30.0.0.0/8"]},"Ipv6CidrBlock":"2408::/56"}]}}`))
	f.Add([]byte(`{"TotalCount":"1","RouterTableList":{"RouterTableListType":[{"RouteTableId":"vtb-1","RouteTableType":"System","VSwitchIds":{"VSwitchId":["vsw-1"]}}]}}`))
	f.Add([]byte(`{"NextToken":"","RouteEntrys":{"RouteEntry":[{"DestinationCidrBlock":"0.0.0.0/0","Status":"Available","NextHops":{"NextHop":[{"NextHopType":"NatGateway","NextHopId":"ngw-1"}]}},{"DestinationCidrBlock":"pl-1"}]}}`))
	f.Add([]byte(`{"TotalCount":1,"NatGateways":{"NatGateway":[{"NatGatewayId":"ngw-1","NetworkType":"internet","SnatTableIds":{"SnatTableId":["stb-1"]}}]}}`))
	f.Add([]byte(`{"SnatTableEntries":{"SnatTableEntry":[{"SnatEntryId":"snat-1","SourceVSwitchId":"vsw-1","SourceCIDR":"10.0.0.1/24","SnatIp":"203.0.113.1, 203.0.113.2,x","Status":"Available"}]}}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		var vpcs wireVPCs
		if json.Unmarshal(body, &vpcs) == nil {
			for _, w := range vpcs.VPCs.VPC {
				v, err := w.vpc()
				if err != nil {
					continue
				}
				for _, p := range v.CIDRs {
					if !p.IsValid() || p != p.Masked() {
						t.Errorf("accepted %+v", v)
					}
				}
			}
		}
		var routes wireRoutes
		if json.Unmarshal(body, &routes) == nil {
			for _, w := range routes.Entries.Entry {
				for _, r := range w.routes() {
					if !r.Destination.IsValid() || r.Destination != r.Destination.Masked() {
						t.Errorf("accepted %+v", r)
					}
				}
			}
		}
		var entries wireSNATEntries
		if json.Unmarshal(body, &entries) == nil {
			for _, w := range entries.Entries.Entry {
				if e, err := w.entry(); err == nil && e.SourceCIDR.IsValid() && e.SourceCIDR != e.SourceCIDR.Masked() {
					t.Errorf("accepted %+v", e)
				}
			}
		}
		var tables wireRouteTables
		_ = json.Unmarshal(body, &tables)
		var gateways wireNATGateways
		_ = json.Unmarshal(body, &gateways)
	})
}
