//go:build node && vm

package bpf

import (
	"net/netip"
	"testing"
)

// TestAnswersIPVlan has a pod with an ipvlan link ask its DNS: the program of the ENI under the link answers. What it does not
// know goes on to the node by the ENI's companion, and is counted once.
func TestAnswersIPVlan(t *testing.T) {
	c := newCluster(t)
	pod := c.share(t, 1).pods[0]
	for i := range nodeAddrs {
		c.node.serve(t, at(nodeAddrs[i], 53), "node")
	}
	publishAskings(t, c.Answers)
	if err := c.Answers.SetServers(addrs(append(dnsServers, nodeAddrs...))); err != nil {
		t.Fatal(err)
	}
	for round := range uint64(2) {
		for i := range nodeAddrs {
			pod.asks(t, netip.MustParseAddr(dnsServers[i]))
			pod.misses(t, netip.MustParseAddr(nodeAddrs[i]))
		}
		wantRounds(t, c.Answers, netip.MustParseAddr(ipvlanAddrs[0][0]), 2*(round+1))
		c.node.do(t, func() error { return sumBySoftware("eni") })
	}
}
