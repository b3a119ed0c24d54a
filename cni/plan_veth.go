package cni

// planVeth joins pod and node with a pair of links. What comes from the pod is marked by the datapath with the slot of the
// ENI that has its address, and leaves by that (hostnet.PodMark).
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
			AddNeighbour{InPod, pod, linkLocalGateway(addr), hostMAC},
			AddRoute{Side: InPod, Link: pod, Dst: everywhere(addr), Gateway: linkLocalGateway(addr)})
	}
	return append(ops, w.reach(host, podMAC)...)
}

// unplanVeth needs no pod: the node's end takes the pod's with it, and the routes by both.
func (w Wiring) unplanVeth() []Op {
	return []Op{DeleteLink{OnHost, w.Key.HostLink(), w.Key.Alias()}}
}
