//go:build node

package sim_test

import (
	"fmt"
	"net"
	"net/http/httptest"
	"net/netip"
	"os"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/nearpath/nearpath/internal/aliyun"
	"github.com/nearpath/nearpath/internal/aliyun/sim"
	"github.com/nearpath/nearpath/test/netlab"
)

// newDualStackWorld is newWorld with IPv6 in the VPC and in the machines.
func newDualStackWorld(t *testing.T, prefix string) *world {
	t.Helper()
	w := newWorld(t, prefix, newGuard(t))
	cfg := sim.DualStackConfig()
	cfg.Fabric = w.vpc
	if err := w.cloud.Close(); err != nil {
		t.Fatal(err)
	}
	var err error
	if w.cloud, err = sim.New(cfg); err != nil {
		t.Fatal(err)
	}
	api := httptest.NewServer(w.cloud.Handler())
	t.Cleanup(api.Close)
	creds := aliyun.StaticCredentials{AccessKeyID: sim.DefaultAccessKey, AccessKeySecret: sim.DefaultAccessSecret}
	if w.ecs, err = aliyun.NewClient(aliyun.Config{RegionID: sim.DefaultRegion, Endpoint: api.URL, Credentials: creds}); err != nil {
		t.Fatal(err)
	}
	return w
}

// run6 starts a machine that has IPv6, and gives it the address that its metadata tells.
func (w *world) run6(id string) (*netlab.NetNS, aliyun.ENI) {
	w.t.Helper()
	ns := w.namespace(id)
	w.in(ns, func() error {
		for _, name := range []string{"all", "default", "lo"} {
			if err := os.WriteFile("/proc/sys/net/ipv6/conf/"+name+"/disable_ipv6", []byte("0"), 0o644); err != nil {
				return err
			}
		}
		return nil
	})
	_, eni, err := w.cloud.RunInstance(w.t.Context(), sim.InstanceSpec{
		ID: id, Type: "ecs.sim.xlarge", VSwitchID: sim.DefaultNodeVSwitch, NetNS: ns.Path(), IPv6s: 1,
	})
	if err != nil {
		w.t.Fatal(err)
	}
	w.use6(ns, eni.MAC, eni.IPv6s[0], 64)
	return ns, eni
}

// use6 gives the machine an address on the link with the MAC. With 64 bits its neighbours are on the link, as a system in
// the cloud has it, and the address is checked for duplicates. With 128 everything goes to the gateway of the pods' vSwitch,
// by a rule.
func (w *world) use6(ns *netlab.NetNS, mac string, addr netip.Addr, bits int) {
	w.t.Helper()
	w.in(ns, func() error {
		link, err := linkByMAC(mac)
		if err != nil {
			return err
		}
		if err := netlink.LinkSetUp(link); err != nil {
			return err
		}
		ipNet := &net.IPNet{IP: addr.AsSlice(), Mask: net.CIDRMask(bits, 128)}
		own := &netlink.Addr{IPNet: ipNet}
		if bits == 128 {
			own.Flags = unix.IFA_F_NODAD
		}
		if err := netlink.AddrReplace(link, own); err != nil {
			return err
		}
		route := &netlink.Route{
			LinkIndex: link.Attrs().Index, Gw: net.ParseIP("2001:db8:10:0:ffff:ffff:ffff:fffd"), Flags: int(netlink.FLAG_ONLINK),
		}
		if bits == 128 {
			route.Gw, route.Table = net.ParseIP("2001:db8:10:40:ffff:ffff:ffff:fffd"), 1000+link.Attrs().Index
			rule := netlink.NewRule()
			rule.Family, rule.Src, rule.Table = netlink.FAMILY_V6, ipNet, route.Table
			if err := netlink.RuleAdd(rule); err != nil {
				return err
			}
		}
		if err := netlink.RouteReplace(route); err != nil {
			return err
		}
		return waitForAddress(link, addr)
	})
	w.waitForLinks(ns)
	w.waitForLinks(w.vpcNS)
}

// waitForAddress waits until nobody else turned out to have the address.
func waitForAddress(link netlink.Link, addr netip.Addr) error {
	for start := time.Now(); ; time.Sleep(5 * time.Millisecond) {
		addrs, err := netlink.AddrList(link, netlink.FAMILY_V6)
		if err != nil {
			return err
		}
		for _, a := range addrs {
			switch got, _ := netip.AddrFromSlice(a.IP); {
			case got == addr && a.Flags&unix.IFA_F_DADFAILED != 0:
				return fmt.Errorf("%s is taken for a duplicate", addr)
			case got == addr && a.Flags&unix.IFA_F_TENTATIVE == 0 && isLocal(addr):
				return nil
			}
		}
		if time.Since(start) > patience {
			return fmt.Errorf("%s stays tentative", addr)
		}
	}
}

// isLocal reports whether packets to the address end here, which begins a moment after the address is there.
func isLocal(addr netip.Addr) bool {
	dst := &net.IPNet{IP: addr.AsSlice(), Mask: net.CIDRMask(128, 128)}
	routes, err := netlink.RouteListFiltered(netlink.FAMILY_V6, &netlink.Route{Table: unix.RT_TABLE_LOCAL, Dst: dst}, netlink.RT_FILTER_TABLE|netlink.RT_FILTER_DST)
	return err == nil && len(routes) > 0
}

func (w *world) socket6(ns *netlab.NetNS, addr netip.Addr) net.PacketConn {
	w.t.Helper()
	var pc net.PacketConn
	w.in(ns, func() (err error) {
		pc, err = net.ListenPacket("udp6", netip.AddrPortFrom(addr, 0).String())
		return err
	})
	w.t.Cleanup(func() { pc.Close() })
	if err := pc.SetDeadline(time.Now().Add(patience)); err != nil {
		w.t.Fatal(err)
	}
	return pc
}

