//go:build node

package bpf

import (
	"errors"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
)

// More of a world, IPv4 and IPv6: a second pod, another node's pod in the VPC, and networks.
var (
	neighbourAddrs = []string{"10.1.0.6", "fd01::6"}
	vpcAddrs       = []string{"10.2.0.3", "fd12::3"}
	podNetworks    = []string{"10.1.0.0/24", "fd01::/64"}
	vipNetworks    = []string{"10.96.0.0/16", "fd00:96::/64"}
	everything     = []string{"0.0.0.0/0", "::/0"}
	gateways       = []string{"169.254.1.1", "fe80::1:1"}
)

// A cluster is a world in which Services have addresses of their own: clients have a route to them by the node, the node
// has one by the other node, and other nodes know the way to its pods.
type cluster struct {
	*world
	neighbour     *netns
	neighbourLink int
}

func newCluster(t *testing.T) *cluster {
	t.Helper()
	return newClusterOf(t, node(t))
}

func newClusterOf(t *testing.T, cfg Config) *cluster {
	t.Helper()
	c := &cluster{world: newWorld(t, cfg), neighbour: newNetns(t)}
	c.neighbourLink, _ = c.node.plug(t, "neighbour", c.neighbour, "eth0")
	c.neighbour.address(t, "eth0", neighbourAddrs[0]+"/32", neighbourAddrs[1]+"/128")
	mac := c.node.mac(t, "eth0")
	for i := range nodeAddrs {
		c.neighbour.route(t, "eth0", everything[i], gateways[i], c.node.mac(t, "neighbour"))
		c.node.route(t, "neighbour", neighbourAddrs[i]+[]string{"/32", "/128"}[i], "", c.neighbour.mac(t, "eth0"))
		c.node.route(t, "eth0", everything[i], gateways[i], c.remote.mac(t, "eth0"))
		c.client.route(t, "eth0", vipNetworks[i], nodeAddrs[i], mac)
		c.remote.route(t, "eth0", podNetworks[i], nodeAddrs[i], mac)
	}
	for _, link := range []string{"eth0", "pod", "neighbour"} {
		c.node.sysctl(t, "ipv4/conf/"+link+"/rp_filter=2")
	}
	c.node.do(t, func() error { return c.AttachLink(PodLink, c.neighbourLink) })
	err := errors.Join(
		c.Pods.Put(Pod{Addrs: addrs(neighbourAddrs), Link: c.neighbourLink, Slot: 1}),
		c.Pods.PutHost(cfg.HostNetNSCookie, netip.MustParseAddr(nodeAddrs[0]), netip.MustParseAddr(nodeAddrs[1])),
	)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// neighbour tells a link once and for all who has an address.
func (n *netns) neighbour(tb testing.TB, link, addr string, mac net.HardwareAddr) {
	tb.Helper()
	n.do(tb, func() error {
		index, err := netlinkIndex(link)
		return errors.Join(err, netlink.NeighSet(&netlink.Neigh{
			LinkIndex: index, State: netlink.NUD_PERMANENT, IP: net.ParseIP(addr), HardwareAddr: mac,
		}))
	})
}

// offer makes a Service of a block, reached at a frontend, until the test ends.
func (w *world) offer(t *testing.T, f Frontend, kind FrontendKind, b Block) {
	t.Helper()
	if err := errors.Join(w.Services.Publish(7, b), w.Services.PutFrontend(f, kind, 7)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := w.Services.DeleteFrontend(f); err != nil {
			t.Error(err)
		}
	})
}

// serveAll lets everybody answer at a port: pods, the node and another one.
func (c *cluster) serveAll(t *testing.T, i int, port uint16) {
	t.Helper()
	c.pod.serve(t, at(podAddrs[i], port), "pod")
	c.neighbour.serve(t, at(neighbourAddrs[i], port), "neighbour")
	c.node.serve(t, at(nodeAddrs[i], port), "own")
	c.remote.serve(t, at(remoteAddrs[i], port), "remote")
}

// one is a Service with one backend.
func one(addr string) Block { return Block{Cluster: []netip.AddrPort{at(addr, 8080)}} }

