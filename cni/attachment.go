package cni

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"net"
	"net/netip"
	"strings"
)

// A Key names one attachment: the network's name, CNI_CONTAINERID and CNI_IFNAME (CNI specification 1.1.0, section 2).
type Key struct{ Network, ContainerID, IfName string }

func (k Key) String() string { return k.Network + "/" + k.ContainerID + "/" + k.IfName }

// A PodRef says which Kubernetes pod an attachment is for. All of it is empty when a runtime does not say.
type PodRef struct{ Namespace, Name, UID, SandboxID string }

// An Attachment is one network interface of one container.
type Attachment struct {
	Key
	// NetNS is the path of the container's network namespace; empty if it is gone or not known.
	NetNS string
	Pod   PodRef
}

// linkPrefix begins the names of our host links.
const linkPrefix = "np"

// aliasPrefix begins the aliases of our host links; the key follows.
const aliasPrefix = "nearpath:"

// sum is what the names and MAC addresses of an attachment are made of.
func (k Key) sum() [sha256.Size]byte { return sha256.Sum256([]byte(k.String())) }

// HostLink is the name of the link's end on the node: 13 characters of the 15 that the kernel allows.
func (k Key) HostLink() string {
	sum := k.sum()
	return linkPrefix + hex.EncodeToString(sum[:])[:11]
}

// Alias is the alias of the link's end on the node.
func (k Key) Alias() string { return aliasPrefix + k.String() }

// keyOf is the inverse of Alias.
func keyOf(alias string) (Key, bool) {
	text, ours := strings.CutPrefix(alias, aliasPrefix)
	parts := strings.Split(text, "/")
	if !ours || len(parts) != 3 {
		return Key{}, false
	}
	return Key{Network: parts[0], ContainerID: parts[1], IfName: parts[2]}, true
}

// macs are the MAC addresses of the two ends. They are set when the link is made, because a service manager on the node
// replaces addresses that the kernel chose (systemd-udevd, MACAddressPolicy=persistent), and the pod has a permanent
// neighbour entry for the host's. They are locally administered (IEEE 802, bit 1 of the first byte).
func (k Key) macs() (host, pod net.HardwareAddr) {
	sum := k.sum()
	host = append(net.HardwareAddr{0x0a}, sum[8:13]...)
	pod = append(net.HardwareAddr{0x0e}, sum[8:13]...)
	return host, pod
}

// A Lease is the addresses of an attachment, at most one of a family and IPv4 first, and the ENI whose routes their
// traffic takes.
type Lease struct {
	Addrs []netip.Addr
	// Slot numbers the ENI's route table, see hostnet.Table.
	Slot int
}

// A Leased is an attachment that has an address, as Addresses knows it; NetNS and Pod may be empty.
type Leased struct {
	Attachment Attachment
	Lease      Lease
}

// Addresses leases pods' addresses. Implementations are safe for concurrent use.
type Addresses interface {
	// Acquire leases addresses, the same ones for a key that has them. The lease is durable when it returns.
	Acquire(ctx context.Context, a Attachment) (Lease, error)
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
	// HostNSID is the node's namespace as the pod's namespace numbers it (RTM_NEWNSID), -1 if not known.
	HostNSID int32
}

// Pods is the datapath's table of pods. Implementations are safe for concurrent use.
type Pods interface {
	// Add makes the pod known; when it returns, its traffic is handled. An entry for the same address is replaced.
	Add(ctx context.Context, e PodEntry) error
	// Remove forgets the pod by its addresses, and by its cookie if that is known. An unknown pod is no error.
	Remove(ctx context.Context, e PodEntry) error
	// Has says whether the entry is there as Add would make it.
	Has(ctx context.Context, e PodEntry) (bool, error)
}
