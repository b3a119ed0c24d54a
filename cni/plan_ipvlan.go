package cni

import "net/netip"

// planIPVlan gives the pod a link of its own on the ENI. All links on an ENI have the ENI's MAC address, and a frame from
// one of them to that address does not leave: the kernel hands it to the link with the destination's IP address, or to the
// node. So the pod's neighbour entry for each address of the node is its own MAC address, and the node's for the pod is the
// same. Everything else goes to the gateway of the vSwitch. The pod's link makes no link-local address, for it would be
// that of every other pod on the ENI.
func (w Wiring) planIPVlan() []Op {
	pod, mac := w.Key.IfName, w.eniMAC()
	ops := []Op{AddIPVlan{Parent: w.Companion.Parent, Name: pod, MTU: w.MTU, Alias: w.Key.Alias()}}
	ops = append(ops, v6(pod, "addr_gen_mode", "1", InPod))
	ops = append(ops, w.podSysctls(pod)...)
	ops = append(ops, SetUp{InPod, pod})
	for _, addr := range w.Lease.Addrs {
		ops = append(ops,
			AddAddress{InPod, pod, alone(addr)},
			AddRoute{Side: InPod, Link: pod, Dst: everywhere(addr), Gateway: w.gateway(addr)})
	}
	ops = append(ops, w.toNode()...)
	return append(ops, w.reach(w.Companion.Link, mac)...)
}

func (w Wiring) unplanIPVlan() []Op {
	return append([]Op{DeleteLink{InPod, w.Key.IfName, w.Key.Alias()}}, w.deleteRoutes()...)
}

// toNode is how a pod reaches what it reaches through the node, with IPVlan and Exclusive.
func (w Wiring) toNode() (ops []Op) {
	for _, addr := range w.Lease.Addrs {
		for _, node := range w.Node {
			if node.Is4() == addr.Is4() {
				ops = append(ops, w.toNodeBy(addr, node)...)
			}
		}
		for _, network := range w.Networks {
			// A route to everywhere would take the place of the default route. The program at the ENI's egress knows of it, too.
			if w.Datapath == Exclusive && network.Addr().Is4() == addr.Is4() && network.Bits() > 0 {
				ops = append(ops, AddRoute{InPod, sideLink, network, linkLocalGateway(addr), addr})
			}
		}
	}
	return ops
}

// toNodeBy is the way to one address of the node for one of the pod.
func (w Wiring) toNodeBy(addr, node netip.Addr) []Op {
	if w.Datapath == Exclusive {
		return []Op{AddRoute{InPod, sideLink, alone(node), linkLocalGateway(addr), addr}}
	}
	return []Op{
		AddNeighbour{InPod, w.Key.IfName, node, w.eniMAC()},
		AddRoute{Side: InPod, Link: w.Key.IfName, Dst: alone(node)},
	}
}