// fromPod asks from the pod for each backend there can be, and for none.
func (c *cluster) fromPod(t *testing.T, i int, remote string) {
	t.Helper()
	elsewhere := Block{Cluster: []netip.AddrPort{at(remote, 8080)}, InternalLocal: true, InternalDrop: true}
	vip := at(vips[i], 80)
	for name, tt := range map[string]struct {
		kind    FrontendKind
		to      netip.AddrPort
		block   Block
		answers string
		sees    string
	}{
		"a neighbour":              {ClusterIP, vip, one(neighbourAddrs[i]), "neighbour", podAddrs[i]},
		"another node":             {ClusterIP, vip, one(remote), "remote", podAddrs[i]},
		"the node":                 {ClusterIP, vip, one(nodeAddrs[i]), "own", podAddrs[i]},
		"E6 hairpin":               {ClusterIP, vip, one(podAddrs[i]), "pod", nodeAddrs[i]},
		"E4 load balancer's":       {LoadBalancer, vip, local(one(neighbourAddrs[i]), at(neighbourAddrs[i], 8080)), "neighbour", podAddrs[i]},
		"E4 NodePort":              {NodePort, at(nodeAddrs[i], 30080), one(neighbourAddrs[i]), "neighbour", podAddrs[i]},
		"E8 not of the ranges":     {LoadBalancer, vip, ranged(one(neighbourAddrs[i]), clientAddrs[i]), "silence", ""},
		"E8 of the ranges":         {LoadBalancer, vip, ranged(one(neighbourAddrs[i]), podAddrs[i]), "neighbour", podAddrs[i]},
		"D1 nobody":                {ClusterIP, vip, Block{}, "refusal", ""},
		"D2 D6 only elsewhere":     {ClusterIP, vip, elsewhere, "silence", ""},
		"A11 another port":         {ServiceAddress, netip.AddrPortFrom(vip.Addr(), 0), Block{}, "refusal", ""},
		"A11 D5 nobody's address":  {ClusterIP, at([]string{"10.96.0.31", "fd00:96::31"}[i], 80), Block{}, "silence", ""},
		"F1 the same, by affinity": {ClusterIP, vip, sticky(one(neighbourAddrs[i]), one(remote)), "", podAddrs[i]},
	} {
		for _, proto := range []uint8{tcp, udp} {
			t.Run(strings.Join([]string{network(proto), vip.Addr().String(), name}, " "), func(t *testing.T) {
				f := Frontend{Addr: tt.to, Protocol: proto}
				if tt.kind == ServiceAddress {
					f.Protocol = 0
				}
				c.offer(t, f, tt.kind, tt.block)
				to := tt.to
				if strings.HasPrefix(name, "A11") {
					to = vip
				}
				c.expectOf(t, c.pod, proto, to, tt.answers, tt.sees)
			})
		}
	}
}

func ranged(b Block, admitted string) Block {
	a := netip.MustParseAddr(admitted)
	b.SourceRanges = []netip.Prefix{netip.PrefixFrom(a, a.BitLen())}
	return b
}

func sticky(blocks ...Block) (all Block) {
	for _, b := range blocks {
		all.Cluster = append(all.Cluster, b.Cluster...)
	}
	all.Affinity = time.Hour
	return all
}

func (c *cluster) serviceNetworks(t *testing.T) {
	t.Helper()
	var networks []HostNetwork
	for _, n := range vipNetworks {
		networks = append(networks, HostNetwork{netip.MustParsePrefix(n), WayService})
	}
	if err := c.SetHostNetworks(networks); err != nil {
		t.Fatal(err)
	}
}

// TestPodByPackets is a pod whose sockets nobody translates, on veth: of a backend elsewhere it hears by the uplink.
func TestPodByPackets(t *testing.T) {
	c := newCluster(t)
	c.serviceNetworks(t)
	for i := range nodeAddrs {
		c.serveAll(t, i, 8080)
		c.fromPod(t, i, remoteAddrs[i])
	}
	c.noLoss(t)
}

// TestPodByPacketsPoolENI is the same where what pods send leaves by an ENI of theirs: answers come by it, too.
func TestPodByPacketsPoolENI(t *testing.T) {
	c := newCluster(t)
	c.serviceNetworks(t)
	eni, _ := c.node.plug(t, "eni", c.remote, "vpc")
	c.node.sysctl(t, "ipv4/conf/eni/rp_filter=2")
	c.node.do(t, func() error { return errors.Join(sumBySoftware("eni"), c.AttachLink(PoolENI, eni)) })
	c.remote.address(t, "vpc", vpcAddrs[0]+"/32", vpcAddrs[1]+"/128")
	for i := range nodeAddrs {
		bits := []string{"/32", "/128"}[i]
		c.node.route(t, "eni", vpcAddrs[i]+bits, "", c.remote.mac(t, "vpc"))
		c.remote.route(t, "vpc", podAddrs[i]+bits, "", c.node.mac(t, "eni"))
		c.serveAll(t, i, 8080)
		c.remote.serve(t, at(vpcAddrs[i], 8080), "remote")
		c.fromPod(t, i, vpcAddrs[i])
	}
	c.noLoss(t)
}

