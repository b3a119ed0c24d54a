//go:build node

package hostnet

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"github.com/nearpath/nearpath/test/netlab"
)

const (
	eniMAC    = "02:16:3e:00:00:02"
	otherMAC  = "02:16:3e:00:00:03"
	gatewayIP = "10.1.0.253"
)

func node(t *testing.T) *netlab.NetNS {
	t.Helper()
	lab, err := netlab.New("nphost")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := lab.Close(); err != nil {
			t.Error(err)
		}
	})
	n, err := lab.NetNS("node")
	if err != nil {
		t.Fatal(err)
	}
	inside(t, n, func() error {
		return errors.Join(addVeth("eth0", "02:16:3e:00:00:01", 1400), addVeth("eth5", eniMAC, 1500), routeBy("eth0"))
	})
	return n
}

func inside(t *testing.T, n *netlab.NetNS, f func() error) {
	t.Helper()
	if err := n.Do(f); err != nil {
		t.Fatal(err)
	}
}

func addVeth(name, mac string, mtu int) error {
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MTU = name, mtu
	hw, err := net.ParseMAC(mac)
	if err != nil {
		return err
	}
	attrs.HardwareAddr = hw
	veth := netlink.NewVeth(attrs)
	veth.PeerName = "far-" + name
	if err := netlink.LinkAdd(veth); err != nil {
		return err
	}
	far, err := netlink.LinkByName(veth.PeerName)
	if err != nil {
		return err
	}
	return netlink.LinkSetUp(far)
}

func routeBy(name string) error {
	l, err := netlink.LinkByName(name)
	if err != nil {
		return err
	}
	addr, err := netlink.ParseAddr("10.0.0.2/24")
	if err != nil {
		return err
	}
	gateway := netip.MustParseAddr("10.0.0.253").AsSlice()
	return errors.Join(netlink.AddrAdd(l, addr), netlink.LinkSetUp(l), netlink.RouteAdd(&netlink.Route{LinkIndex: l.Attrs().Index, Gw: gateway}))
}

// running starts a Host that wants the ENIs.
func running(t *testing.T, n *netlab.NetNS, enis ...ENI) *Host {
	t.Helper()
	h, err := New(Config{NetNS: n.Path(), NodeDNS: []netip.Addr{netip.MustParseAddr("169.254.20.10")}, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range enis {
		h.Want(e)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- h.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := errors.Join(<-done, h.Close()); err != nil {
			t.Error(err)
		}
	})
	select {
	case <-h.Ready():
	case <-time.After(patience):
		t.Fatal("not ready")
	}
	return h
}

func discard() *slog.Logger { return slog.New(slog.DiscardHandler) }

func mustEnsure(t *testing.T, h *Host, e ENI) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := h.EnsureENI(ctx, e); err != nil {
		t.Fatal(err)
	}
}

func theENI() ENI {
	return ENI{MAC: eniMAC, Slot: 1, Nets: []Net{network(gatewayIP + "/24"), network("fd00:1::253/64")}}
}

// asWanted reads the kernel and says what is still to be done. What is being changed cannot be read now and then.
func asWanted(t *testing.T, n *netlab.NetNS, wanted Wanted) []Step {
	t.Helper()
	var ops []Step
	err := n.Do(func() error {
		found, err := read(wanted)
		if err != nil {
			return err
		}
		found.NAT, err = readNAT()
		ops, _ = Build(wanted, found)
		return err
	})
	if err != nil {
		return []Step{{Op: Refuse{"read", err}}}
	}
	return ops
}

// patience bounds every wait for what must come.
const patience = time.Minute

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(patience)
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatalf("%s: not within %v", what, patience)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

