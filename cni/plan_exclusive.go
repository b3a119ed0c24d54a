package cni

// planExclusive moves the ENI itself into the pod, and joins pod and node with a pair of links beside it, the side. By the
// side goes what is between the two: their own addresses, the node's DNS, and networks that only the node reaches.
// Answers may come by the other link than the one the question left by, so the reverse path filter is loose on both; and
// the side has the pod's IPv4 address too, because on a link without any the kernel takes loose for strict
// (fib_validate_source).
func (w Wiring) planExclusive() []Op {
	host, pod := w.Key.HostLink(), w.Key.IfName
	hostMAC, podMAC := w.Key.macs()
	ops := []Op{AddVeth{Host: host, Pod: sideLink, HostMAC: hostMAC, PodMAC: podMAC, MTU: w.MTU, Alias: w.Key.Alias()}}
	ops = append(ops, hostSysctls(host)...)
	ops = append(ops, MoveLink{w.eniMAC(), nameOnHost(w.eniMAC()), pod, w.MTU, w.Key.Alias()})
	ops = append(ops, v4(sideLink, "rp_filter", "2", InPod), v6(sideLink, "addr_gen_mode", "1", InPod), v4(pod, "rp_filter", "2", InPod))
	ops = append(ops, w.podSysctls(sideLink)...)
	ops = append(ops, w.podSysctls(pod)...)
	ops = append(ops, SetUp{InPod, sideLink}, SetUp{InPod, pod})
	for _, addr := range w.Lease.Addrs {
		ops = append(ops,
			AddAddress{InPod, pod, alone(addr)},
			AddRoute{Side: InPod, Link: pod, Dst: everywhere(addr), Gateway: w.gateway(addr)})
		if addr.Is4() {
			ops = append(ops, AddAddress{InPod, sideLink, alone(addr)})
		}
		ops = append(ops, AddNeighbour{InPod, sideLink, linkLocalGateway(addr), hostMAC})
	}
	ops = append(ops, w.toNode()...)
	ops = append(ops, SetUp{OnHost, host})
	return append(ops, w.reach(host, podMAC)...)
}

// unplanExclusive ends the traffic before the programs that judge it are taken off, and returns the ENI after.
func (w Wiring) unplanExclusive() (quiet, rest []Op) {
	mac := w.eniMAC()
	if mac == nil {
		return w.unplanVeth(), nil
	}
	quiet = append([]Op{SetDown{mac, w.ENI}}, w.deleteRoutes()...)
	quiet = append(quiet, DeleteLink{OnHost, w.Key.HostLink(), w.Key.Alias()})
	return quiet, []Op{ReturnLink{mac, w.ENI, nameOnHost(mac)}, TidyLink{mac, nameOnHost(mac)}}
}
