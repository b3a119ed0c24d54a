//go:build node && vm

package bpf

import (
	"errors"
	"net"
	"net/netip"
	"testing"
)

// TestPolicyIPVlan: a pod is judged by its own link, whoever it talks to: another pod on the same ENI, by the gateway or straight from
// link to link, and another node. The node is not.
func TestPolicyIPVlan(t *testing.T) {
	s := newCluster(t).share(t, 2)
	s.serviceNetworks(t)
	s.node.do(t, func() error { return sumBySoftware("eni") })
	pod, sibling := s.pods[0], s.pods[1]
	for i := range nodeAddrs {
		s.serveAll(t, i, policyPort)
		bits := []string{"/32", "/128"}[i]
		pod.route(t, "slave", nodeAddrs[i]+bits, "", s.mac)
		s.node.address(t, "companion", nodeAddrs[i]+bits) // where what the pod sends to the node is handed to it
		addr, other := netip.MustParseAddr(ipvlanAddrs[0][i]), netip.MustParseAddr(ipvlanAddrs[1][i])
		pod.serve(t, netip.AddrPortFrom(addr, policyPort), "slave")
		sibling.serve(t, netip.AddrPortFrom(other, policyPort), "sibling")
		try := func(peer *netns, addrOf netip.Addr) { policed{s.Datapath, pod, peer, addr, addrOf}.try(t) }
		try(sibling, other)
		pod.route(t, "slave", other.String()+bits, "", s.mac)
		sibling.route(t, "slave", addr.String()+bits, "", s.mac)
		try(sibling, other)
		try(s.remote, netip.MustParseAddr(remoteAddrs[i]))
		s.backend(t, i, other)
		isolate(t, s.Datapath, addr, []PolicyInterval{}, []PolicyInterval{})
		own := policed{s.Datapath, pod, s.node, addr, netip.MustParseAddr(nodeAddrs[i])}
		for _, inward := range []bool{true, false} {
			own.talks(t, own.dial(t, inward, tcp))
		}
		isolate(t, s.Datapath, addr, nil, nil)
	}
}

// backend has the pod ask a Service by its address, in packets: what counts is the backend that it gets.
func (s *shared) backend(t *testing.T, i int, backend netip.Addr) {
	t.Helper()
	vip := at(vips[i], 80)
	addr := netip.MustParseAddr(ipvlanAddrs[0][i])
	s.offer(t, Frontend{Addr: vip, Protocol: udp}, ClusterIP, one(backend.String()))
	asks := s.entries[0]
	asks.ByPackets = true // else the socket program has looked for a backend
	if err := s.Pods.Put(asks); err != nil {
		t.Fatal(err)
	}
	p := policed{s.Datapath, s.pods[0], s.pods[1], addr, backend}
	ask := func() net.Conn {
		conn, err := s.pods[0].dial(t, udp, vip, patience)
		if err != nil {
			t.Fatal(err)
		}
		return conn
	}
	if err := s.Policy.PutPeer(vip.Addr(), policyClass); err != nil {
		t.Fatal(err)
	}
	isolate(t, s.Datapath, addr, nil, []PolicyInterval{{Lo: 0, Hi: MaxPoint}})
	p.dropped(t, "the Service is allowed, its backend is not", false, func() { say(ask()) })
	if err := errors.Join(s.Policy.DeletePeer(vip.Addr()), s.Policy.PutPeer(backend, policyClass), s.Policy.Bump()); err != nil {
		t.Fatal(err)
	}
	p.talks(t, ask())
	if err := s.Policy.DeletePeer(backend); err != nil {
		t.Fatal(err)
	}
	isolate(t, s.Datapath, addr, nil, nil)
	if err := s.Pods.Put(s.entries[0]); err != nil {
		t.Fatal(err)
	}
}
