package sim

import (
	"net/netip"

	"github.com/nearpath/nearpath/internal/aliyun"
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
// and an SNAT entry there. It has no IPv6, no Fabric and no delays.
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
		InstanceTypes:  defaultTypes(),
		SecurityGroups: []SecurityGroup{{SecurityGroup: aliyun.SecurityGroup{ID: DefaultSecurityGroup}}},
		AccessKeys:     map[string]string{DefaultAccessKey: DefaultAccessSecret},
		RAMRole:        DefaultRAMRole,
	}
	defaultNetwork(&cfg)
	return cfg
}

// DualStackConfig is DefaultConfig with IPv6 in the VPC (2001:db8:10::/56) and in both vSwitches, of which nodes have the
// network 0 and pods 40 of it.
func DualStackConfig() Config {
	cfg := DefaultConfig()
	cfg.VPCIPv6CIDR = netip.MustParsePrefix("2001:db8:10::/56")
	cfg.VSwitches[0].IPv6CIDR = netip.MustParsePrefix("2001:db8:10::/64")
	cfg.VSwitches[1].IPv6CIDR = netip.MustParsePrefix("2001:db8:10:40::/64")
	return cfg
}
