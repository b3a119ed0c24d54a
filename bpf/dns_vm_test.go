//go:build node && vm

package bpf

import (
	"errors"
	"net/netip"
	"testing"

	"github.com/vishvananda/netlink"
)

// ipvlanAddrs are those of a pod that has an ipvlan link.
var ipvlanAddrs = []string{"10.1.0.9", "fd01::9"}

// TestAnswersIPVlan has a pod with an ipvlan link ask its DNS: the program of the ENI under the link answers. What it does not
// know goes on to the node by the ENI's companion, and is counted once.
func TestAnswersIPVlan(t *testing.T) {
	c := newCluster(t)
	pod := newNetns(t)
	eni, _ := c.node.plug(t, "eni", c.remote, "vpc")
	companion := 0
	c.node.do(t, func() error {
		slave := func(name string, ns netlink.NsFd) *netlink.IPVlan {
			l := &netlink.IPVlan{LinkAttrs: netlink.LinkAttrs{Name: name, ParentIndex: eni}, Mode: netlink.IPVLAN_MODE_L2}
			if ns != 0 {
				l.Namespace = ns
			}
			return l
		}
		own := slave("companion", 0)
		err := errors.Join(netlink.LinkAdd(own), netlink.LinkAdd(slave("slave", netlink.NsFd(pod.file.Fd()))), netlink.LinkSetUp(own))
		if err != nil {
			return err
		}
		companion = own.Index
		return errors.Join(c.AttachLink(IPVlanParent, eni), c.AttachLink(PodLink, companion))
	})
	c.node.sysctl(t, "ipv4/conf/companion/rp_filter=2", "ipv4/conf/eni/rp_filter=2")
	pod.do(t, func() error {
		l, err := netlink.LinkByName("slave")
		return errors.Join(err, netlink.LinkSetUp(l))
	})
	pod.address(t, "slave", ipvlanAddrs[0]+"/32", ipvlanAddrs[1]+"/128")
	for i := range nodeAddrs {
		pod.route(t, "slave", everything[i], gateways[i], c.remote.mac(t, "vpc"))
		c.node.route(t, "companion", ipvlanAddrs[i]+[]string{"/32", "/128"}[i], "", c.node.mac(t, "eni"))
		c.node.serve(t, at(nodeAddrs[i], 53), "node")
	}
	publishAskings(t, c.Answers)
	err := errors.Join(c.Answers.SetServers(addrs(append(dnsServers, nodeAddrs...))),
		c.Pods.Put(Pod{Addrs: addrs(ipvlanAddrs), Link: companion, Parent: eni, Slot: 1}))
	if err != nil {
		t.Fatal(err)
	}
	for round := range uint64(2) {
		for i := range nodeAddrs {
			pod.asks(t, netip.MustParseAddr(dnsServers[i]))
			pod.misses(t, netip.MustParseAddr(nodeAddrs[i]))
		}
		wantRounds(t, c.Answers, netip.MustParseAddr(ipvlanAddrs[0]), 2*(round+1))
		c.node.do(t, func() error { return sumBySoftware("eni") })
	}
}
