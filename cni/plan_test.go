package cni

import (
	"flag"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/nearpath/nearpath/internal/hostnet"
)

func text(ops []Op) string {
	var b strings.Builder
	for _, op := range ops {
		b.WriteString(op.String() + "\n")
	}
	return b.String()
}

// Golden files hold what each datapath does for each family; -update writes them.
var update = flag.Bool("update", false, "write testdata instead of comparing with it")

func wiringOf(datapath Datapath, addrs ...string) Wiring {
	w := Wiring{
		Key: Key{"net", "c1", "eth0"}, Datapath: datapath, MTU: 1400,
		Lease: Lease{Slot: 2, MAC: "00:16:3e:01:02:03", Exclusive: datapath == Exclusive, Nets: []hostnet.Net{
			{Subnet: netip.MustParsePrefix("10.1.2.0/24"), Gateway: netip.MustParseAddr("10.1.2.253")},
			{Subnet: netip.MustParsePrefix("fd00::/64"), Gateway: netip.MustParseAddr("fd00::253")},
		}},
	}
	for _, a := range addrs {
		w.Lease.Addrs = append(w.Lease.Addrs, netip.MustParseAddr(a))
	}
	if datapath == Veth {
		return w
	}
	w.Node = []netip.Addr{netip.MustParseAddr("10.8.0.2"), netip.MustParseAddr("fd08::2"), netip.MustParseAddr("169.254.20.10")}
	w.Networks = []netip.Prefix{netip.MustParsePrefix("172.17.0.0/16"), netip.MustParsePrefix("0.0.0.0/0")}
	if datapath == IPVlan {
		w.Companion = hostnet.Companion{Parent: "eth1", Link: "npc2"}
	}
	return w
}

func TestPlans(t *testing.T) {
	const v4, v6 = "10.1.2.3", "fd00::3"
	for _, datapath := range datapaths {
		for family, addrs := range map[string][]string{"v4": {v4}, "v6": {v6}, "dual": {v4, v6}} {
			t.Run(string(datapath)+" "+family, func(t *testing.T) {
				w := wiringOf(datapath, addrs...)
				if err := w.check(); err != nil {
					t.Fatal(err)
				}
				quiet, rest := Unplan(w)
				got := "# ADD\n" + text(Plan(w)) + "# DEL\n" + text(quiet) + "# the datapath forgets the pod\n" + text(rest)
				path := filepath.Join("testdata", "plans", fmt.Sprintf("%s-%s.txt", datapath, family))
				if *update {
					if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
						t.Fatal(err)
					}
				}
				want, err := os.ReadFile(path)
				if err != nil {
					t.Fatal(err)
				}
				if diff := cmp.Diff(string(want), got); diff != "" {
					t.Error(diff)
				}
			})
		}
	}
}

// What cannot be planned is said beforehand.
func TestWiringCheck(t *testing.T) {
	for name, change := range map[string]func(*Wiring){
		"no MAC address": func(w *Wiring) { w.Lease.MAC = "" },
		"no gateway":     func(w *Wiring) { w.Lease.Nets = w.Lease.Nets[1:] },
		"no companion":   func(w *Wiring) { w.Companion = hostnet.Companion{} },
	} {
		w := wiringOf(IPVlan, "10.1.2.3")
		change(&w)
		if err := w.check(); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	w := wiringOf(Veth, "10.1.2.3")
	w.Lease.MAC, w.Lease.Nets = "", nil
	if err := w.check(); err != nil {
		t.Error(err)
	}
}

// An attachment that nothing is known of but its key is taken apart as one of veth and as one of ipvlan.
func TestUnplanUnknown(t *testing.T) {
	w := wiringOf("", "10.1.2.3")
	quiet, rest := Unplan(w)
	want := `pod: ip link del eth0
host: ip route del 10.1.2.3/32 proto 110, and its neighbour entry
host: ip link del np6e5fcbeeefc
`
	if diff := cmp.Diff(want, text(quiet)+text(rest)); diff != "" {
		t.Error(diff)
	}
}

// Pods forget what of the node has gone, and keep what stays.
func TestForget(t *testing.T) {
	last, next := wiringOf(IPVlan, "10.1.2.3"), wiringOf(IPVlan, "10.1.2.3")
	next.Node = []netip.Addr{netip.MustParseAddr("10.8.0.3"), netip.MustParseAddr("169.254.20.10")}
	want := `pod: ip neighbour del 10.8.0.2 dev eth0
pod: ip route del 10.8.0.2/32 dev eth0
`
	if diff := cmp.Diff(want, text(forget(last, next))); diff != "" {
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
