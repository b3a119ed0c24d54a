package cni

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"

	"github.com/nearpath/nearpath/internal/hostnet"
)

// A Wiring is what a plan follows from.
type Wiring struct {
	Key      Key
	Datapath Datapath
	Lease    Lease
	MTU      int // 0: whatever the links have
	// Companion is the node's link beside the pod's, with IPVlan.
	Companion hostnet.Companion
	// Node are the addresses that the pod reaches through the node, with IPVlan and Exclusive: the node's own and that of its
	// DNS. Networks are such networks, with Exclusive.
	Node     []netip.Addr
	Networks []netip.Prefix
	// ENI is the index in the pod of its ENI, with Exclusive; 0 if it is not known.
	ENI int
}

// check says what is missing from which a plan could follow.
func (w Wiring) check() error {
	if w.Datapath == Veth || w.Datapath == "" {
		return nil
	}
	if _, err := net.ParseMAC(w.Lease.MAC); err != nil {
		return fmt.Errorf("lease of %v has no MAC address: %w", w.Lease.Addrs, err)
	}
	for _, addr := range w.Lease.Addrs {
		if !w.gateway(addr).IsValid() {
			return fmt.Errorf("lease of %v has no gateway for %s", w.Lease.Addrs, addr)
		}
	}
	if w.Datapath == IPVlan && (w.Companion.Parent == "" || w.Companion.Link == "") {
		return fmt.Errorf("ENI %s is not the parent of ipvlan links", w.Lease.MAC)
	}
	return nil
}

// Plan is how an attachment is wired, in order: the links are quiet and filter before they are up, and the node sends to
// the pod last. The datapath is told of the pod before the first of them comes up, see untilUp.
func Plan(w Wiring) []Op {
	switch w.Datapath {
	case IPVlan:
		return w.planIPVlan()
	case Exclusive:
		return w.planExclusive()
	default:
		return w.planVeth()
	}
}

// Unplan takes an attachment apart, in two parts: the first ends its traffic, and after the second the ENI may be
// another's. Between them the datapath forgets the pod. The Datapath may be empty, for not known; what then can be found
// without knowing is taken apart.
func Unplan(w Wiring) (quiet, rest []Op) {
	switch w.Datapath {
	case IPVlan:
		return w.unplanIPVlan(), nil
	case Exclusive:
		return w.unplanExclusive()
	case Veth:
		return w.unplanVeth(), nil
	default:
		// It may be of ipvlan, whose link is in the pod.
		return append(w.unplanIPVlan(), w.unplanVeth()...), nil
	}
}

// untilUp divides a plan: after the first part no link of the pod is up.
func untilUp(ops []Op) (down, up []Op) {
	i := slices.IndexFunc(ops, func(op Op) bool { _, is := op.(SetUp); return is })
	if i < 0 {
		return ops, nil
	}
	return ops[:i], ops[i:]
}

// onHost are the changes of a plan that keep the way from the node to the pod, in the order of the plan.
func onHost(ops []Op) (kept []Op) {
	for _, op := range ops {
		switch o := op.(type) {
		case SetUp, AddNeighbour, AddRoute:
			if sideOf(o) == OnHost {
				kept = append(kept, o)
			}
		}
	}
	return kept
}

// hostLink is the link on the node that leads to the pod.
func (w Wiring) hostLink() string {
	if w.Datapath == IPVlan {
		return w.Companion.Link
	}
	return w.Key.HostLink()
}

// eniMAC is the ENI's; check has seen that it can be read.
func (w Wiring) eniMAC() net.HardwareAddr {
	mac, _ := net.ParseMAC(w.Lease.MAC)
	return mac
}

// gateway is the vSwitch's, for the family of an address.
func (w Wiring) gateway(addr netip.Addr) netip.Addr {
	for _, n := range w.Lease.Nets {
		if n.Gateway.Is4() == addr.Is4() {
			return n.Gateway
		}
	}
	return netip.Addr{}
}

func (w Wiring) ipv6() bool { return slices.ContainsFunc(w.Lease.Addrs, netip.Addr.Is6) }

// reach is how the node reaches the pod: by a link, whose other end has a MAC address.
func (w Wiring) reach(link string, mac net.HardwareAddr) (ops []Op) {
	for _, addr := range w.Lease.Addrs {
		ops = append(ops, AddNeighbour{OnHost, link, addr, mac}, AddRoute{Side: OnHost, Link: link, Dst: alone(addr)})
	}
	return ops
}

func (w Wiring) deleteRoutes() (ops []Op) {
	for _, addr := range w.Lease.Addrs {
		ops = append(ops, DeleteRoutes{addr})
	}
	return ops
}

// linkLocalGateway is the next hop towards the node for the family of an address, by a veth pair. No machine has it: the pod's
// neighbour entry for it is the host's end of the link, and the entry is permanent, so nobody is ever asked for it
// (link-local: RFC 3927, RFC 4291 section 2.5.6).
func linkLocalGateway(addr netip.Addr) netip.Addr {
	if addr.Is4() {
		return netip.AddrFrom4([4]byte{169, 254, 1, 1})
	}
	return netip.AddrFrom16([16]byte{0: 0xfe, 1: 0x80, 15: 1})
}

// everywhere is the destination of the default route for the family of an address.
func everywhere(addr netip.Addr) netip.Prefix {
	if addr.Is4() {
		return netip.PrefixFrom(netip.IPv4Unspecified(), 0)
	}
	return netip.PrefixFrom(netip.IPv6Unspecified(), 0)
}

// alone is the network of one address.
func alone(addr netip.Addr) netip.Prefix { return netip.PrefixFrom(addr, addr.BitLen()) }

// nameOnHost is the name of an ENI while it is on the host and no pod's: 15 characters, as many as the kernel allows.
func nameOnHost(mac net.HardwareAddr) string {
	return linkPrefix + "e" + strings.ReplaceAll(mac.String(), ":", "")
}

func v4(link, key, value string, side Side) Op {
	return SetSysctl{side, "net/ipv4/conf/" + link + "/" + key, value, false}
}

// v6 is optional: a kernel without IPv6 has no such key.
func v6(link, key, value string, side Side) Op {
	return SetSysctl{side, "net/ipv6/conf/" + link + "/" + key, value, true}
}

// hostSysctls are the settings of the node's end of a veth pair. It does not believe router advertisements. It makes no
// link-local address: a pod could reach the node by it past everything that knows pods by their addresses. Its reverse path
// filter is loose, because packets from the pod are routed by their mark and not by the table the filter asks.
func hostSysctls(link string) []Op {
	return []Op{
		v4(link, "forwarding", "1", OnHost), v4(link, "rp_filter", "2", OnHost),
		v6(link, "accept_ra", "0", OnHost), v6(link, "addr_gen_mode", "1", OnHost),
	}
}

// podSysctls are the settings of a pod's interface. A runtime may have switched IPv6 off in the pod's namespace; a pod with
// an IPv6 address has it on.
func (w Wiring) podSysctls(link string) []Op {
	ops := []Op{v6(link, "accept_ra", "0", InPod), v6(link, "accept_dad", "0", InPod)}
	if w.ipv6() {
		ops = append(ops, SetSysctl{InPod, "net/ipv6/conf/" + link + "/disable_ipv6", "0", false})
	}
	return ops
}
