//go:build node

package hostnet

import (
	"errors"
	"net/netip"
	"slices"
	"testing"

	"github.com/vishvananda/netlink"
)

// Where the kernel has no ipvlan the caller is told so, and the ENI goes on serving other pods.
func TestIPVlanWithoutKernelSupport(t *testing.T) {
	err := SupportsIPVlan()
	if err == nil {
		t.Log("this kernel has ipvlan: the lane of virtual machines is for it")
		return
	}
	if !errors.Is(err, ErrNoIPVlan) {
		t.Fatal(err)
	}
	n := node(t)
	h := running(t, n)
	if _, err := h.IPVlan(t.Context(), eniMAC); err == nil || errors.Is(err, ErrNoIPVlan) {
		t.Errorf("an ENI that is not wanted: %v", err)
	}
	mustEnsure(t, h, theENI())
	if _, err := h.IPVlan(t.Context(), eniMAC); !errors.Is(err, ErrNoIPVlan) {
		t.Errorf("error is %v", err)
	}
	result := h.compare()
	if err := result.all(); err != nil {
		t.Errorf("still wanted: %v", err)
	}
}

// A bridge takes all frames of its ports.
func TestIPVlanRefusesForeignMaster(t *testing.T) {
	n := node(t)
	h := running(t, n)
	mustEnsure(t, h, theENI())
	inside(t, n, func() error {
		attrs := netlink.NewLinkAttrs()
		attrs.Name = "theirs"
		bridge := &netlink.Bridge{LinkAttrs: attrs}
		return errors.Join(netlink.LinkAdd(bridge), withENI(func(l netlink.Link) error { return netlink.LinkSetMaster(l, bridge) }))
	})
	if _, err := h.IPVlan(t.Context(), eniMAC); !errors.Is(err, ErrForeignMaster) {
		t.Errorf("error is %v", err)
	}
	result := h.compare()
	if err := result.all(); err != nil {
		t.Errorf("still wanted: %v", err)
	}
}

func TestRemoveLeavesNothing(t *testing.T) {
	s := newSite(t)
	check(t, s.host.SetEgress(s.egress()))
	s.stop()
	dns := []netip.Addr{netip.MustParseAddr("169.254.20.10"), netip.MustParseAddr("fd6e::53")}
	for _, a := range dns {
		inside(t, s.node, func() error { return addLoopback(netip.PrefixFrom(a, a.BitLen())) })
	}
	for range 2 {
		inside(t, s.node, func() error { return Remove(t.Context(), dns) })
	}
	inside(t, s.node, func() error {
		found, err := read(Wanted{})
		nat, natErr := readNAT()
		if len(found.Rules) != 0 || len(found.Routes) != 0 || nat != nil {
			t.Errorf("left: rules %v, routes %v, NAT %v", found.Rules, found.Routes, nat)
		}
		for _, l := range found.Links {
			if l.Group == LinkGroup {
				t.Errorf("%s is still in the group", l)
			}
		}
		check(t, onENI(func(l netlink.Link) error {
			addrs, err := netlink.AddrList(l, netlink.FAMILY_V4)
			if len(addrs) != 0 {
				t.Errorf("addresses of the ENI: %v", addrs)
			}
			return err
		})(s))
		for _, p := range found.Loopback {
			if slices.Contains(dns, p.Addr()) {
				t.Errorf("the node DNS address %s is still there", p)
			}
		}
		return errors.Join(err, natErr)
	})
}
