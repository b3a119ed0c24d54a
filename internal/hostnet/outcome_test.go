package hostnet

import (
	"errors"
	"net/netip"
	"strings"
	"testing"
)

// Each failure is an error for those whom it concerns.
func TestOutcome(t *testing.T) {
	const mac, other = "00:16:3e:00:00:02", "00:16:3e:00:00:03"
	stale := DeleteRoute{Route{Table: Table(1), Link: 3, Gateway: netip.MustParseAddr("10.1.0.253")}}
	for name, tt := range map[string]struct {
		failed                      Step
		eni, removal, ready, egress bool // is an error for
	}{
		"forwarding":          {failed: Step{Op: SetSysctl{forwardV4, "1"}, Part: PartNode}, eni: true, ready: true},
		"nothing can be read": {failed: Step{Part: PartNode}, eni: true, removal: true, ready: true},
		"the ENI":             {failed: Step{Op: SetUp{}, Part: PartENI, MAC: mac}, eni: true},
		"another ENI":         {failed: Step{Op: SetUp{}, Part: PartENI, MAC: other}},
		"masquerading":        {failed: Step{Op: SetNAT{}, Part: PartEgress}, egress: true},
		"unreadable NAT":      {failed: Step{Part: PartEgress}, egress: true},
		"stale route":         {failed: Step{Op: stale, Part: PartRest}, removal: true},
		"node DNS address":    {failed: Step{Op: AddLoopback{}, Part: PartRest}},
	} {
		var o outcome
		o.add(tt.failed, errors.New("no such thing"))
		for whom, got := range map[string]struct {
			err  error
			want bool
		}{
			"ENI": {o.ofENI(mac), tt.eni}, "removal": {o.ofTable(Table(1)), tt.removal},
			"ready": {o.of(PartNode), tt.ready}, "egress": {o.of(PartEgress), tt.egress}, "log": {o.all(), true},
		} {
			if (got.err != nil) != got.want {
				t.Errorf("%s, for %s: %v", name, whom, got.err)
			}
		}
	}
}

func TestBuildSaysWhatOpsAreFor(t *testing.T) {
	wanted := twoENIs()
	wanted.Egress = nodeSNAT()
	found := bareNode()
	found.Routes = []Route{{Table: 1007, Link: 3, Gateway: netip.MustParseAddr("10.7.0.253")}}
	steps, _ := Build(wanted, found)
	for start, want := range map[string]struct {
		part Part
		mac  string
	}{
		"sysctl -w net/ipv4/ip_forward":          {PartNode, ""},
		"sysctl -w net/ipv6/conf/all/forwarding": {PartNode, ""},
		"ip link set dev eth0 group":             {PartNode, ""},
		"ip rule add pref 1500":                  {PartNode, ""},
		"ip -6 rule add pref 1500":               {PartNode, ""},
		"sysctl -w net/ipv4/conf/eth1/rp_filter": {PartENI, "00:16:3e:00:00:02"},
		"ip link set dev eth1 mtu":               {PartENI, "00:16:3e:00:00:02"},
		"ip route replace default via 10.1.0":    {PartENI, "00:16:3e:00:00:02"},
		"ip rule add pref 2000":                  {PartEgress, ""},
		"sysctl -w net/ipv4/conf/eth0/rp_filter": {PartEgress, ""},
		"nft":                                    {PartEgress, ""},
		"ip route del default via 10.7.0.253":    {PartRest, ""},
		"ip address add 169.254.20.10/32":        {PartRest, ""},
	} {
		found := false
		for _, s := range steps {
			if strings.HasPrefix(s.String(), start) {
				found = true
				if s.Part != want.part || s.MAC != want.mac {
					t.Errorf("%s is for part %d %q, want %d %q", s, s.Part, s.MAC, want.part, want.mac)
				}
			}
		}
		if !found {
			t.Errorf("%q is not in:\n%s", start, text(steps))
		}
	}
}
