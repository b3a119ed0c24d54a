package sim

import (
	"log/slog"
	"net/netip"
	"time"

	"github.com/nearpath/nearpath/internal/aliyun"
)

// Config describes a cloud of one region and its behaviour. DefaultConfig is a complete one.
type Config struct {
	RegionID string
	ZoneID   string // of vSwitches that name none
	VPCID    string
	VPCCIDR  netip.Prefix
	// VPCIPv6CIDR is what the vSwitches' IPv6 CIDRs lie in; the zero Prefix: the VPC has no IPv6.
	VPCIPv6CIDR netip.Prefix
	// SecondaryCIDRs and UserCIDRs of the VPC are shown; vSwitches may lie in the former.
	SecondaryCIDRs []netip.Prefix
	UserCIDRs      []netip.Prefix
	// MoreVPCs exist beside the one above, so that things can be in the wrong one. A Fabric has none.
	MoreVPCs []MoreVPC
	// VSwitches lie within the CIDR of their VPC or a secondary one, and no two overlap, whatever their VPCs.
	VSwitches []VSwitch
	// RouteTables hold the routes people added; none: a system table without any.
	RouteTables   []aliyun.RouteTable
	NATGateways   []NATGateway
	InstanceTypes []InstanceType
	// SecurityGroups exist. Instances are in the first of their VPC.
	SecurityGroups []SecurityGroup
	// AccessKeys maps key IDs to secrets.
	AccessKeys map[string]string
	// Policies maps key IDs, and the role for its temporary keys, to the actions they may call, such as "ecs:Describe*";
	// who has none may call everything.
	Policies map[string][]string
	// PrivateZone is the DNS of the VPCs.
	PrivateZone PrivateZoneConfig
	// RAMRole is attached to every instance; empty: none.
	RAMRole string
	// OIDC is a RAM role to assume with a service account's token.
	OIDC OIDCTrust
	// Tokens says how the metadata service treats tokens.
	Tokens TokenMode

	// MaxENIs is the account's quota of ENIs; zero: none.
	MaxENIs int
	// MaxVSwitchPages is the last page of DescribeVSwitches that is not throttled as deep paging; zero: all are shown.
	MaxVSwitchPages int
	Delays          Delays
	// Latencies hold calls, by action, beside Delays.
	Latencies map[string]Latency
	// States are how long an ENI stays Attaching, Detaching and Deleting, beside Delays.
	States map[string]Latency
	// DescribeLag and MetadataLag are how long after a change of an ENI the API and the metadata service show it.
	DescribeLag, MetadataLag Latency
	// AttachFailure is how likely an attachment ends as Available again, from 0 to 1.
	AttachFailure float64
	// Conflicts refuses to change an ENI while another call changes it (Operation.Conflict); else the call waits.
	Conflicts bool
	// RateLimits throttle calls, those to the metadata service under the name Metadata.
	RateLimits []RateLimit
	// Faults are injected from the start.
	Faults []Fault
	// Seed fixes every random choice, the n-th of its kind by n.
	Seed uint64

	// IgnoreUnknown accepts parameters the action does not know, as the real API does.
	IgnoreUnknown bool
	// ClockSkew is how far a time stamp may be off; zero: 15 minutes, negative: any.
	ClockSkew time.Duration
	// Control says who may use /sim/.
	Control ControlAccess
	// MaxCalls bounds the call log, of which the oldest go first; zero: 100,000.
	MaxCalls int

	Fabric Fabric           // nil: ENIs exist in the API only
	Clock  Clock            // nil: the machine's time
	Now    func() time.Time // without a Clock: nil means time.Now; judges time stamps and expiry
	Logger *slog.Logger     // nil: discard
}

// A MoreVPC is a further VPC of the region.
type MoreVPC struct {
	ID   string
	CIDR netip.Prefix
}

// A VSwitch is a subnet of a VPC in one zone.
type VSwitch struct {
	ID     string
	VPCID  string // empty: the VPC of the Config
	ZoneID string // empty: the zone of the Config
	CIDR   netip.Prefix
	// IPv6CIDR is a /64; the zero Prefix: IPv6 is not turned on.
	IPv6CIDR netip.Prefix
	// MaxAddresses is a quota of IPv4 addresses (QuotaExceeded.PrivateIpAddress); zero: none.
	MaxAddresses int
	Tags         map[string]string
}

// Delays are how long the cloud takes. Create, Assign and Unassign hold the call; the others hold the state that
// follows it. Zero is immediate.
type Delays struct {
	Create   time.Duration
	Attach   time.Duration
	Detach   time.Duration
	Delete   time.Duration
	Assign   time.Duration
	Unassign time.Duration
}

// TokenMode says how the metadata service treats tokens.
type TokenMode int

const (
	// TokensOptional answers requests with and without a token.
	TokensOptional TokenMode = iota
	// TokensRequired refuses requests without a valid token with 401.
	TokensRequired
	// TokensUnknown has no tokens and answers 404 to the request for one.
	TokensUnknown
)

// ControlAccess says who may use the paths below /sim/.
type ControlAccess int

const (
	// ControlLoopback lets callers in that come from the loopback addresses of the machine.
	ControlLoopback ControlAccess = iota
	// ControlAnyone lets everybody in.
	ControlAnyone
	// ControlNobody answers 404.
	ControlNobody
)

// Realistic lets calls and states take as long as the real cloud does, times the factor.
func (c *Config) Realistic(factor float64) {
	c.Latencies, c.States = map[string]Latency{}, map[string]Latency{}
	for action, l := range map[string]Latency{
		"CreateNetworkInterface":     LogNormal(500*time.Millisecond, 2*time.Second),
		"AssignPrivateIpAddresses":   Uniform(500*time.Millisecond, time.Second),
		"AssignIpv6Addresses":        Uniform(500*time.Millisecond, time.Second),
		"UnassignPrivateIpAddresses": Uniform(500*time.Millisecond, time.Second),
		"UnassignIpv6Addresses":      Uniform(500*time.Millisecond, time.Second),
		"DescribeNetworkInterfaces":  LogNormal(100*time.Millisecond, 600*time.Millisecond),
	} {
		c.Latencies[action] = l.scaled(factor)
	}
	for status, l := range map[string]Latency{
		aliyun.StatusAttaching: Uniform(3*time.Second, 8*time.Second),
		aliyun.StatusDetaching: Uniform(3*time.Second, 6*time.Second),
		aliyun.StatusDeleting:  Uniform(time.Second, 2*time.Second),
	} {
		c.States[status] = l.scaled(factor)
	}
	c.MetadataLag = Uniform(time.Second, 3*time.Second).scaled(factor)
}
