package cni

import (
	"fmt"
	"net"
	"net/netip"
	"slices"

	"github.com/nearpath/nearpath/internal/hostnet"
)

// A Side is the network namespace that an Op is about.
type Side string

// The two namespaces.
const (
	OnHost Side = "host"
	InPod  Side = "pod"
)

// An Op is one change to the kernel. It prints as the command that would do the same, after the Side it is done on.
type Op interface{ String() string }

// The changes that wire a pod. Each can be applied, and each can be verified later.
type (
	// AddVeth makes the pair of links, one end in each namespace.
	AddVeth struct {
		Host, Pod       string
		HostMAC, PodMAC net.HardwareAddr
		MTU             int // 0: the kernel's
		Alias           string
	}
	// SetSysctl writes a key below /proc/sys. An Optional one may be absent from the kernel.
	SetSysctl struct {
		Side       Side
		Key, Value string
		Optional   bool
	}
	// SetUp brings a link up.
	SetUp struct {
		Side Side
		Link string
	}
	// AddAddress gives a link an address.
	AddAddress struct {
		Side Side
		Link string
		Addr netip.Prefix
	}
	// AddNeighbour sets a permanent neighbour entry.
	AddNeighbour struct {
		Side Side
		Link string
		Addr netip.Addr
		MAC  net.HardwareAddr
	}
	// AddRoute sets a route of the main table; with a Gateway it is on-link, without one of scope link.
	AddRoute struct {
		Side    Side
		Link    string
		Dst     netip.Prefix
		Gateway netip.Addr
	}
	// AddRule sends what comes from an address to a table.
	AddRule struct {
		Src             netip.Addr
		Priority, Table int
	}
)

// The changes that take a pod apart. What is not there is no error.
type (
	// DeleteRules deletes our rules for a source address, whatever table they name.
	DeleteRules struct {
		Src      netip.Addr
		Priority int
	}
	// DeleteLink deletes a link of ours on the host, and so its other end and the routes of both.
	DeleteLink struct{ Link string }
)

func (o AddVeth) String() string {
	return fmt.Sprintf("host: ip link add %s address %s mtu %d alias %q type veth peer name %s address %s netns pod",
		o.Host, o.HostMAC, o.MTU, o.Alias, o.Pod, o.PodMAC)
}
func (o SetSysctl) String() string {
	return fmt.Sprintf("%s: sysctl -w %s=%s", o.Side, o.Key, o.Value)
}
func (o SetUp) String() string { return fmt.Sprintf("%s: ip link set dev %s up", o.Side, o.Link) }
func (o AddAddress) String() string {
	text := fmt.Sprintf("%s: ip address add %s dev %s", o.Side, o.Addr, o.Link)
	if o.Addr.Addr().Is6() {
		text += " nodad"
	}
	return text
}
func (o AddNeighbour) String() string {
	return fmt.Sprintf("%s: ip neighbour replace %s lladdr %s dev %s nud permanent", o.Side, o.Addr, o.MAC, o.Link)
}
func (o AddRoute) String() string {
	if o.Gateway.IsValid() {
		return fmt.Sprintf("%s: ip route replace %s via %s dev %s onlink", o.Side, o.Dst, o.Gateway, o.Link)
	}
	return fmt.Sprintf("%s: ip route replace %s dev %s scope link proto %d", o.Side, o.Dst, o.Link, hostnet.Protocol)
}
func (o AddRule) String() string {
	return fmt.Sprintf("host: ip rule add pref %d from %s lookup %d proto %d", o.Priority, o.Src, o.Table, hostnet.Protocol)
}
func (o DeleteRules) String() string {
	return fmt.Sprintf("host: ip rule del pref %d from %s proto %d", o.Priority, o.Src, hostnet.Protocol)
}
func (o DeleteLink) String() string { return "host: ip link del " + o.Link }

// gateway is the pod's default gateway for the family of an address. No machine has it: the pod's neighbour entry for it
// is the host's end of the link, and the entry is permanent, so nobody is ever asked for it (link-local: RFC 3927, RFC
// 4291 section 2.5.6).
func gateway(addr netip.Addr) netip.Addr {
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

// Plan is how an attachment with a lease is wired, in order: the links are quiet and filter before they are up, and the
// rule that lets the pod's traffic out comes last.
func Plan(k Key, lease Lease, mtu int) []Op {
	host, pod := k.HostLink(), k.IfName
	hostMAC, podMAC := k.macs()
	ops := []Op{AddVeth{Host: host, Pod: pod, HostMAC: hostMAC, PodMAC: podMAC, MTU: mtu, Alias: k.Alias()}}
	ops = append(ops, sysctls(host, pod, slices.ContainsFunc(lease.Addrs, netip.Addr.Is6))...)
	ops = append(ops, SetUp{OnHost, host}, SetUp{InPod, pod})
	for _, addr := range lease.Addrs {
		ops = append(ops,
			AddAddress{InPod, pod, alone(addr)},
			AddNeighbour{InPod, pod, gateway(addr), hostMAC},
			AddRoute{InPod, pod, everywhere(addr), gateway(addr)})
	}
	return append(ops, hostRoutes(k, lease)...)
}

// hostRoutes is how the node reaches a pod and sends on what comes from it.
func hostRoutes(k Key, lease Lease) (ops []Op) {
	_, podMAC := k.macs()
	for _, addr := range lease.Addrs {
		ops = append(ops,
			AddNeighbour{OnHost, k.HostLink(), addr, podMAC},
			AddRoute{OnHost, k.HostLink(), alone(addr), netip.Addr{}},
			AddRule{addr, hostnet.PriorityPod, hostnet.Table(lease.Slot)})
	}
	return ops
}

// sysctls are the settings of a pod's links. Neither end believes router advertisements. The host's end makes no
// link-local address: a pod could reach the node by it past everything that knows pods by their addresses. Its reverse
// path filter is loose, because packets from the pod are routed by rule and not by the table the filter asks. A runtime
// may have switched IPv6 off in the pod's namespace; a pod with an IPv6 address has it on.
func sysctls(host, pod string, ipv6 bool) []Op {
	ops := []Op{
		SetSysctl{OnHost, "net/ipv4/conf/" + host + "/forwarding", "1", false},
		SetSysctl{OnHost, "net/ipv4/conf/" + host + "/rp_filter", "2", false},
		SetSysctl{OnHost, "net/ipv6/conf/" + host + "/accept_ra", "0", true},
		SetSysctl{OnHost, "net/ipv6/conf/" + host + "/addr_gen_mode", "1", true},
		SetSysctl{InPod, "net/ipv6/conf/" + pod + "/accept_ra", "0", true},
		SetSysctl{InPod, "net/ipv6/conf/" + pod + "/accept_dad", "0", true},
	}
	if ipv6 {
		ops = append(ops, SetSysctl{InPod, "net/ipv6/conf/" + pod + "/disable_ipv6", "0", false})
	}
	return ops
}

// Unplan takes an attachment apart. Without a lease the rules of its address are left to the sweep, see Collector.
func Unplan(k Key, addrs []netip.Addr) []Op {
	ops := make([]Op, 0, len(addrs)+1)
	for _, addr := range addrs {
		ops = append(ops, DeleteRules{addr, hostnet.PriorityPod})
	}
	return append(ops, DeleteLink{k.HostLink()})
}
