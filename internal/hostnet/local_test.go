package hostnet

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
)

// TestLocal is B3: node ports are on any address of the node, or on those that are chosen.
func TestLocal(t *testing.T) {
	t.Parallel()
	addrs := func(texts ...string) (list []netip.Addr) {
		for _, text := range texts {
			list = append(list, netip.MustParseAddr(text))
		}
		return list
	}
	found := bareNode()
	found.Links = append(found.Links, Link{Index: 4, Name: "docker0", Kind: "bridge"}, Link{Index: 5, Name: ipvsLink, Kind: "dummy"})
	found.Addrs[2] = prefixes("10.0.0.3/24", "10.0.0.2/24", "2001:db8::3/64")
	found.Uplinks[IPv6] = []int{2}
	found.Global = map[int][]netip.Addr{
		1: addrs("203.0.113.7"), 2: addrs("10.0.0.3", "10.0.0.2", "2001:db8::3"), 3: addrs("10.0.0.3"), 4: addrs("172.17.0.1"), 5: addrs("10.96.0.1"),
	}
	everywhere := "127.0.0.1 ::1 10.0.0.2 10.0.0.3 172.17.0.1 203.0.113.7 2001:db8::3"
	for name, tt := range map[string]struct {
		ports NodePorts
		want  string
	}{
		"all":                   {NodePorts{}, everywhere},
		"primary":               {NodePorts{Primary: true}, "10.0.0.3 2001:db8::3"},
		"all of IPv4":           {NodePorts{Networks: prefixes("0.0.0.0/0")}, everywhere},
		"one, and all of IPv6":  {NodePorts{Networks: prefixes("172.16.0.0/12")}, "::1 172.17.0.1 2001:db8::3"},
		"one of each family":    {NodePorts{Networks: prefixes("10.0.0.2/32", "fd00::/8")}, "10.0.0.2"},
		"loopback and the rest": {NodePorts{Networks: prefixes("127.0.0.0/8", "10.0.0.0/24", "::1/128")}, "127.0.0.1 ::1 10.0.0.2 10.0.0.3"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var all, chosen []string
			for _, l := range found.local(Wanted{NodePorts: tt.ports}) {
				all = append(all, l.Addr.String())
				if l.NodePorts {
					chosen = append(chosen, l.Addr.String())
				}
			}
			sorted := func(list []string) string { return fmt.Sprint(slices.Sorted(slices.Values(list))) }
			if sorted(all) != sorted(strings.Fields(everywhere)) || sorted(chosen) != sorted(strings.Fields(tt.want)) {
				t.Errorf("node ports on %v of %v, want %s of %s", chosen, all, tt.want, everywhere)
			}
		})
	}
}

func TestOutsideLinks(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		link   Link
		addr   string
		wanted Wanted
		want   bool
	}{
		"a device with an address":    {Link{Name: "eth9", Kind: "device", MAC: "02:00:00:00:00:09"}, "10.7.0.2", Wanted{}, true},
		"an ENI of a lab":             {Link{Name: "eth9", Kind: "veth", MAC: vendorMAC + "00:00:09"}, "10.7.0.2", Wanted{}, true},
		"a device without an address": {Link{Name: "eth9", Kind: "device", MAC: "02:00:00:00:00:09"}, "", Wanted{}, false},
		"a veth":                      {Link{Name: "lxc0", Kind: "veth", MAC: "02:00:00:00:00:09"}, "10.7.0.2", Wanted{}, false},
		"a bridge":                    {Link{Name: "docker0", Kind: "bridge", MAC: vendorMAC + "00:00:09"}, "10.7.0.2", Wanted{}, false},
		"a port of a bridge":          {Link{Name: "eth9", Kind: "device", MAC: "02:00:00:00:00:09", Master: 7}, "10.7.0.2", Wanted{}, false},
		"a tunnel":                    {Link{Name: "tun0", Kind: "device"}, "10.7.0.2", Wanted{}, false},
		"one of ours":                 {Link{Name: "eth9", Kind: "device", MAC: "02:00:00:00:00:09"}, "10.7.0.2", Wanted{Known: []string{"02:00:00:00:00:09"}}, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			found := bareNode()
			found.Attached = map[Attachment]bool{}
			tt.link.Index = 9
			found.Links = append(found.Links, tt.link)
			found.Global = map[int][]netip.Addr{}
			if tt.addr != "" {
				found.Global[9] = []netip.Addr{netip.MustParseAddr(tt.addr)}
			}
			if got := slices.Contains(found.outsideLinks(tt.wanted), tt.link); got != tt.want {
				t.Errorf("outside: %t, want %t", got, tt.want)
			}
			steps, _ := Build(tt.wanted, found)
			if got := strings.Contains(text(steps), "attach program uplink to dev "+tt.link.Name+"\n"); got != tt.want {
				t.Errorf("attached: %t, want %t:\n%s", got, tt.want, text(steps))
			}
			// Without an address, or as a port of a bond, it is no way in any more.
			carry(&found, steps)
			last := &found.Links[len(found.Links)-1]
			if last.Master = 7; tt.want {
				if steps, _ = Build(tt.wanted, found); !strings.Contains(text(steps), "detach program uplink from dev "+tt.link.Name+"\n") {
					t.Errorf("not detached from the port of a bond:\n%s", text(steps))
				}
			}
			last.Master = tt.link.Master
			delete(found.Global, 9)
			steps, _ = Build(tt.wanted, found)
			if got := strings.Contains(text(steps), "detach program uplink from dev "+tt.link.Name+"\n"); got != tt.want {
				t.Errorf("detached: %t, want %t:\n%s", got, tt.want, text(steps))
			}
		})
	}
}
