package sim

import (
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"time"

	"github.com/nearpath/nearpath/internal/aliyun"
)

// Config describes a cloud of one region with one VPC. DefaultConfig is a complete one.
type Config struct {
	RegionID string
	ZoneID   string // of vSwitches that name none
	VPCID    string
	VPCCIDR  netip.Prefix
	// SecondaryCIDRs and UserCIDRs of the VPC are shown; vSwitches may lie in the former.
	SecondaryCIDRs []netip.Prefix
	UserCIDRs      []netip.Prefix
	// VSwitches lie within VPCCIDR or a secondary CIDR and do not overlap.
	VSwitches []VSwitch
	// RouteTables hold the routes people added; none: a system table without any.
	RouteTables   []aliyun.RouteTable
	NATGateways   []NATGateway
	InstanceTypes []aliyun.InstanceType
	// SecurityGroups exist in the VPC. Instances are in the first.
	SecurityGroups []string
	// AccessKeys maps key IDs to secrets.
	AccessKeys map[string]string
	// RAMRole is attached to every instance; empty: none.
	RAMRole string
	// OIDC is a RAM role to assume with a service account's token.
	OIDC OIDCTrust
	// Tokens says how the metadata service treats tokens.
	Tokens TokenMode
	// MaxENIs is the account's quota of ENIs; zero: none.
	MaxENIs int
	Delays  Delays
	Fabric  Fabric           // nil: ENIs exist in the API only
	Now     func() time.Time // nil: time.Now; judges time stamps and expiry
	Logger  *slog.Logger     // nil: discard
}

// A VSwitch is a subnet of the VPC in one zone.
type VSwitch struct {
	ID     string
	ZoneID string // empty: the zone of the Config
	CIDR   netip.Prefix
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

// Names in DefaultConfig.
const (
	DefaultRegion        = "cn-simulated"
	DefaultZone          = "cn-simulated-a"
	DefaultVPC           = "vpc-simulated"
	DefaultNodeVSwitch   = "vsw-nodes"
	DefaultPodVSwitch    = "vsw-pods"
	DefaultSecurityGroup = "sg-simulated"
	DefaultRAMRole       = "nearpath-node"
	// DefaultAccessKey and DefaultAccessSecret open the simulated API and nothing else.
	DefaultAccessKey    = "simulated-key"
	DefaultAccessSecret = "simulated-secret"
)

// DefaultConfig returns a cloud with a vSwitch for nodes (10.0.0.0/24), one for pods (10.0.64.0/20), instance types from
// small to large, one access key and an instance role. Both vSwitches have a way out: a default route to one NAT gateway,
// and an SNAT entry there. It has no Fabric and no delays.
func DefaultConfig() Config {
	cfg := Config{
		RegionID: DefaultRegion,
		ZoneID:   DefaultZone,
		VPCID:    DefaultVPC,
		VPCCIDR:  netip.MustParsePrefix("10.0.0.0/16"),
		VSwitches: []VSwitch{
			{ID: DefaultNodeVSwitch, CIDR: netip.MustParsePrefix("10.0.0.0/24")},
			{ID: DefaultPodVSwitch, CIDR: netip.MustParsePrefix("10.0.64.0/20")},
		},
		InstanceTypes: []aliyun.InstanceType{
			{ID: "ecs.sim.tiny", ENIs: 1, AddressesPerENI: 1},
			{ID: "ecs.sim.small", ENIs: 2, AddressesPerENI: 4},
			{ID: "ecs.sim.medium", ENIs: 3, AddressesPerENI: 6},
			{ID: "ecs.sim.large", ENIs: 4, AddressesPerENI: 15},
			{ID: "ecs.sim.xlarge", ENIs: 8, AddressesPerENI: 30},
		},
		SecurityGroups: []string{DefaultSecurityGroup},
		AccessKeys:     map[string]string{DefaultAccessKey: DefaultAccessSecret},
		RAMRole:        DefaultRAMRole,
	}
	defaultNetwork(&cfg)
	return cfg
}

func (c *Config) complete() error {
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	for name, v := range map[string]string{"RegionID": c.RegionID, "ZoneID": c.ZoneID, "VPCID": c.VPCID} {
		if v == "" {
			return fmt.Errorf("%s is empty", name)
		}
	}
	if !c.VPCCIDR.IsValid() || !c.VPCCIDR.Addr().Is4() {
		return fmt.Errorf("VPC has the CIDR %s, want an IPv4 prefix", c.VPCCIDR)
	}
	if len(c.VSwitches) == 0 || len(c.InstanceTypes) == 0 || len(c.SecurityGroups) == 0 {
		return errors.New("no vSwitch, no instance type or no security group")
	}
	return c.checkVSwitches()
}

func (c *Config) checkVSwitches() error {
	for i, v := range c.VSwitches {
		cidr := v.CIDR
		if !cidr.IsValid() || cidr != cidr.Masked() || cidr.Bits() > 29 || !c.inVPC(cidr) {
			return fmt.Errorf("vSwitch %s has the CIDR %s, want a prefix of at most /29 within %s or a secondary CIDR", v.ID, cidr, c.VPCCIDR)
		}
		for _, w := range c.VSwitches[:i] {
			if w.ID == v.ID || w.CIDR.Overlaps(cidr) {
				return fmt.Errorf("vSwitches %s (%s) and %s (%s) overlap", w.ID, w.CIDR, v.ID, cidr)
			}
		}
	}
	return nil
}

// inVPC reports whether a vSwitch may have the CIDR.
func (c *Config) inVPC(cidr netip.Prefix) bool {
	return slices.ContainsFunc(append([]netip.Prefix{c.VPCCIDR}, c.SecondaryCIDRs...), func(p netip.Prefix) bool {
		return p.Bits() <= cidr.Bits() && p.Contains(cidr.Addr())
	})
}
