package cni

import "github.com/nearpath/nearpath/internal/hostnet"

// planVeth joins pod and node with a pair of links. The rule that lets the pod's traffic out comes last.
func (w Wiring) planVeth() []Op {
	host, pod := w.Key.HostLink(), w.Key.IfName
	hostMAC, podMAC := w.Key.macs()
	ops := []Op{AddVeth{Host: host, Pod: pod, HostMAC: hostMAC, PodMAC: podMAC, MTU: w.MTU, Alias: w.Key.Alias()}}
	ops = append(ops, hostSysctls(host)...)
	ops = append(ops, w.podSysctls(pod)...)
	ops = append(ops, SetUp{OnHost, host}, SetUp{InPod, pod})
	for _, addr := range w.Lease.Addrs {
		ops = append(ops,
			AddAddress{InPod, pod, alone(addr)},
			AddNeighbour{InPod, pod, gateway(addr), hostMAC},
			AddRoute{Side: InPod, Link: pod, Dst: everywhere(addr), Gateway: gateway(addr)})
	}
	ops = append(ops, w.reach(host, podMAC)...)
	for _, addr := range w.Lease.Addrs {
		ops = append(ops, AddRule{addr, hostnet.PriorityPod, hostnet.Table(w.Lease.Slot)})
	}
	return ops
}

// unplanVeth needs no pod: the node's end takes the pod's with it. Without a lease the rules of its address are left to the
// sweep, see Collector.
func (w Wiring) unplanVeth() (ops []Op) {
	for _, addr := range w.Lease.Addrs {
		ops = append(ops, DeleteRules{addr, hostnet.PriorityPod})
	}
	return append(ops, DeleteLink{OnHost, w.Key.HostLink(), w.Key.Alias()})
}