// TestPodByPacketsExclusive is the same with the ENI in the pod.
func TestPodByPacketsExclusive(t *testing.T) {
	c := newCluster(t)
	c.serviceNetworks(t)
	c.giveENI(t)
	for i := range nodeAddrs {
		c.serveAll(t, i, 8080)
		c.fromPod(t, i, remoteAddrs[i])
	}
	c.noLoss(t)
}

// giveENI gives the pod an ENI of its own; its link leads to the node from then on.
func (c *cluster) giveENI(t *testing.T) {
	t.Helper()
	eni, _ := c.pod.plug(t, "eni", c.remote, "vpc")
	c.pod.do(t, func() error {
		side, err := netlinkIndex("eth0")
		cookie, cookieErr := NetNSCookie()
		if err := errors.Join(err, cookieErr); err != nil {
			return err
		}
		pod := Pod{Addrs: addrs(podAddrs), NetNSCookie: cookie, Link: c.podLink, Side: side, Slot: 1, Guarded: true}
		return errors.Join(sumBySoftware("eni"), c.Pods.Put(pod), c.AttachLink(ExclusiveENI, eni, pod.Addrs...))
	})
	c.pod.moveDefault(t, "eth0", "eni")
	c.pod.sysctl(t, "ipv4/conf/eth0/rp_filter=2", "ipv4/conf/eni/rp_filter=2")
	for i := range nodeAddrs {
		bits := []string{"/32", "/128"}[i]
		// The pod's ENI and the other node are in one network, the gateway of which is the other node.
		c.pod.neighbour(t, "eni", gateways[i], c.remote.mac(t, "vpc"))
		c.remote.route(t, "vpc", podAddrs[i]+bits, "", c.pod.mac(t, "eni"))
	}
}

// TestNodeByPackets is what the node's own sockets send that no hook has seen.
func TestNodeByPackets(t *testing.T) {
	c := newCluster(t)
	c.serviceNetworks(t)
	for i := range nodeAddrs {
		c.serveAll(t, i, 8080)
		vip := at(vips[i], 80)
		elsewhere := Block{Cluster: []netip.AddrPort{at(remoteAddrs[i], 8080)}, InternalLocal: true, InternalDrop: true}
		for name, tt := range map[string]struct {
			kind    FrontendKind
			block   Block
			answers string
			sees    string
		}{
			"a pod":                {ClusterIP, one(podAddrs[i]), "pod", nodeAddrs[i]},
			"another node":         {ClusterIP, one(remoteAddrs[i]), "remote", nodeAddrs[i]},
			"itself":               {ClusterIP, one(nodeAddrs[i]), "own", vips[i]},
			"E4 load balancer's":   {LoadBalancer, local(one(podAddrs[i]), at(podAddrs[i], 8080)), "pod", nodeAddrs[i]},
			"E8 not of the ranges": {LoadBalancer, ranged(one(podAddrs[i]), clientAddrs[i]), "silence", ""},
			"D1 nobody":            {ExternalIP, Block{}, "refusal", ""},
			"D2 D6 only elsewhere": {ClusterIP, elsewhere, "silence", ""},
		} {
			for _, proto := range []uint8{tcp, udp} {
				t.Run(strings.Join([]string{network(proto), vip.Addr().String(), name}, " "), func(t *testing.T) {
					c.offer(t, Frontend{Addr: vip, Protocol: proto}, tt.kind, tt.block)
					c.expectOf(t, c.node, proto, vip, tt.answers, tt.sees)
				})
			}
		}
		c.expectOf(t, c.node, tcp, vip, "silence", "")
	}
	c.noLoss(t)
}

