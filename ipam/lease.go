package ipam

import (
	"errors"
	"net/netip"

	"github.com/nearpath/nearpath/internal/aliyun"
)

// ErrExhausted says that no address is free and none will be soon enough.
var ErrExhausted = errors.New("no free pod address")

// A Key names one attachment of a container to a network, and so owns at most one lease (CNI specification 1.1.0,
// section 2: network name, CNI_CONTAINERID, CNI_IFNAME).
type Key struct {
	Network     string `json:"network"`
	ContainerID string `json:"containerID"`
	IfName      string `json:"ifName"`
}

func (k Key) String() string { return k.Network + "/" + k.ContainerID + "/" + k.IfName }

// A Pod says whom a lease is for. It may be empty; then nothing can be kept for it.
type Pod struct {
	Namespace string `json:"namespace,omitempty"`
	Name      string `json:"name,omitempty"`
	UID       string `json:"uid,omitempty"`
}

// name is what addresses are kept for; the UID is another one each time.
func (p Pod) name() podName { return podName{p.Namespace, p.Name} }

type podName struct{ namespace, name string }

// A Request asks for a lease.
type Request struct {
	Key Key
	Pod Pod
	// Exclusive asks for a whole ENI instead of an address on a shared one.
	Exclusive bool
}

// A Lease is what an owner has: one address of each family, all on one ENI, whose traffic must use that ENI.
type Lease struct {
	Key       Key
	Pod       Pod
	Addrs     []netip.Addr // IPv4 first, at most one of each family
	ENI       LeaseENI
	Exclusive bool // the ENI is the owner's alone, and the node has no routes for it
}

// A LeaseENI is what routing needs of an ENI.
type LeaseENI struct {
	ID  string
	MAC string
	// Slot is at least 1 and belongs to the ENI for as long as the ENI exists.
	Slot int
	Nets []Net // one per family that the vSwitch has, IPv4 first
}

// A Net is the subnet of an ENI in one family.
type Net struct {
	Subnet  netip.Prefix `json:"subnet"`
	Gateway netip.Addr   `json:"gateway"`
}

// An InUse is an address that a pod on the node was found to use.
type InUse struct {
	Addr netip.Addr
	Key  Key
	Pod  Pod
	// Exclusive says that the pod has the whole ENI.
	Exclusive bool
}

// An ENI is a view of one interface of the pool.
type ENI struct {
	LeaseENI
	VSwitchID string
	State     ENIState
	Exclusive bool
	// Wired says that the node is ready for leases on the ENI: it routes a shared one, and does not route an exclusive one.
	Wired     bool
	Queues    int          // of the device, 0 if not known
	Pods      int          // leases
	Addresses []netip.Addr // sorted
}

// Stats counts addresses of the shared ENIs, in pairs with two families, save for what is said otherwise.
type Stats struct {
	Used        int // leased
	Kept        int // reserved for a pod's name
	Idle        int // can be leased at once
	Cooling     int // released, not yet reusable
	Unproven    int // adopted, and not yet known to be unused; addresses of any family and ENI
	Pending     int // asked of the cloud, or waiting for an ENI to be attached or for an address of the other family
	Quarantined int // not confirmed by the cloud; addresses of any family and ENI
	Waiting     int // callers of Allocate
	Capacity    int // what the instance type and the settings allow
	ENIs        int // of both kinds, intended ones included, the primary one not
	Exclusive   ExclusiveStats
}

// ExclusiveStats counts exclusive ENIs.
type ExclusiveStats struct{ Used, Kept, Idle, Cooling, Pending, Waiting, Capacity int }

// A Capacity is how many pods of each kind fit on the node if there are none of the other kind.
type Capacity struct {
	Shared    int // addresses, or pairs of them with two families
	Exclusive int // ENIs
}

// netsOf are the subnets of a vSwitch in the given families.
func netsOf(v aliyun.VSwitch, families []aliyun.Family) []Net {
	var nets []Net
	for _, f := range families {
		cidr := v.CIDR
		if f == aliyun.IPv6 {
			cidr = v.IPv6CIDR
		}
		if cidr.IsValid() {
			nets = append(nets, Net{Subnet: cidr, Gateway: gateway(cidr)})
		}
	}
	return nets
}

// gateway is the address of a vSwitch's router: the third address from its end (Alibaba Cloud, "vSwitch overview": the
// first and the last three addresses are reserved; x.x.x.253 for a /24).
func gateway(cidr netip.Prefix) netip.Addr {
	raw := cidr.Masked().Addr().AsSlice()
	for bit := cidr.Bits(); bit < len(raw)*8; bit++ {
		raw[bit/8] |= 1 << (7 - bit%8)
	}
	last, _ := netip.AddrFromSlice(raw)
	return last.Prev().Prev()
}
