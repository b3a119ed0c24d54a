package hostnet

import (
	"net/netip"
	"slices"
	"strings"
)

// A LocalAddr is an address of the node's network namespace.
type LocalAddr struct {
	Addr netip.Addr
	// NodePorts says that Services' node ports are served there.
	NodePorts bool
}

// NodePorts says on which of its addresses the node serves node ports, as kube-proxy's nodePortAddresses does. The zero
// value: on all.
type NodePorts struct {
	// Primary is the first of the node's own addresses of each family, and nothing else.
	Primary bool
	// Networks have the addresses. A family that none is of has all.
	Networks []netip.Prefix
}

// On says whether node ports are served on an address; primary is the first of the node's own of its family.
func (n NodePorts) On(addr, primary netip.Addr) bool {
	if n.Primary {
		return addr == primary
	}
	ofFamily := of(familyOf(addr), n.Networks)
	return len(ofFamily) == 0 || slices.ContainsFunc(ofFamily, func(p netip.Prefix) bool { return p.Contains(addr) })
}

// ipvsLink is where kube-proxy in its IPVS mode puts the addresses of all Services. They may stay there for long after it.
const ipvsLink = "kube-ipvs0"

// local are all addresses that clients may have for the node's, but for those that mean something on one link only. A pair
// of loopback addresses stands for all of these: what asks there is on the node. Those of the node's DNS are for DNS.
func (f Found) local(wanted Wanted) (list []LocalAddr) {
	primary := map[Family]netip.Addr{}
	for _, a := range slices.Backward(f.nodeAddrs()) {
		primary[familyOf(a)] = a
	}
	addrs := []netip.Addr{netip.AddrFrom4([4]byte{127, 0, 0, 1}), netip.IPv6Loopback()}
	for _, l := range f.Links {
		if l.Name != ipvsLink {
			addrs = append(addrs, f.Global[l.Index]...)
		}
	}
	slices.SortFunc(addrs, netip.Addr.Compare)
	for _, a := range slices.Compact(addrs) {
		if !slices.Contains(wanted.NodeDNS, a) {
			list = append(list, LocalAddr{a, wanted.NodePorts.On(a, primary[familyOf(a)])})
		}
	}
	return list
}

// outsideLinks are those that clients outside come by: the uplinks, and ENIs of the node that are not ours.
func (f Found) outsideLinks(wanted Wanted) []Link {
	links := f.uplinks()
	for _, l := range f.Links {
		if f.mayBeENI(wanted, l) && len(f.Global[l.Index]) > 0 && !slices.Contains(links, l) {
			links = append(links, l)
		}
	}
	return links
}

// LinkAddrs are what a link of the node stands for: the VPC drops what leaves an ENI with an address that is not its own.
type LinkAddrs struct {
	Index int
	Addrs []netip.Addr // the first of each family, IPv4 first
}

func (l LinkAddrs) equal(m LinkAddrs) bool {
	return l.Index == m.Index && slices.Equal(l.Addrs, m.Addrs)
}

// linkAddrs are those of the links that clients outside come by, but for links without any.
func (f Found) linkAddrs(outside []Link) (list []LinkAddrs) {
	for _, l := range outside {
		var addrs []netip.Addr
		for _, family := range []Family{IPv4, IPv6} {
			ofFamily := func(a netip.Addr) bool { return familyOf(a) == family }
			if i := slices.IndexFunc(f.Global[l.Index], ofFamily); i >= 0 {
				addrs = append(addrs, f.Global[l.Index][i])
			}
		}
		if l.isEthernet() && len(addrs) > 0 {
			list = append(list, LinkAddrs{l.Index, addrs})
		}
	}
	slices.SortFunc(list, func(a, b LinkAddrs) int { return a.Index - b.Index })
	return list
}

// vendorMAC begins the MAC addresses of ENIs.
const vendorMAC = "00:16:3e:"

// mayBeENI says whether the link may be an interface of the machine that is none of our ENIs: a device, or what has an ENI's
// address. What is between the node and something on it, such as a bridge for containers, is neither.
func (f Found) mayBeENI(wanted Wanted, l Link) bool {
	return l.isInterface() && l.Master == 0 && !f.isENI(wanted, l.Index)
}

// isInterface says so of what may be an ENI, if a bond or a bridge does not have it.
func (l Link) isInterface() bool {
	device := l.Kind == "" || l.Kind == "device" || strings.HasPrefix(l.MAC, vendorMAC) && !slices.Contains(stackedKinds, l.Kind)
	return device && l.isEthernet() && l.Name != "lo"
}

// isEthernet says whether the link's packets have an Ethernet header, as far as its address tells: those of a tunnel have
// none.
func (l Link) isEthernet() bool { return len(l.MAC) == len("00:00:00:00:00:00") }