func TestHostIsBroughtIntoStateAndKept(t *testing.T) {
	defer goleak.VerifyNone(t)
	t.Run("", func(t *testing.T) {
		n := node(t)
		h := running(t, n)
		mustEnsure(t, h, theENI())
		wanted := Wanted{ENIs: []ENI{theENI()}, NodeDNS: []netip.Addr{netip.MustParseAddr("169.254.20.10")}}
		if ops := asWanted(t, n, wanted); len(ops) != 0 {
			t.Fatalf("still to do:\n%s", text(ops))
		}
		if h.MTU() != 1400 {
			t.Errorf("MTU is %d", h.MTU())
		}
		for name, breakIt := range map[string]func() error{
			"rule":      func() error { return netlink.RuleDel(kernelRule(mainRule(IPv4))) },
			"IPv6 rule": func() error { return netlink.RuleDel(kernelRule(mainRule(IPv6))) },
			"link down": func() error { return withENI(netlink.LinkSetDown) },
			"group":     func() error { return withENI(func(l netlink.Link) error { return netlink.LinkSetGroup(l, 0) }) },
			"route": func() error {
				return withENI(func(l netlink.Link) error {
					return netlink.RouteDel(kernelRoute(Route{Table: 1001, Link: l.Attrs().Index, Gateway: netip.MustParseAddr(gatewayIP)}))
				})
			},
			"IPv6 route": func() error {
				return withENI(func(l netlink.Link) error {
					return netlink.RouteDel(kernelRoute(Route{Table: 1001, Link: l.Attrs().Index, Gateway: netip.MustParseAddr("fd00:1::253")}))
				})
			},
			"lo address": func() error {
				lo, err := netlink.LinkByName("lo")
				if err != nil {
					return err
				}
				addr, err := netlink.ParseAddr("169.254.20.10/32")
				return errors.Join(err, netlink.AddrDel(lo, addr))
			},
		} {
			inside(t, n, breakIt)
			eventually(t, name, func() bool { return len(asWanted(t, n, wanted)) == 0 })
		}
		if err := h.RemoveENI(t.Context(), eniMAC); err != nil {
			t.Fatal(err)
		}
		inside(t, n, func() error {
			found, err := read(Wanted{})
			if l, ok := found.link(func(l Link) bool { return l.MAC == eniMAC }); !ok || l.Group != 0 {
				t.Errorf("link of the former ENI: %+v", l)
			}
			if len(found.Routes) != 0 {
				t.Errorf("routes left: %v", found.Routes)
			}
			return err
		})
	})
}

// What is wrong with one ENI keeps neither the node nor the other ENIs from being used.
func TestOneBadENI(t *testing.T) {
	n := node(t)
	inside(t, n, func() error { return addVeth("eth6", otherMAC, 1500) })
	bad := ENI{MAC: otherMAC, Slot: 2, Nets: []Net{{netip.MustParsePrefix("10.2.0.0/24"), netip.MustParseAddr("224.0.0.1")}}} // no gateway
	h := running(t, n, bad)
	mustEnsure(t, h, theENI())
	if err := h.SetEgress(Egress{Mode: EgressNone}); err != nil {
		t.Error(err)
	}
	if err := h.EnsureENI(t.Context(), bad); err == nil || errors.Is(err, ErrLinkAbsent) {
		t.Errorf("bad ENI: %v", err)
	}
	if err := h.RemoveENI(t.Context(), eniMAC); err != nil {
		t.Error(err)
	}
}

// The uplinks are told from an ENI with a default route of a DHCP client, and all paths of a route count.
func TestUplinksAreRead(t *testing.T) {
	n := node(t)
	inside(t, n, func() error {
		eth0, err := netlink.LinkByName("eth0")
		if err != nil {
			return err
		}
		if err := errors.Join(addVeth("eth1", otherMAC, 1500), up("eth1"), up("eth5")); err != nil {
			return err
		}
		other, err := netlink.LinkByName("eth1")
		if err != nil {
			return err
		}
		gateway := netip.MustParseAddr("10.0.0.253").AsSlice()
		everything := ipNet(netip.MustParsePrefix("0.0.0.0/0"))
		err = errors.Join(
			withENI(func(l netlink.Link) error {
				return netlink.RouteReplace(&netlink.Route{LinkIndex: l.Attrs().Index, Dst: everything, Scope: netlink.SCOPE_LINK})
			}),
			netlink.RouteAdd(&netlink.Route{Dst: everything, Priority: 10, MultiPath: []*netlink.NexthopInfo{
				{LinkIndex: eth0.Attrs().Index, Gw: gateway}, {LinkIndex: other.Attrs().Index, Gw: gateway, Flags: int(netlink.FLAG_ONLINK)},
			}}))
		if err != nil {
			return err
		}
		found, err := read(Wanted{ENIs: []ENI{theENI()}})
		if want := []int{eth0.Attrs().Index, other.Attrs().Index}; !slices.Equal(found.Uplinks[IPv4], want) {
			t.Errorf("uplinks %v, want %v", found.Uplinks[IPv4], want)
		}
		return err
	})
}

