//go:build node

package hostnet

import (
	"errors"
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/nearpath/nearpath/test/netlab"
)

// churn makes and deletes one pod's link with its address, route and neighbour.
func churn(i int) error {
	name, addr := fmt.Sprintf("np%011x", i), netip.AddrFrom4([4]byte{10, 9, byte(i >> 8), byte(i)})
	attrs := netlink.NewLinkAttrs()
	attrs.Name = name
	veth := netlink.NewVeth(attrs)
	veth.PeerName = fmt.Sprintf("np%011x", 1<<20+i)
	r := func(l netlink.Link) *netlink.Route {
		return &netlink.Route{LinkIndex: l.Attrs().Index, Dst: ipNet(netip.PrefixFrom(addr, 32)), Scope: netlink.SCOPE_LINK, Protocol: Protocol}
	}
	return errors.Join(netlink.LinkAdd(veth), up(name), address(name, "169.254.1.1/32"), neighbour(name, addr, otherMAC),
		setSysctl("net/ipv4/conf/"+name+"/rp_filter", "2")(nil),
		on(name, func(l netlink.Link) error { return errors.Join(netlink.RouteAdd(r(l)), netlink.LinkDel(l)) }))
}

// Pods' links come and go without a comparison; what comes after them is seen at once.
func TestPodsCauseNoComparison(t *testing.T) {
	const pods, handful = 200, 3
	n := node(t)
	h := running(t, n)
	mustEnsure(t, h, theENI())
	quiet(t, h)
	before, start := h.passes.Load(), time.Now()
	inside(t, n, func() error {
		for i := range pods {
			if err := churn(i); err != nil {
				return err
			}
		}
		return nil
	})
	took, passes := time.Since(start), h.passes.Load()-before
	t.Logf("%d pods in %v: %d comparisons", pods, took.Round(time.Millisecond), passes)
	if most := handful + int64(took/h.interval); passes > most {
		t.Errorf("%d comparisons, want no more than %d", passes, most)
	}
	inside(t, n, func() error { return withENI(func(l netlink.Link) error { return netlink.LinkSetGroup(l, 0) }) })
	eventually(t, "group", func() bool { return len(asWanted(t, n, Wanted{ENIs: []ENI{theENI()}})) == 0 })
}

// quiet returns when no comparison was made for longer than changes are collected.
func quiet(t *testing.T, h *Host) {
	t.Helper()
	for last, since := h.passes.Load(), time.Now(); time.Since(since) < 3*settle; {
		if now := h.passes.Load(); now != last {
			last, since = now, time.Now()
		}
		time.Sleep(settle / 10)
	}
}

// BenchmarkComparison is what one comparison costs on a node with pods.
func BenchmarkComparison(b *testing.B) {
	lab, err := netlab.New("npcompare")
	if err != nil {
		b.Fatal(err)
	}
	defer lab.Close()
	n, err := lab.NetNS("node")
	if err != nil {
		b.Fatal(err)
	}
	err = n.Do(func() error {
		errs := []error{addVeth("eth0", "02:16:3e:00:00:01", 1400), addVeth("eth5", eniMAC, 1500), routeBy("eth0")}
		for i := range 100 {
			name := fmt.Sprint("np", i) // its far end's name is longer
			errs = append(errs, addVeth(name, otherMAC, 1400), up(name), route(name, netip.AddrFrom4([4]byte{10, 9, 0, byte(i)}).String()+"/32", ""))
		}
		return errors.Join(errs...)
	})
	if err != nil {
		b.Fatal(err)
	}
	h, err := New(Config{NetNS: n.Path(), Log: discard()})
	if err != nil {
		b.Fatal(err)
	}
	defer h.Close()
	h.Want(theENI())
	for b.Loop() {
		h.compare()
	}
}