func TestIPv6BetweenENIs(t *testing.T) {
	w := newDualStackWorld(t, "nptest-vpc-six")
	ns1, primary1 := w.run6("i-1")
	ns2, primary2 := w.run6("i-2")
	t.Run("primary to primary, as neighbours", func(t *testing.T) {
		exchange(t, w.socket6(ns1, primary1.IPv6s[0]), w.socket6(ns2, primary2.IPv6s[0]))
	})
	var pods [2]netip.Addr
	var enis [2]aliyun.ENI
	for i, ns := range []*netlab.NetNS{ns1, ns2} {
		eni, err := w.ecs.CreateENI(t.Context(), aliyun.CreateENI{
			VSwitchID: sim.DefaultPodVSwitch, SecurityGroupIDs: []string{sim.DefaultSecurityGroup}, IPv6s: 1,
		})
		if err != nil {
			t.Fatal(err)
		}
		if err := w.ecs.AttachENI(t.Context(), eni.ID, fmt.Sprint("i-", i+1)); err != nil {
			t.Fatal(err)
		}
		enis[i], pods[i] = eni, eni.IPv6s[0]
		w.use6(ns, eni.MAC, pods[i], 128)
	}
	t.Run("secondary to secondary, by the gateway", func(t *testing.T) {
		exchange(t, w.socket6(ns1, pods[0]), w.socket6(ns2, pods[1]))
	})
	t.Run("across vSwitches", func(t *testing.T) {
		exchange(t, w.socket6(ns1, pods[0]), w.socket6(ns2, primary2.IPv6s[0]))
	})
	t.Run("address assigned later", func(t *testing.T) {
		added, err := w.ecs.AssignIPs(t.Context(), aliyun.Assign{ENIID: enis[0].ID, Family: aliyun.IPv6, Count: 1})
		if err != nil {
			t.Fatal(err)
		}
		w.use6(ns1, enis[0].MAC, added[0], 128)
		exchange(t, w.socket6(ns1, added[0]), w.socket6(ns2, pods[1]))
	})
	t.Run("IPv4 beside it", func(t *testing.T) {
		exchange(t, w.socket(ns1, primary1.PrimaryIP), w.socket(ns2, primary2.PrimaryIP))
	})
	for _, id := range []string{primary1.ID, primary2.ID, enis[0].ID, enis[1].ID} {
		if n, err := w.vpc.Dropped(id); err != nil || n != 0 {
			t.Errorf("%d frames of %s were dropped, %v", n, id, err)
		}
	}
	t.Run("unassigned source", func(t *testing.T) {
		foreign, target := w.socket6(ns1, pods[0]), w.socket6(ns2, primary2.IPv6s[0])
		exchange(t, foreign, target)
		if err := w.ecs.UnassignIPs(t.Context(), enis[0].ID, pods[:1]); err != nil {
			t.Fatal(err)
		}
		send(t, foreign, target, "foreign")
		own := w.socket6(ns1, primary1.IPv6s[0])
		send(t, own, target, "own")
		if got := receive(t, target, own); got != "own" {
			t.Errorf("received %q, want only what has a source of its ENI", got)
		}
		if n, err := w.vpc.Dropped(enis[0].ID); err != nil || n != 1 {
			t.Errorf("%d frames were dropped, %v; want 1", n, err)
		}
	})
}

// A link that goes with the namespace of a pod comes back to the machine, and works there.
func TestENIComesBack(t *testing.T) {
	w := newWorld(t, "nptest-vpc-back", newGuard(t))
	ns1, _ := w.run("i-1")
	ns2, primary2 := w.run("i-2")
	eni := w.attach("i-1", 1)
	for round := range 3 {
		pod := w.namespace(fmt.Sprint("pod", round))
		w.in(ns1, func() error {
			link, err := linkByMAC(eni.MAC)
			if err != nil {
				return err
			}
			return move(link, pod)
		})
		if got := fmt.Sprint(w.links(ns1)); got != "[eth0 lo]" {
			t.Fatalf("the ENI is in the pod, and yet the machine has %s", got)
		}
		if err := pod.Close(); err != nil {
			t.Fatal(err)
		}
		for start := time.Now(); fmt.Sprint(w.links(ns1)) != "[eth0 eth1 lo]"; time.Sleep(5 * time.Millisecond) {
			if time.Since(start) > patience {
				t.Fatalf("the machine has %v", w.links(ns1))
			}
		}
	}
	w.use(ns1, eni.MAC, eni.PrivateIPs[1])
	exchange(t, w.socket(ns1, eni.PrivateIPs[1]), w.socket(ns2, primary2.PrimaryIP))
	added, err := w.ecs.AssignIPs(t.Context(), aliyun.Assign{ENIID: eni.ID, Family: aliyun.IPv4, Count: 1})
	if err != nil {
		t.Fatal(err)
	}
	w.use(ns1, eni.MAC, added[0])
	exchange(t, w.socket(ns1, added[0]), w.socket(ns2, primary2.PrimaryIP))
	if err := w.ecs.DetachENI(t.Context(), eni.ID, "i-1"); err != nil {
		t.Fatal(err)
	}
	if got := fmt.Sprint(w.links(ns1)); got != "[eth0 lo]" {
		t.Errorf("after the detachment the machine has %s", got)
	}
}

// move keeps nothing open that would keep the namespace alive.
func move(link netlink.Link, to *netlab.NetNS) error {
	f, err := os.Open(to.Path())
	if err != nil {
		return err
	}
	defer f.Close()
	return netlink.LinkSetNsFd(link, int(f.Fd()))
}
