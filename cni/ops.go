package cni

import (
	"fmt"
	"net"
	"net/netip"

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
	// AddIPVlan makes a link of mode L2 in the pod, beside those of other pods on the same parent, which is on the host. It
	// has its parent's MAC address.
	AddIPVlan struct {
		Parent, Name string
		MTU          int // 0: the parent's
		Alias        string
	}
	// MoveLink moves the ENI with the MAC address from the host into the pod. On the way it has the name NameOnHost.
	MoveLink struct {
		MAC              net.HardwareAddr
		NameOnHost, Name string
		MTU              int // 0: as it is
		Alias            string
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
	// AddRoute sets a route of the main table; with a Gateway it is on-link, without one of scope link. A Src is the source
	// that the route prefers; the zero address leaves it to the kernel.
	AddRoute struct {
		Side    Side
		Link    string
		Dst     netip.Prefix
		Gateway netip.Addr
		Src     netip.Addr
	}
)

// The changes that take a pod apart. What is not there is no error.
type (
	// DeleteLink deletes a link of ours, and so its other end and the routes of both.
	DeleteLink struct {
		Side  Side
		Link  string
		Alias string
	}
	// DeleteRoutes deletes our routes to an address on the host with their neighbour entries, whatever link they name.
	DeleteRoutes struct{ Dst netip.Addr }
	// DeleteRoute deletes a route of ours by a link.
	DeleteRoute struct {
		Side Side
		Link string
		Dst  netip.Prefix
	}
	// DeleteNeighbour deletes a neighbour entry.
	DeleteNeighbour struct {
		Side Side
		Link string
		Addr netip.Addr
	}
	// SetDown takes the pod's ENI down, so that it carries nothing any more.
	SetDown struct {
		MAC   net.HardwareAddr
		Index int // 0: not known
	}
	// ReturnLink moves the ENI from the pod back to the host, down and with neither addresses nor an alias.
	ReturnLink struct {
		MAC   net.HardwareAddr
		Index int    // in the pod; 0: not known
		Name  string // on the host
	}
	// TidyLink does the same to an ENI that the kernel has returned, because its namespace ended.
	TidyLink struct {
		MAC  net.HardwareAddr
		Name string
	}
)

func (o AddVeth) String() string {
	return fmt.Sprintf("host: ip link add %s address %s mtu %d alias %q type veth peer name %s address %s netns pod",
		o.Host, o.HostMAC, o.MTU, o.Alias, o.Pod, o.PodMAC)
}
func (o AddIPVlan) String() string {
	return fmt.Sprintf("host: ip link add link %s name %s mtu %d alias %q type ipvlan mode l2 netns pod", o.Parent, o.Name, o.MTU, o.Alias)
}
func (o MoveLink) String() string {
	return fmt.Sprintf("host: ip link set %s (%s) netns pod name %s mtu %d alias %q", o.MAC, o.NameOnHost, o.Name, o.MTU, o.Alias)
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
	text := fmt.Sprintf("%s: ip route replace %s ", o.Side, o.Dst)
	if o.Gateway.IsValid() {
		text += fmt.Sprintf("via %s dev %s onlink", o.Gateway, o.Link)
	} else {
		text += fmt.Sprintf("dev %s scope link proto %d", o.Link, hostnet.Protocol)
	}
	if o.Src.IsValid() {
		text += " src " + o.Src.String()
	}
	return text
}
func (o DeleteLink) String() string { return fmt.Sprintf("%s: ip link del %s", o.Side, o.Link) }
func (o DeleteRoutes) String() string {
	return fmt.Sprintf("host: ip route del %s proto %d, and its neighbour entry", alone(o.Dst), hostnet.Protocol)
}
func (o DeleteRoute) String() string {
	return fmt.Sprintf("%s: ip route del %s dev %s", o.Side, o.Dst, o.Link)
}
func (o DeleteNeighbour) String() string {
	return fmt.Sprintf("%s: ip neighbour del %s dev %s", o.Side, o.Addr, o.Link)
}
func (o SetDown) String() string { return fmt.Sprintf("pod: ip link set %s down", o.MAC) }
func (o ReturnLink) String() string {
	return fmt.Sprintf("pod: ip link set %s down netns host name %s alias \"\"", o.MAC, o.Name)
}
func (o TidyLink) String() string {
	return fmt.Sprintf("host: ip link set %s down name %s alias \"\", if it has one of ours", o.MAC, o.Name)
}
