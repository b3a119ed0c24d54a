package main

import (
	"maps"
	"net/netip"
	"slices"

	"github.com/nearpath/nearpath/internal/service/model"
)

// A pair is a probe that ended differently by nearpath and by a mode of kube-proxy, and what the model says of either.
type pair struct {
	world              *model.World
	probe              model.Probe
	near, kube         result
	nearSays, kubeSays model.Verdict
	mode               model.Dialect
}

// An allowance is a difference that is meant. Each is documented in docs/services.md.
type allowance struct {
	row, why string
	of       func(d pair) bool
}

// firstNodePort is where node ports begin; those of Services in the lab are below.
const firstNodePort = 30000

// allowances are all the differences that are meant, of nearpath and between kube-proxy's own modes.
var allowances = []*allowance{
	{"A11", "iptables mode lets cluster IPs that nobody has, and ports that they do not have, pass; nearpath does as nftables mode", func(d pair) bool {
		return d.mode == model.IPTables && d.inServiceNet() && d.nearSays.Port == (model.PortRef{})
	}},
	{"B3", "nodePortAddresses unset means every address, as in iptables mode; nftables mode takes the primary ones", func(d pair) bool {
		return d.mode == model.NFTables && len(d.world.Node.NodePortAddresses) == 0 && d.toNode() && d.kubeSays.Outcome == model.Pass
	}},
	{"B3", "iptables mode refuses and loses what is for a node port without endpoints on every address, whatever nodePortAddresses says", func(d pair) bool {
		return d.mode == model.IPTables && d.probe.To.Port() >= firstNodePort && d.nearSays.Outcome == model.Pass && d.kubeSays.Outcome == model.Drop
	}},
	{"B4", "node ports answer the node's own processes on loopback addresses; nftables mode has none there, iptables mode no IPv6, and of IPv4 what nodePortAddresses names and a link has", func(d pair) bool {
		return d.probe.To.Addr().IsLoopback() && d.probe.Client.Kind == model.NodeItself && d.kubeSays.Outcome != model.Forward
	}},
	{"D1", "iptables mode does not refuse the node's own connections to external addresses without endpoints", func(d pair) bool {
		return d.mode == model.IPTables && d.probe.Client.Kind == model.NodeItself && d.near.word == string(refused) && d.kubeSays.Outcome == model.Pass
	}},
	{"E6", "a pod that reaches itself by a socket sees its own address: its packets never leave it", func(d pair) bool {
		return d.probe.Client.Kind == model.LocalPod && !d.probe.Packets && d.sameBut(func(b netip.AddrPort, near, kube string) bool {
			return near == sawClient && kube == sawNode && b.Addr() == d.probe.Client.Addr
		})
	}},
	{"E1", "a pod keeps its address when it asks an external address whose policy is Cluster: the answer comes back by it in any case", func(d pair) bool {
		return d.probe.Client.Kind == model.LocalPod && !d.inServiceNet() && d.sameBut(func(_ netip.AddrPort, near, kube string) bool { return near == sawClient && kube == sawNode })
	}},
	{"E8", "iptables mode refuses clients that source ranges exclude when there is no endpoint; nearpath and nftables mode drop them first", func(d pair) bool {
		return d.mode == model.IPTables && d.near.word == string(lost) && d.kube.word == string(refused) && slices.Contains(d.nearSays.Rows, "E8")
	}},
}

// allowed finds the allowance for a difference; nil when there is none. Both sides must be what the model says of them: a
// difference that is meant excuses no other.
func allowed(d pair) *allowance {
	if !fits(d.near, resultFor(d.probe, d.nearSays), sticky(d.world, d.nearSays)) || !fits(d.kube, resultFor(d.probe, d.kubeSays), sticky(d.world, d.kubeSays)) {
		return nil
	}
	for _, a := range allowances {
		if a.of(d) {
			return a
		}
	}
	return nil
}

func (d pair) inServiceNet() bool {
	return slices.ContainsFunc(d.world.ServiceCIDRs, func(c netip.Prefix) bool { return c.Contains(d.probe.To.Addr()) })
}

func (d pair) toNode() bool { return slices.Contains(nodeAddrs, d.probe.To.Addr()) }

// sameBut says whether both sides have the same backends, and wherever those saw different clients it is as ok says. With
// affinity either side has one of the list, and only what they saw counts.
func (d pair) sameBut(ok func(backend netip.AddrPort, near, kube string) bool) bool {
	near, kube := d.near.backends, d.kube.backends
	if sticky(d.world, d.nearSays) {
		near, kube = resultFor(d.probe, d.nearSays).backends, resultFor(d.probe, d.kubeSays).backends
	}
	if len(near) == 0 || len(near) != len(kube) {
		return false
	}
	for b, who := range maps.All(near) {
		other, have := kube[b]
		if !have || who != other && !ok(b, who, other) {
			return false
		}
	}
	return true
}
