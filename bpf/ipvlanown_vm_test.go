//go:build node && vm

package bpf

import (
	"net"
	"net/netip"
	"testing"
)

// TestPolicyIPVlanOwnNode: a pod that nobody may talk to hears what its own node answers by a Service's address, as its link sees it: the
// node's DNS listener, and a backend on the node.
func TestPolicyIPVlanOwnNode(t *testing.T) {
	w := newDNSWorld(t)
	s := w.share(t, 1)
	w.node.do(t, func() error { return sumBySoftware("eni") })
	asks := s.entries[0]
	asks.ByPackets = true // else the socket program has looked for a backend
	if err := s.Pods.Put(asks); err != nil {
		t.Fatal(err)
	}
	w.live(true)
	for i := range nodeAddrs {
		w.listen(t, i)
		vip := at(vips[i], 80)
		for _, proto := range []uint8{tcp, udp} {
			w.offer(t, Frontend{Addr: vip, Protocol: proto}, ClusterIP, one(nodeAddrs[i]))
		}
		w.node.serve(t, at(nodeAddrs[i], 8080), "own")
		isolate(t, s.Datapath, netip.MustParseAddr(ipvlanAddrs[0][i]), []PolicyInterval{}, nil)
		for _, proto := range []uint8{tcp, udp} {
			dial := func(to netip.AddrPort) net.Conn {
				conn, err := s.pods[0].dial(t, proto, to, patience)
				if err != nil {
					t.Fatalf("%s to %s: %v", network(proto), to, err)
				}
				return conn
			}
			answers(t, network(proto)+" to the cluster's DNS", dial(at(clusterDNS[i], 53)), "node")
			if name, _, err := ask(dial(vip), patience); err != nil || name != "own" {
				t.Errorf("%s to a backend on the node: %q answers, %v", network(proto), name, err)
			}
		}
	}
}
