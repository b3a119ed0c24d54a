package cni

import (
	"context"
	"net/netip"

	"github.com/nearpath/nearpath/internal/hostnet"
)

// A Datapath is how a pod is wired.
type Datapath string

// The datapaths. What each is like is in docs/pod-network.md.
const (
	Veth      Datapath = "veth"
	IPVlan    Datapath = "ipvlan"
	Exclusive Datapath = "exclusive"
)

// A Lease is the addresses of an attachment, at most one of a family and IPv4 first, and the ENI whose routes their
// traffic takes.
type Lease struct {
	Addrs []netip.Addr
	// Slot numbers the ENI's route table, see hostnet.Table.
	Slot int
	// MAC is the ENI's, lower case and colon separated.
	MAC string
	// Nets are the subnets of the ENI with their gateways, at most one of a family.
	Nets []hostnet.Net
	// Exclusive says that the ENI is the attachment's alone.
	Exclusive bool
}

// A Leased is an attachment that has an address, as Addresses knows it; NetNS and Pod may be empty.
type Leased struct {
	Attachment Attachment
	Lease      Lease
}

// Addresses leases pods' addresses. Implementations are safe for concurrent use.
type Addresses interface {
	// Acquire leases addresses, the same ones for a key that has them, on a shared ENI or with a whole one. The lease is
	// durable when it returns. The link of a whole ENI may appear on the node only after that.
	Acquire(ctx context.Context, a Attachment, exclusive bool) (Lease, error)
	// Release ends a lease; a key without one is no error.
	Release(ctx context.Context, k Key) error
	// Lookup returns the lease of a key.
	Lookup(k Key) (Lease, bool)
	// List returns every lease.
	List() []Leased
}

// A PodEntry tells the datapath whose traffic is whose.
type PodEntry struct {
	Addrs []netip.Addr
	// NetNSCookie is the kernel's SO_NETNS_COOKIE of the pod's namespace (Linux 5.14); 0 if it is not known, because the
	// namespace is gone or the kernel has none.
	NetNSCookie uint64
	// Slot is that of the ENI that has the addresses.
	Slot int
	// Link is the index of the link on the node that leads to the pod: the node's end of a veth pair, or the ENI's
	// companion. 0 if not known.
	Link int
	// NetNS is the path of the pod's namespace; empty if it is gone or not known.
	NetNS    string
	Datapath Datapath
	// ByPackets is as in Wish.
	ByPackets bool
	// ENI and Side are indices in the pod's namespace, with Exclusive only: of the ENI, and of the way to the node.
	ENI, Side int
	// Slave is the index in the pod's namespace of its link, with IPVlan only.
	Slave     int
	HostPorts []HostPort
	// ContainerID and Pod name the attachment; empty if they are not known.
	ContainerID string
	Pod         PodRef
	// Scope is what the runtime says of the container's resolver; the zero value if it says nothing.
	Scope DNSScope
}

// A HostPort is a port of the node that leads to one of the pod.
type HostPort struct {
	HostIP        netip.Addr `json:"hostIP,omitzero"` // the zero address: every address of the node
	HostPort      uint16     `json:"hostPort"`
	ContainerPort uint16     `json:"containerPort"`
	Protocol      uint8      `json:"protocol"` // IANA's number: 6 TCP, 17 UDP, 132 SCTP
}

// Pods is the datapath's table of pods. Implementations are safe for concurrent use.
type Pods interface {
	// Add makes the pod known; when it returns, its traffic is handled. An entry for the same address is replaced.
	Add(ctx context.Context, e PodEntry) error
	// Remove forgets the pod by its addresses, with all that Add said of them, and takes programs off links that are still
	// there. An unknown pod is no error, nor is a link or a namespace that is gone.
	Remove(ctx context.Context, e PodEntry) error
	// Has says whether everything is there as Add would make it.
	Has(ctx context.Context, e PodEntry) (bool, error)
}

// A Wish is what is asked of one pod's network. An empty Datapath leaves the choice to the network configuration.
type Wish struct {
	Datapath Datapath
	// ByPackets leaves the pod's socket calls alone: Services are translated in the packets that it sends.
	ByPackets bool
	Limits    Limits
}

// Limits bound a pod's traffic in bits per second; 0 is no bound. Ingress is what the pod receives.
type Limits struct {
	Ingress uint64 `json:"ingress,omitempty"`
	Egress  uint64 `json:"egress,omitempty"`
}

// ENIs is what the node has of interfaces that pods share. Implementations are safe for concurrent use.
type ENIs interface {
	// IPVlan makes the ENI with the MAC address the parent of ipvlan links, and returns the node's own link beside them.
	IPVlan(ctx context.Context, mac string) (hostnet.Companion, error)
	// Addrs are the node's own addresses, IPv4 first; nil while they are not known.
	Addrs() []netip.Addr
}

// A Shaped is a pod as a Shaper sees it.
type Shaped struct {
	Key      Key
	Datapath Datapath
	// NetNS is the path of the pod's namespace; empty if it is gone.
	NetNS string
	// HostLink is the node's end of a veth pair that is the pod's alone: its only link, or with Exclusive its way to the
	// node. With IPVlan it is empty, for the ENI's companion is shared.
	HostLink string
	// PodLink is the pod's interface, SideLink with Exclusive the way to the node.
	PodLink, SideLink string
	Addrs             []netip.Addr
	Slot, MTU         int
	Limits            Limits
}

// A Shaper bounds pods' traffic. Implementations are safe for concurrent use.
type Shaper interface {
	// Shape brings the pod to its limits. With zero limits nothing of an earlier call is left.
	Shape(ctx context.Context, pod Shaped) error
	// Verify names the first thing that is not as Shape leaves it.
	Verify(ctx context.Context, pod Shaped) error
}
