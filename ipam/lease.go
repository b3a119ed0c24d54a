package ipam

import (
	"errors"
	"net/netip"
)

// ErrExhausted says that no address is free and none will be soon enough.
var ErrExhausted = errors.New("no free pod address")

// A Key names one attachment of a container to a network, and so owns at most one address (CNI specification 1.1.0,
// section 2: network name, CNI_CONTAINERID, CNI_IFNAME).
type Key struct {
	Network     string `json:"network"`
	ContainerID string `json:"containerID"`
	IfName      string `json:"ifName"`
}

func (k Key) String() string { return k.Network + "/" + k.ContainerID + "/" + k.IfName }

// A Pod says whom a lease is for. It is kept for operators and may be empty.
type Pod struct {
	Namespace string `json:"namespace,omitempty"`
	Name      string `json:"name,omitempty"`
	UID       string `json:"uid,omitempty"`
}

// A Lease is an address with its owner and the ENI whose traffic it must use.
type Lease struct {
	Key  Key
	Pod  Pod
	Addr netip.Addr
	ENI  LeaseENI
}

// A LeaseENI is what routing needs of an ENI.
type LeaseENI struct {
	ID  string
	MAC string
	// Slot is at least 1 and belongs to the ENI for as long as the ENI exists.
	Slot    int
	Gateway netip.Addr
	Subnet  netip.Prefix
}

// An ENI is a view of one interface of the pool.
type ENI struct {
	LeaseENI
	VSwitchID string
	State     ENIState
	// Wired says that the node's link and routes for the ENI are in place.
	Wired     bool
	Addresses []netip.Addr // sorted
}

// Stats counts addresses, save for ENIs.
type Stats struct {
	Used        int // leased
	Idle        int // can be leased at once
	Cooling     int // released, not yet reusable
	Pending     int // asked of the cloud or waiting for an ENI to be attached
	Quarantined int // not confirmed by the cloud
	Waiting     int // callers of Allocate
	Capacity    int // what the instance type allows
	ENIs        int // intended ones included, the primary one not
}
