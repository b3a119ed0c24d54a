package worlds

import (
	"net/netip"
	"slices"

	"github.com/nearpath/nearpath/internal/service/model"
	corev1 "k8s.io/api/core/v1"
)

// Probes are all that is worth asking of a world: every client to every frontend, unused ports of their addresses,
// cluster IPs that nobody has, node ports of all addresses of nodes.
func Probes(lab *Lab, w *model.World) (out []model.Probe) {
	to := destinations(lab, w)
	for _, client := range lab.Clients {
		for _, addr := range to {
			if client.Addr.Is6() != addr.Addr().Is6() || addr.Addr().IsLoopback() && client.Kind == model.Outside {
				continue
			}
			for _, protocol := range lab.Protocols {
				out = append(out, model.Probe{
					Client: client, To: addr, Protocol: protocol,
					Packets: client.Kind == model.Outside || protocol == corev1.ProtocolSCTP,
				})
			}
		}
	}
	return out
}

// destinations lists addresses and ports once each.
func destinations(lab *Lab, w *model.World) (out []netip.AddrPort) {
	add := func(addr netip.Addr, ports ...int32) {
		for _, port := range append(ports, int32(lab.UnusedPort)) {
			at := netip.AddrPortFrom(addr, uint16(port))
			if !slices.Contains(out, at) {
				out = append(out, at)
			}
		}
	}
	vips := slices.Clone(lab.VIPs)
	for _, svc := range slices.Concat(w.Services, w.Deleted) {
		for _, text := range svc.Spec.ClusterIPs {
			if addr, err := netip.ParseAddr(text); err == nil {
				add(addr, lab.Ports...)
			}
		}
	}
	for _, cidr := range lab.ServiceCIDRs {
		add(last(cidr), lab.Ports[0]) // nobody's
	}
	for _, addr := range vips {
		add(addr, lab.Ports...)
	}
	for _, addr := range slices.Concat(lab.Node.Addresses, lab.Node.OtherNodes) {
		add(addr, lab.NodePorts...)
	}
	for _, text := range []string{"127.0.0.1", "127.0.0.2", "::1"} {
		add(netip.MustParseAddr(text), lab.NodePorts...)
	}
	return out
}

// last is an address near the end of a network, which worlds never give away.
func last(cidr netip.Prefix) netip.Addr {
	addr := cidr.Masked().Addr().AsSlice()
	for i := cidr.Bits(); i < len(addr)*8-1; i++ {
		addr[i/8] |= 1 << (7 - i%8)
	}
	a, _ := netip.AddrFromSlice(addr)
	return a
}
