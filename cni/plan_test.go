package cni

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func text(ops []Op) string {
	var b strings.Builder
	for _, op := range ops {
		b.WriteString(op.String() + "\n")
	}
	return b.String()
}

func TestPlan(t *testing.T) {
	k := Key{"net", "c1", "eth0"}
	lease := Lease{Addrs: []netip.Addr{netip.MustParseAddr("10.1.2.3"), netip.MustParseAddr("fd00::3")}, Slot: 2}
	want := `host: ip link add np6e5fcbeeefc address 0a:1a:87:0e:fd:ff mtu 1400 alias "nearpath:net/c1/eth0" type veth peer name eth0 address 0e:1a:87:0e:fd:ff netns pod
host: sysctl -w net/ipv4/conf/np6e5fcbeeefc/forwarding=1
host: sysctl -w net/ipv4/conf/np6e5fcbeeefc/rp_filter=2
host: sysctl -w net/ipv6/conf/np6e5fcbeeefc/accept_ra=0
host: sysctl -w net/ipv6/conf/np6e5fcbeeefc/addr_gen_mode=1
pod: sysctl -w net/ipv6/conf/eth0/accept_ra=0
pod: sysctl -w net/ipv6/conf/eth0/accept_dad=0
pod: sysctl -w net/ipv6/conf/eth0/disable_ipv6=0
host: ip link set dev np6e5fcbeeefc up
pod: ip link set dev eth0 up
pod: ip address add 10.1.2.3/32 dev eth0
pod: ip neighbour replace 169.254.1.1 lladdr 0a:1a:87:0e:fd:ff dev eth0 nud permanent
pod: ip route replace 0.0.0.0/0 via 169.254.1.1 dev eth0 onlink
pod: ip address add fd00::3/128 dev eth0 nodad
pod: ip neighbour replace fe80::1 lladdr 0a:1a:87:0e:fd:ff dev eth0 nud permanent
pod: ip route replace ::/0 via fe80::1 dev eth0 onlink
host: ip neighbour replace 10.1.2.3 lladdr 0e:1a:87:0e:fd:ff dev np6e5fcbeeefc nud permanent
host: ip route replace 10.1.2.3/32 dev np6e5fcbeeefc scope link proto 110
host: ip rule add pref 2048 from 10.1.2.3 lookup 1002 proto 110
host: ip neighbour replace fd00::3 lladdr 0e:1a:87:0e:fd:ff dev np6e5fcbeeefc nud permanent
host: ip route replace fd00::3/128 dev np6e5fcbeeefc scope link proto 110
host: ip rule add pref 2048 from fd00::3 lookup 1002 proto 110
`
	if diff := cmp.Diff(want, text(Plan(k, lease, 1400))); diff != "" {
		t.Error(diff)
	}
}

func TestUnplan(t *testing.T) {
	want := `host: ip rule del pref 2048 from 10.1.2.3 proto 110
host: ip link del np6e5fcbeeefc
`
	if diff := cmp.Diff(want, text(Unplan(Key{"net", "c1", "eth0"}, []netip.Addr{netip.MustParseAddr("10.1.2.3")}))); diff != "" {
		t.Error(diff)
	}
}

// A kernel's link name has at most 15 characters.
func TestNamesDiffer(t *testing.T) {
	names, macs := map[string]Key{}, map[string]Key{}
	for _, k := range []Key{{"net", "c1", "eth0"}, {"net", "c1", "eth1"}, {"net", "c2", "eth0"}, {"net2", "c1", "eth0"}} {
		host, pod := k.macs()
		for _, m := range []string{host.String(), pod.String()} {
			if other, twice := macs[m]; twice {
				t.Errorf("%s and %s have the MAC address %s", k, other, m)
			}
			macs[m] = k
		}
		if host[0]&3 != 2 || pod[0]&3 != 2 {
			t.Errorf("%s: %s, %s are not local unicast addresses", k, host, pod)
		}
		if other, twice := names[k.HostLink()]; twice || len(k.HostLink()) > 15 {
			t.Errorf("%s has the name %s, as %s", k, k.HostLink(), other)
		}
		names[k.HostLink()] = k
	}
}