// TestAddressesFromOutside: what comes from outside for an address of a Service, though no link has it.
func TestAddressesFromOutside(t *testing.T) {
	c := newCluster(t)
	c.serviceNetworks(t)
	for i := range nodeAddrs {
		c.serveAll(t, i, 8080)
		vip := at(vips[i], 80)
		elsewhere := Block{Cluster: []netip.AddrPort{at(remoteAddrs[i], 8080)}, ExternalLocal: true, ExternalDrop: true, InternalLocal: true, InternalDrop: true}
		for name, tt := range map[string]struct {
			kind    FrontendKind
			block   Block
			answers string
			sees    string
		}{
			"B1 ClusterIP":               {ClusterIP, one(podAddrs[i]), "pod", nodeAddrs[i]},
			"B1 ClusterIP, another node": {ClusterIP, one(remoteAddrs[i]), "remote", nodeAddrs[i]},
			"B1 E3 external policy":      {ClusterIP, local(one(podAddrs[i]), at(neighbourAddrs[i], 8080)), "pod", nodeAddrs[i]},
			"B2 external IP":             {ExternalIP, one(podAddrs[i]), "pod", nodeAddrs[i]},
			"B5 B6 E1 load balancer's":   {LoadBalancer, one(remoteAddrs[i]), "remote", nodeAddrs[i]},
			"B5 the node's own":          {LoadBalancer, one(nodeAddrs[i]), "own", clientAddrs[i]},
			"E2 Local":                   {LoadBalancer, local(one(remoteAddrs[i]), at(podAddrs[i], 8080)), "pod", clientAddrs[i]},
			"D1 ClusterIP":               {ClusterIP, Block{}, "refusal", ""},
			"D1 load balancer's":         {LoadBalancer, Block{ExternalLocal: true}, "refusal", ""},
			"D2 ClusterIP":               {ClusterIP, elsewhere, "silence", ""},
			"D3 D4 load balancer's":      {LoadBalancer, elsewhere, "silence", ""},
			"E8 not of the ranges":       {LoadBalancer, ranged(one(podAddrs[i]), podAddrs[i]), "silence", ""},
			"E8 of the ranges":           {LoadBalancer, ranged(one(podAddrs[i]), clientAddrs[i]), "pod", nodeAddrs[i]},
			"E8 not about external IPs":  {ExternalIP, ranged(one(podAddrs[i]), podAddrs[i]), "pod", nodeAddrs[i]},
		} {
			for _, proto := range []uint8{tcp, udp} {
				t.Run(strings.Join([]string{network(proto), vip.Addr().String(), name}, " "), func(t *testing.T) {
					c.offer(t, Frontend{Addr: vip, Protocol: proto}, tt.kind, tt.block)
					c.expectOf(t, c.client, proto, vip, tt.answers, tt.sees)
				})
			}
		}
		c.expectOf(t, c.client, tcp, vip, "silence", "") // A11: nobody has it
	}
	c.noLoss(t)
}

// TestStandIn: what a backend on another node sees is the address of the link that its packets leave by, whichever address was
// asked for: the network drops all others.
func TestStandIn(t *testing.T) {
	c := newCluster(t)
	link := []string{"192.0.2.8", "fd02::8"}
	c.node.address(t, "eth0", link[0]+"/24", link[1]+"/64")
	others := []string{"10.96.0.40", "fd00:96::40"} // of another link
	for i := range nodeAddrs {
		c.node.address(t, "lo", vips[i]+[]string{"/32", "/128"}[i], others[i]+[]string{"/32", "/128"}[i])
		// IPv6 would ask for them by its link-local address, which it first has to make sure of.
		c.node.neighbour(t, "eth0", clientAddrs[i], c.client.mac(t, "eth0"))
		c.node.neighbour(t, "eth0", remoteAddrs[i], c.remote.mac(t, "eth0"))
		c.remote.serve(t, at(remoteAddrs[i], 8080), "remote")
	}
	if err := c.SetNodeAddresses(addrs(slices.Concat(vips, others, link, nodeAddrs))); err != nil {
		t.Fatal(err)
	}
	for _, named := range []bool{false, true} {
		if named {
			if err := c.SetLinkAddresses([]LinkAddresses{{Link: c.uplink, Addrs: addrs(link)}}); err != nil {
				t.Fatal(err)
			}
		}
		for i := range nodeAddrs {
			wild := netip.AddrPortFrom(unspecified(netip.MustParseAddr(nodeAddrs[i])), 30080)
			for name, tt := range map[string]struct {
				kind     FrontendKind
				frontend netip.AddrPort
				asked    string
				unnamed  string // what it sees where nobody has said which address the link has
			}{
				"B6 load balancer's, on a link":  {LoadBalancer, at(vips[i], 80), vips[i], nodeAddrs[i]},
				"B2 external IP, on a link":      {ExternalIP, at(vips[i], 80), vips[i], nodeAddrs[i]},
				"B6 load balancer's, the node's": {LoadBalancer, at(nodeAddrs[i], 80), nodeAddrs[i], nodeAddrs[i]},
				"E1 node port, another link's":   {NodePort, wild, others[i], ""},
				"E1 node port, the first one's":  {NodePort, wild, nodeAddrs[i], nodeAddrs[i]},
				"E1 node port, the link's":       {NodePort, wild, link[i], link[i]},
			} {
				sees := tt.unnamed
				if named {
					sees = link[i]
				}
				if sees == "" {
					continue // one that it has no way back to
				}
				for _, proto := range []uint8{tcp, udp} {
					t.Run(strings.Join([]string{network(proto), tt.asked, name}, " "), func(t *testing.T) {
						c.offer(t, Frontend{Addr: tt.frontend, Protocol: proto}, tt.kind, one(remoteAddrs[i]))
						c.expect(t, proto, netip.AddrPortFrom(netip.MustParseAddr(tt.asked), tt.frontend.Port()), "remote", sees)
					})
				}
			}
		}
	}
	c.noLoss(t)
}
