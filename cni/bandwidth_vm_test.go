//go:build vm

package cni

import (
	"testing"

	"github.com/vishvananda/netlink"

	"github.com/nearpath/nearpath/test/netlab"
)

// TestLimitsOnIPVlan holds an ipvlan link of a pod to its limits, and lets it go again.
func TestLimitsOnIPVlan(t *testing.T) {
	s := newIPVlanStreet(t)
	testLimits(t, s)
	check0(t, s.pod.Do(func() error { return withLink(ifbIngress, deleteBucket) }))
	if err := s.shaper.Verify(t.Context(), s.shaped); err == nil {
		t.Error("a bucket is gone, and Verify finds nothing")
	}
	s.limit(t, Limits{Ingress: 10_000_000, Egress: 10_000_000})
	s.limit(t, Limits{})
	check0(t, s.pod.Do(func() error { return wantUnshaped(t) }))
}

// newIPVlanStreet has the pod's link on a parent of the node, whose other end is in the VPC.
func newIPVlanStreet(t *testing.T) *street {
	t.Helper()
	lab := must[*netlab.Lab](t)(netlab.New("npbw"))
	t.Cleanup(func() { check0(t, lab.Close()) })
	s := &street{pod: must[*netlab.NetNS](t)(lab.NetNS("pod")), node: must[*netlab.NetNS](t)(lab.NetNS("node"))}
	s.shaper = must[*LinkShaper](t)(NewShaper(s.node.Path()))
	t.Cleanup(func() { check0(t, s.shaper.Close()) })
	s.shaped = shapedAs(IPVlan, Limits{})
	s.shaped.NetNS = s.pod.Path()
	vpc := must[*netlab.NetNS](t)(lab.NetNS("vpc"))
	w := way{vpc, [2]string{"10.77.1.1", "fd77:1::1"}, [2]string{"10.77.1.2", "fd77:1::2"}}
	check0(t, vpc.Do(func() error {
		attrs := netlink.NewLinkAttrs()
		attrs.Name = "port"
		veth := netlink.NewVeth(attrs)
		veth.PeerName = "eni"
		if err := netlink.LinkAdd(veth); err != nil {
			return err
		}
		node := openNS(t, s.node)
		defer node.Close()
		if err := withLink("eni", func(l netlink.Link) error { return netlink.LinkSetNsFd(l, int(node.Fd())) }); err != nil {
			return err
		}
		return dress("port", w.there)
	}))
	check0(t, s.node.Do(func() error {
		parent := must[netlink.Link](t)(netlink.LinkByName("eni"))
		check0(t, netlink.LinkSetUp(parent))
		pod := openNS(t, s.pod)
		defer pod.Close()
		attrs := netlink.NewLinkAttrs()
		attrs.Name, attrs.ParentIndex, attrs.Namespace = s.shaped.PodLink, parent.Attrs().Index, netlink.NsFd(int(pod.Fd()))
		return netlink.LinkAdd(&netlink.IPVlan{LinkAttrs: attrs, Mode: netlink.IPVLAN_MODE_L2})
	}))
	check0(t, s.pod.Do(func() error { return dress(s.shaped.PodLink, w.pod) }))
	s.ways = []way{w}
	return s
}