func withENI(f func(netlink.Link) error) error {
	l, err := netlink.LinkByName("eth5")
	if err != nil {
		return err
	}
	return f(l)
}

// An ENI's link appears some time after the cloud says that it is attached, under any name.
func TestEnsureWaitsForTheLink(t *testing.T) {
	n := node(t)
	h := running(t, n)
	late := ENI{MAC: otherMAC, Slot: 2, Nets: []Net{network("10.2.0.253/24")}}
	short, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := h.EnsureENI(short, late); !errors.Is(err, ErrLinkAbsent) {
		t.Fatalf("without a link: %v", err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		mustEnsure(t, h, late)
	}()
	inside(t, n, func() error { return addVeth("surprise", otherMAC, 1500) })
	<-done
	if ops := asWanted(t, n, Wanted{ENIs: []ENI{late}}); len(ops) != 0 {
		t.Errorf("still to do:\n%s", text(ops))
	}
}

// Many who wait for links read the kernel together and not for each of many events.
func TestWaitersShareComparisons(t *testing.T) {
	const waiters, events = 30, 60
	n := node(t)
	h := running(t, n)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, waiters)
	before, start := h.passes.Load(), time.Now()
	for i := range waiters {
		e := ENI{MAC: fmt.Sprintf("02:16:3e:00:01:%02x", i), Slot: 10 + i, Nets: []Net{network("10.2.0.253/24")}}
		go func() { done <- h.EnsureENI(ctx, e) }()
	}
	for i := range events {
		inside(t, n, func() error { return withENI(func(l netlink.Link) error { return netlink.LinkSetMTU(l, 1300+i) }) })
		time.Sleep(settle / 20) // events that are further apart than a read takes
	}
	time.Sleep(2 * settle) // until the last is seen
	cancel()
	for range waiters {
		if err := <-done; !errors.Is(err, ErrLinkAbsent) {
			t.Error(err)
		}
	}
	// Those who come in one after the other in a burst take two: the first and all others. Run and the waiters may be apart.
	bursts := int64(time.Since(start)/settle) + 2
	if passes := h.passes.Load() - before; passes > 4*bursts {
		t.Errorf("%d comparisons, want no more than 4 in each of %d bursts", passes, bursts)
	}
}

// A foreign rule and route with other protocol numbers are not ours to delete.
func TestForeignRoutingIsLeftAlone(t *testing.T) {
	n := node(t)
	inside(t, n, func() error {
		r := kernelRule(mainRule(IPv4))
		r.Protocol = unix.RTPROT_STATIC
		l, err := netlink.LinkByName("eth5")
		if err != nil {
			return err
		}
		route := kernelRoute(Route{Table: 1009, Link: l.Attrs().Index, Gateway: netip.MustParseAddr(gatewayIP)})
		route.Protocol = unix.RTPROT_STATIC
		return errors.Join(netlink.RuleAdd(r), netlink.LinkSetUp(l), netlink.RouteAdd(route))
	})
	h := running(t, n)
	mustEnsure(t, h, theENI())
	inside(t, n, func() error {
		rules, err := netlink.RuleListFiltered(netlink.FAMILY_V4, &netlink.Rule{Priority: PriorityMain}, netlink.RT_FILTER_PRIORITY)
		if len(rules) != 2 {
			t.Errorf("rules at %d: %v", PriorityMain, rules)
		}
		routes, routesErr := netlink.RouteListFiltered(netlink.FAMILY_V4, &netlink.Route{Table: 1009}, netlink.RT_FILTER_TABLE)
		if len(routes) != 1 {
			t.Errorf("routes of a foreign table: %v", routes)
		}
		return errors.Join(err, routesErr)
	})
}

func TestMain(m *testing.M) {
	if err := netlab.RequireRoot(); err != nil {
		println("hostnet: " + err.Error())
		os.Exit(1)
	}
	os.Exit(m.Run())
}
