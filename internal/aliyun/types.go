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
	PrivateIPs       []netip.Addr
	SecurityGroupIDs []string
	Tags             map[string]string
	Created          time.Time
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

// CreateENI is the request of ECS.CreateENI.
type CreateENI struct {
	VSwitchID        string
	SecurityGroupIDs []string
	// SecondaryIPs is how many addresses the ENI gets beside its primary one, 0 to 49.
	SecondaryIPs int
	Tags         map[string]string
	Description  string
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
	// AvailableIPs is how many addresses are free, as of the moment of the call.
	AvailableIPs int
}

// An InstanceType carries the limits of an instance type that bear on networking.
type InstanceType struct {
	ID string
	// ENIs counts the primary ENI too (EniQuantity).
	ENIs int
	// AddressesPerENI counts each ENI's primary address too (EniPrivateIpAddressQuantity).
	AddressesPerENI int
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
}
