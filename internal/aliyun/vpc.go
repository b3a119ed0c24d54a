package aliyun

import "net/netip"

// A VPC is a virtual network of one region.
type VPC struct {
	ID string
	// CIDRs holds the primary IPv4 block first, then the secondary ones, then the user's (UserCidrs: ranges that the VPC
	// treats as private although they are not part of it).
	CIDRs []netip.Prefix
	// IPv6CIDR is the zero Prefix in a VPC without IPv6.
	IPv6CIDR netip.Prefix
}

// A RouteTable says where packets go that leave the vSwitches associated with it.
type RouteTable struct {
	ID   string
	Type string // RouteTableSystem or RouteTableCustom
	// VSwitchIDs are associated with the table. A vSwitch that is in no custom table uses the system table.
	VSwitchIDs []string
	Routes     []Route
}

// A Route is one next hop of a route entry. An entry with several next hops gives a Route for each.
type Route struct {
	Destination netip.Prefix
	NextHopType string // such as NextHopNATGateway; "local" for the VPC's own routes
	NextHopID   string // empty for the VPC's own routes
	Status      string // StatusAvailable, "Pending", "Modifying"
}

// An SNATEntry lets the addresses of a vSwitch or of a CIDR use public addresses of a NAT gateway.
type SNATEntry struct {
	ID           string
	TableID      string
	NATGatewayID string
	// VSwitchID is empty in an entry for a CIDR. An entry for a vSwitch usually carries its CIDR too.
	VSwitchID  string
	SourceCIDR netip.Prefix
	IPs        []netip.Addr // public addresses
	Status     string       // StatusAvailable, "Pending", "Modifying", "Deleting"
}

// Types of route tables and next hops, with the spelling of the API.
const (
	RouteTableSystem  = "System"
	RouteTableCustom  = "Custom"
	NextHopNATGateway = "NatGateway"
)
