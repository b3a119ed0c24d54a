package aliyun

import (
	"net/netip"
	"time"
)

// An ENI is an elastic network interface as DescribeNetworkInterfaces shows it.
type ENI struct {
	ID         string
	MAC        string // lower case, colon separated
	Type       string // TypePrimary or TypeSecondary
	Status     string // one of the Status constants
	InstanceID string // empty while detached
	VPCID      string
	VSwitchID  string
	ZoneID     string
	PrimaryIP  netip.Addr
	// PrivateIPs holds every IPv4 address of the ENI, the primary one first.
	PrivateIPs []netip.Addr
	// IPv6s holds every IPv6 address, in the order of the cloud.
	IPv6s            []netip.Addr
	IPv4Prefixes     []netip.Prefix // delegated to the ENI as a whole
	SecurityGroupIDs []string
	// QueueNumber is how many queues the device has; zero when the cloud does not say.
	QueueNumber     int
	DeleteOnRelease bool // the ENI goes with its instance
	Tags            map[string]string
	Created         time.Time
}

// ENI types and states, with the spelling of the API.
const (
	TypePrimary   = "Primary"
	TypeSecondary = "Secondary"

	StatusAvailable = "Available"
	StatusAttaching = "Attaching"
	StatusInUse     = "InUse"
	StatusDetaching = "Detaching"
	StatusDeleting  = "Deleting"
)

// CreateENI is the request of Client.CreateENI.
type CreateENI struct {
	VSwitchID        string
	SecurityGroupIDs []string
	// SecondaryIPs is how many addresses the ENI gets beside its primary one, 0 to 49.
	SecondaryIPs int
	// IPv6s is how many IPv6 addresses it gets, 0 to 10.
	IPv6s int
	// QueueNumber of the device; zero leaves it to the instance type.
	QueueNumber int
	// DeleteOnRelease lets the ENI go with the instance it is attached to; without it, it is left behind.
	DeleteOnRelease bool
	ResourceGroupID string // empty: the account's default one
	Tags            map[string]string
	Description     string
	// ClientToken makes a retry of the same request return the first result; at most 64 ASCII characters.
	ClientToken string
}

// ModifyENI is the request of Client.ModifyENI. Zero fields leave what they name as it is.
type ModifyENI struct {
	SecurityGroupIDs []string // replaces all of them
	QueueNumber      int
	DeleteOnRelease  *bool
}

// Assign is the request of Client.AssignIPs.
type Assign struct {
	ENIID  string
	Family Family
	// Count of addresses; the API takes at most 10 of IPv6 in one call.
	Count int
	// ClientToken makes a retry of the same request return the first result; at most 64 ASCII characters.
	ClientToken string
}

// ENIFilter selects ENIs; zero fields match everything, but at least one field must be set.
type ENIFilter struct {
	IDs        []string
	InstanceID string
	Tags       map[string]string
}

// A VSwitch is a subnet of the VPC, in one zone.
type VSwitch struct {
	ID     string
	VPCID  string
	ZoneID string
	CIDR   netip.Prefix
	// IPv6CIDR is the zero Prefix where IPv6 is not enabled.
	IPv6CIDR netip.Prefix
	// RouteTableID names the route table that is bound to the vSwitch; empty when the answer does not say.
	RouteTableID string
	// AvailableIPs is how many IPv4 addresses are free, as of the moment of the call.
	AvailableIPs int
}

// An InstanceType carries the limits of an instance type that bear on networking.
type InstanceType struct {
	ID string
	// ENIs counts the primary ENI too (EniQuantity).
	ENIs int
	// AddressesPerENI counts each ENI's primary address too (EniPrivateIpAddressQuantity).
	AddressesPerENI int
	// IPv6PerENI is zero for types without IPv6 (EniIpv6AddressQuantity).
	IPv6PerENI int
	// TotalENIs counts trunk members too (EniTotalQuantity).
	TotalENIs int
	// QueuesPerENI is what a secondary ENI has unless another number is asked for (SecondaryEniQueueNumber), and
	// MaxQueuesPerENI the most that may be asked for (MaximumQueueNumberPerEni); zero: the number is fixed.
	QueuesPerENI, MaxQueuesPerENI int
}

// An Instance is what the agent must know of the machine it runs on.
type Instance struct {
	ID               string
	Type             string
	RegionID         string
	ZoneID           string
	VPCID            string
	VSwitchID        string
	SecurityGroupIDs []string
	// PublicIP is the instance's elastic or fixed public address; the zero Addr: it has none. It serves the primary
	// address of the primary ENI and no other.
	PublicIP netip.Addr
}

// A SecurityGroup is what must match between an ENI and its VPC.
type SecurityGroup struct {
	ID    string
	VPCID string
	Type  string // "normal" or "enterprise"; one ENI does not mix them
	// ServiceManaged groups belong to a cloud product and cannot be used by its customer.
	ServiceManaged bool
}
