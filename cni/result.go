package cni

import (
	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"
)

// result is what ADD answers, in version 1.1.0: the links that were made, and the pod's addresses on its own. The node's
// end of a pair comes first, as it is not in a sandbox.
func result(a Attachment, r record, lease Lease, dns types.DNS) *types100.Result {
	hostMAC, podMAC := a.macs()
	host := &types100.Interface{Name: a.HostLink(), Mac: hostMAC.String(), Mtu: r.MTU}
	pod := &types100.Interface{Name: a.IfName, Mac: lease.MAC, Mtu: r.MTU, Sandbox: a.NetNS}
	out := &types100.Result{CNIVersion: types100.ImplementedSpecVersion, DNS: dns}
	switch r.Datapath {
	case IPVlan:
		out.Interfaces = []*types100.Interface{pod}
	case Exclusive:
		side := &types100.Interface{Name: sideLink, Mac: podMAC.String(), Mtu: r.MTU, Sandbox: a.NetNS}
		out.Interfaces = []*types100.Interface{host, pod, side}
	default:
		pod.Mac = podMAC.String()
		out.Interfaces = []*types100.Interface{host, pod}
	}
	inPod := 1
	if r.Datapath == IPVlan {
		inPod = 0
	}
	w := r.wiring(lease)
	for _, addr := range lease.Addrs {
		via := linkLocalGateway(addr)
		if r.Datapath != Veth {
			via = w.gateway(addr)
		}
		out.IPs = append(out.IPs, &types100.IPConfig{Interface: &inPod, Address: *ipNet(alone(addr)), Gateway: via.AsSlice()})
		out.Routes = append(out.Routes, &types.Route{Dst: *ipNet(everywhere(addr)), GW: via.AsSlice()})
	}
	return out
}
