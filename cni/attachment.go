package cni

import (
	"crypto/sha256"
	"encoding/hex"
	"net"
	"strings"
)

// A Key names one attachment: the network's name, CNI_CONTAINERID and CNI_IFNAME (CNI specification 1.1.0, section 2).
type Key struct {
	Network     string `json:"network"`
	ContainerID string `json:"containerID"`
	IfName      string `json:"ifName"`
}

func (k Key) String() string { return k.Network + "/" + k.ContainerID + "/" + k.IfName }

// A PodRef says which Kubernetes pod an attachment is for. All of it is empty when a runtime does not say.
type PodRef struct {
	Namespace string `json:"namespace,omitempty"`
	Name      string `json:"name,omitempty"`
	UID       string `json:"uid,omitempty"`
	SandboxID string `json:"sandboxID,omitempty"`
}

// An Attachment is one network interface of one container.
type Attachment struct {
	Key
	// NetNS is the path of the container's network namespace; empty if it is gone or not known.
	NetNS string
	Pod   PodRef
}

// linkPrefix begins the names of our host links.
const linkPrefix = "np"

// sideLink is the pod's end of its way to the node, with Exclusive.
const sideLink = "npside"

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
