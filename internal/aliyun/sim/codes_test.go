package sim

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/nearpath/nearpath/internal/aliyun"
)

// A stage is a cloud in which everything can go wrong, with names for what is in it.
type stage struct {
	*caller
	names map[string]string // placeholders in parameters, such as $free
}

// newStage runs i-small (2 ENIs of 4 addresses, no IPv6 left to spare) and i-plain (no IPv6) in zone a, i-stopped there as
// well, and i-b in zone b; i-other is in another VPC.
func newStage(t *testing.T) *stage {
	t.Helper()
	cloud := newCloud(t, func(c *Config) {
		*c = DualStackConfig()
		c.MoreVPCs = []MoreVPC{{ID: "vpc-other", CIDR: netip.MustParsePrefix("172.20.0.0/16")}}
		c.VSwitches = append(c.VSwitches,
			VSwitch{ID: "vsw-b", ZoneID: "cn-simulated-b", CIDR: netip.MustParsePrefix("10.0.1.0/24")},
			VSwitch{ID: "vsw-tiny", CIDR: netip.MustParsePrefix("10.0.2.0/29")},
			VSwitch{ID: "vsw-quota", CIDR: netip.MustParsePrefix("10.0.3.0/24"), MaxAddresses: 2},
			VSwitch{ID: "vsw-other", VPCID: "vpc-other", CIDR: netip.MustParsePrefix("172.20.0.0/24")})
		group := func(id, vpc, kind string, managed bool, most int) SecurityGroup {
			return SecurityGroup{SecurityGroup: aliyun.SecurityGroup{ID: id, VPCID: vpc, Type: kind, ServiceManaged: managed}, MaxMembers: most}
		}
		c.SecurityGroups = append(c.SecurityGroups,
			group("sg-other", "vpc-other", "", false, 0), group("sg-enterprise", "", GroupEnterprise, false, 0),
			group("sg-managed", "", "", true, 0), group("sg-full", "", "", false, 2))
		for i := range 12 {
			c.SecurityGroups = append(c.SecurityGroups, group(fmt.Sprint("sg-more-", i), "", "", false, 0))
		}
		c.InstanceTypes = append(c.InstanceTypes, InstanceType{InstanceType: aliyun.InstanceType{ID: "ecs.sim.plain", ENIs: 3, AddressesPerENI: 3}})
	})
	for id, at := range map[string][2]string{
		"i-small": {"ecs.sim.small", DefaultNodeVSwitch}, "i-plain": {"ecs.sim.plain", DefaultNodeVSwitch},
		"i-stopped": {"ecs.sim.medium", DefaultNodeVSwitch}, "i-b": {"ecs.sim.small", "vsw-b"}, "i-other": {"ecs.sim.small", "vsw-other"},
	} {
		if _, _, err := cloud.RunInstance(t.Context(), InstanceSpec{ID: id, Type: at[0], VSwitchID: at[1]}); err != nil {
			t.Fatal(err)
		}
	}
	s := &stage{caller: &caller{cloud: cloud}, names: map[string]string{}}
	for _, e := range cloud.ENIs() {
		if e.InstanceID == "i-small" {
			s.names["$primary"] = e.ID
		}
	}
	s.make(t, "$free", nil)
	s.make(t, "$used", map[string]string{"SecondaryPrivateIpAddressCount": "1", "PrimaryIpAddress": "10.0.64.99"})
	s.make(t, "$six", map[string]string{"Ipv6AddressCount": "5"})
	s.make(t, "$four", map[string]string{"SecondaryPrivateIpAddressCount": "4"})
	s.make(t, "$many", map[string]string{"QueueNumber": "3"})
	s.make(t, "$stop", nil)
	s.make(t, "$full", map[string]string{"SecurityGroupIds.1": "sg-full", "SecondaryPrivateIpAddressCount": "1"})
	s.make(t, "$b", map[string]string{"VSwitchId": "vsw-b"})
	s.want(t, "AttachNetworkInterface", map[string]string{"NetworkInterfaceId": "$used", "InstanceId": "i-small"}, 200, "")
	s.want(t, "AttachNetworkInterface", map[string]string{"NetworkInterfaceId": "$stop", "InstanceId": "i-stopped"}, 200, "")
	if err := cloud.StopInstance("i-stopped"); err != nil {
		t.Fatal(err)
	}
	return s
}

func (s *stage) make(t *testing.T, name string, extra map[string]string) {
	t.Helper()
	params := map[string]string{"VSwitchId": DefaultPodVSwitch, "SecurityGroupIds.1": DefaultSecurityGroup}
	maps.Copy(params, extra)
	status, answer := s.ecs(t, "CreateNetworkInterface", params)
	if status != 200 {
		t.Fatalf("create %s: %v", name, answer)
	}
	s.names[name] = answer["NetworkInterfaceId"].(string)
	s.names[name+".primary"] = answer["PrivateIpAddress"].(string)
}

func (s *stage) want(t *testing.T, action string, params map[string]string, status int, code string) {
	t.Helper()
	filled := map[string]string{}
	for k, v := range params {
		filled[k] = orDefault(s.names[v], v)
	}
	gotStatus, answer := s.ecs(t, action, filled)
	got, _ := answer["Code"].(string)
	if gotStatus != status || got != code {
		t.Errorf("%s(%v) = %d %s %v; want %d %s", action, params, gotStatus, got, answer["Message"], status, code)
	}
	if code != "" {
		checkInvariants(t, s.cloud, nil)
	}
}

// with returns parameters from pairs of names and values.
func with(pairs ...string) map[string]string {
	m := map[string]string{}
	for i := 0; i < len(pairs); i += 2 {
		m[pairs[i]] = pairs[i+1]
	}
	return m
}

// A refused call for each code an action can give, and for each reason.
var refusals = []struct {
	action string
	code   string
	status int
	params map[string]string
}{
	{"CreateNetworkInterface", "MissingParameter.VSwitchId", 400, with("SecurityGroupId", DefaultSecurityGroup)},
	{"CreateNetworkInterface", "MissingParameter.SecurityGroupId", 400, with("VSwitchId", DefaultPodVSwitch)},
	{"CreateNetworkInterface", "InvalidVSwitchId.NotFound", 404, with("VSwitchId", "vsw-none", "SecurityGroupId", DefaultSecurityGroup)},
	{"CreateNetworkInterface", "InvalidSecurityGroupId.NotFound", 404, onPods("SecurityGroupId", "sg-none")},
	{"CreateNetworkInterface", "InvalidSecurityGroupId.NotVpc", 403, onPods("SecurityGroupId", "sg-other")},
	{"CreateNetworkInterface", "InvalidOperation.ResourceManagedByCloudProduct", 403, onPods("SecurityGroupId", "sg-managed")},
	{"CreateNetworkInterface", "InvalidOperation.MultiGroupType", 403, onPods("SecurityGroupIds.1", "sg-enterprise", "SecurityGroupIds.2", DefaultSecurityGroup)},
	{"CreateNetworkInterface", "SecurityGroupInstanceLimitExceed", 403, onPods("SecurityGroupId", "sg-full")},
	{"CreateNetworkInterface", "InvalidParameter", 400, manyGroups()},
	{"CreateNetworkInterface", "InvalidParameter", 400, onPods("SecondaryPrivateIpAddressCount", "50")},
	{"CreateNetworkInterface", "InvalidParameter", 400, onPods("Ipv6AddressCount", "11")},
	{"CreateNetworkInterface", "InvalidParameter", 400, onPods("Ipv4PrefixCount", "11")},
	{"CreateNetworkInterface", "InvalidParameter", 400, onPods("Ipv4PrefixCount", "1", "SecondaryPrivateIpAddressCount", "1")},
	{"CreateNetworkInterface", "InvalidParameter", 400, onPods("Ipv4Prefix.1", "10.0.64.0/27")},
	{"CreateNetworkInterface", "InvalidParameter", 400, onPods("DeleteOnRelease", "yes")},
	{"CreateNetworkInterface", "InvalidParameter", 400, onPods("NetworkInterfaceTrafficMode", "Fast")},
	{"CreateNetworkInterface", "InvalidParameter", 400, onPods("ClientToken", strings.Repeat("x", 65))},
	{"CreateNetworkInterface", "UnsupportedParameter", 400, onPods("NetworkInterfaceTrafficMode", "HighPerformance")},
	{"CreateNetworkInterface", "UnsupportedParameter", 400, onPods("InstanceType", "Trunk")},
	{"CreateNetworkInterface", "UnsupportedParameter", 400, onPods("InstanceType", "Member")},
	{"CreateNetworkInterface", "UnsupportedParameter", 400, onPods("Ipv6PrefixCount", "1")},
	{"CreateNetworkInterface", "UnsupportedParameter", 400, onPods("Ipv6Prefix.1", "2001:db8:10:40::/80")},
	{"CreateNetworkInterface", "InvalidParameter.InvalidEniQueueNumber", 403, onPods("QueueNumber", "2049")},
	{"CreateNetworkInterface", "InvalidParameter.InvalidQueuePairNumber", 403, onPods("QueuePairNumber", "2")},
	{"CreateNetworkInterface", "InvalidVSwitch.Ipv6NotTurnOn", 403, with("VSwitchId", "vsw-b", "SecurityGroupId", DefaultSecurityGroup, "Ipv6AddressCount", "1")},
	{"CreateNetworkInterface", "InvalidVSwitchId.IpNotEnough", 403, with("VSwitchId", "vsw-tiny", "SecurityGroupId", DefaultSecurityGroup, "SecondaryPrivateIpAddressCount", "4")},
	{"CreateNetworkInterface", "InvalidVSwitchId.IpNotEnough", 403, with("VSwitchId", "vsw-tiny", "SecurityGroupId", DefaultSecurityGroup, "Ipv4PrefixCount", "1")},
	{"CreateNetworkInterface", "QuotaExceeded.PrivateIpAddress", 403, with("VSwitchId", "vsw-quota", "SecurityGroupId", DefaultSecurityGroup, "SecondaryPrivateIpAddressCount", "2")},
	{"CreateNetworkInterface", "InvalidVSwitchId.IpInvalid", 403, onPods("PrimaryIpAddress", "10.0.0.9")},
	{"CreateNetworkInterface", "InvalidVSwitchId.IpInvalid", 403, onPods("Ipv6Address.1", "2001:db8:10::9")},
	{"CreateNetworkInterface", "InvalidIp.IpAssigned", 403, onPods("PrimaryIpAddress", "10.0.64.99")},
	{"CreateNetworkInterface", "InvalidIp.IpAssigned", 403, onPods("Ipv4Prefix.1", "10.0.64.96/28")},
	{"CreateNetworkInterface", "InvalidIp.IpRepeated", 403, onPods("PrivateIpAddress.1", "10.0.70.1", "PrivateIpAddress.2", "10.0.70.1")},
	{"CreateNetworkInterface", "InvalidIp.IpRepeated", 403, onPods("PrimaryIpAddress", "10.0.70.1", "PrivateIpAddress.2", "10.0.70.1")},
	{"CreateNetworkInterface", "InvalidIp.Address", 403, onPods("PrimaryIpAddress", "x")},
	{"CreateNetworkInterface", "InvalidIp.Address", 403, onPods("Ipv6Address.1", "10.0.64.7")},

	{"AttachNetworkInterface", "MissingParameter.InstanceId", 400, with("NetworkInterfaceId", "$free")},
	{"AttachNetworkInterface", "InvalidParams.EniId", 400, with("NetworkInterfaceId", "free", "InstanceId", "i-small")},
	{"AttachNetworkInterface", "InvalidEniId.NotFound", 404, with("NetworkInterfaceId", "eni-none", "InstanceId", "i-small")},
	{"AttachNetworkInterface", "InvalidInstanceID.Malformed", 400, with("NetworkInterfaceId", "$free", "InstanceId", "small")},
	{"AttachNetworkInterface", "InvalidEcsId.NotFound", 404, with("NetworkInterfaceId", "$free", "InstanceId", "i-none")},
	{"AttachNetworkInterface", "InvalidOperation.InvalidEniState", 400, with("NetworkInterfaceId", "$used", "InstanceId", "i-plain")},
	{"AttachNetworkInterface", "InvalidOperation.InvalidEniType", 403, with("NetworkInterfaceId", "$primary", "InstanceId", "i-plain")},
	{"AttachNetworkInterface", "InvalidOperation.AvailabilityZoneMismatch", 403, with("NetworkInterfaceId", "$b", "InstanceId", "i-plain")},
	{"AttachNetworkInterface", "InvalidOperation.VpcMismatch", 403, with("NetworkInterfaceId", "$free", "InstanceId", "i-other")},
	{"AttachNetworkInterface", "EniPerInstanceLimitExceeded", 403, with("NetworkInterfaceId", "$free", "InstanceId", "i-small")},
	{"AttachNetworkInterface", "InvalidOperation.Ipv4CountExceeded", 403, with("NetworkInterfaceId", "$four", "InstanceId", "i-plain")},
	{"AttachNetworkInterface", "InvalidOperation.Ipv6NotSupport", 403, with("NetworkInterfaceId", "$six", "InstanceId", "i-plain")},
	{"AttachNetworkInterface", "InvalidOperation.MaxEniQueueNumberExceeded", 403, with("NetworkInterfaceId", "$many", "InstanceId", "i-stopped")},
	{"AttachNetworkInterface", "UnsupportedParameter", 400, with("NetworkInterfaceId", "$free", "InstanceId", "i-plain", "TrunkNetworkInstanceId", "eni-1")},
	{"AttachNetworkInterface", "InvalidParameter", 400, with("NetworkInterfaceId", "$free", "InstanceId", "i-plain", "NetworkCardIndex", "1")},

	{"DetachNetworkInterface", "InvalidOperation.DetachPrimaryEniNotAllowed", 400, with("NetworkInterfaceId", "$primary", "InstanceId", "i-small")},
	{"DetachNetworkInterface", "InvalidOperation.InvalidEniState", 400, with("NetworkInterfaceId", "$free", "InstanceId", "i-small")},
	{"DetachNetworkInterface", "InvalidOperation.InvalidEniState", 400, with("NetworkInterfaceId", "$used", "InstanceId", "i-plain")},
	{"DetachNetworkInterface", "InvalidEcsId.NotFound", 404, with("NetworkInterfaceId", "$used", "InstanceId", "i-none")},
	{"DetachNetworkInterface", "InvalidEniId.NotFound", 404, with("NetworkInterfaceId", "eni-none", "InstanceId", "i-small")},

	{"DeleteNetworkInterface", "InvalidOperation.InvalidEniState", 400, with("NetworkInterfaceId", "$used")},
	{"DeleteNetworkInterface", "InvalidEniId.NotFound", 404, with("NetworkInterfaceId", "eni-none")},

	{"AssignPrivateIpAddresses", "MissingParameter.SecondaryPrivateIpAddressCount", 400, with("NetworkInterfaceId", "$free")},
	{"AssignPrivateIpAddresses", "InvalidOperation.Ipv4CountExceeded", 403, with("NetworkInterfaceId", "$used", "SecondaryPrivateIpAddressCount", "3")},
	{"AssignPrivateIpAddresses", "InvalidOperation.Ipv4CountExceeded", 403, with("NetworkInterfaceId", "$used", "Ipv4PrefixCount", "3")},
	{"AssignPrivateIpAddresses", "InvalidOperation.Ipv4CountExceeded", 403, with("NetworkInterfaceId", "$four", "SecondaryPrivateIpAddressCount", "49")},
	{"AssignPrivateIpAddresses", "SecurityGroupInstanceLimitExceed", 403, with("NetworkInterfaceId", "$full", "SecondaryPrivateIpAddressCount", "1")},
	{"AssignPrivateIpAddresses", "InvalidEniId.NotFound", 404, with("NetworkInterfaceId", "eni-none", "SecondaryPrivateIpAddressCount", "1")},
	{"AssignIpv6Addresses", "MissingParameter.Ipv6AddressCount", 400, with("NetworkInterfaceId", "$free")},
	{"AssignIpv6Addresses", "InvalidOperation.Ipv6CountExceeded", 403, with("NetworkInterfaceId", "$used", "Ipv6AddressCount", "5")},
	{"AssignIpv6Addresses", "InvalidOperation.Ipv6CountExceeded", 403, with("NetworkInterfaceId", "$six", "Ipv6AddressCount", "6")},
	{"AssignIpv6Addresses", "InvalidVSwitch.Ipv6NotTurnOn", 403, with("NetworkInterfaceId", "$b", "Ipv6AddressCount", "1")},
	{"AssignIpv6Addresses", "UnsupportedParameter", 400, with("NetworkInterfaceId", "$free", "Ipv6PrefixCount", "1")},
	{"AssignIpv6Addresses", "InvalidVSwitchId.IpInvalid", 403, with("NetworkInterfaceId", "$free", "Ipv6Address.1", "2001:db8:10:40::")},

	{"UnassignPrivateIpAddresses", "MissingParameter.PrivateIpAddress", 400, with("NetworkInterfaceId", "$used")},
	{"UnassignPrivateIpAddresses", "InvalidIp.Address", 403, with("NetworkInterfaceId", "$used", "PrivateIpAddress.1", "10.0.64.99")},
	{"UnassignPrivateIpAddresses", "InvalidIp.IpUnassigned", 403, with("NetworkInterfaceId", "$used", "PrivateIpAddress.1", "10.0.64.98")},
	{"UnassignPrivateIpAddresses", "InvalidIp.IpUnassigned", 403, with("NetworkInterfaceId", "$used", "Ipv4Prefix.1", "10.0.70.0/28")},
	{"UnassignIpv6Addresses", "InvalidIp.IpUnassigned", 403, with("NetworkInterfaceId", "$used", "Ipv6Address.1", "2001:db8:10:40::9")},
	{"UnassignIpv6Addresses", "MissingParameter.Ipv6Address", 400, with("NetworkInterfaceId", "$used")},

	{"ModifyNetworkInterfaceAttribute", "InvalidEniId.NotFound", 404, with("NetworkInterfaceId", "eni-none", "QueueNumber", "1")},
	{"ModifyNetworkInterfaceAttribute", "InvalidOperation.ModifyPrimaryEniQueueNumber", 403, with("NetworkInterfaceId", "$primary", "QueueNumber", "1")},
	{"ModifyNetworkInterfaceAttribute", "InvalidOperation.PrimaryEniOnlySupportModifyNameAndDesc", 404, with("NetworkInterfaceId", "$primary", "DeleteOnRelease", "false")},
	{"ModifyNetworkInterfaceAttribute", "InvalidOperation.InvalidEniState", 400, with("NetworkInterfaceId", "$used", "QueueNumber", "1")},
	{"ModifyNetworkInterfaceAttribute", "InvalidOperation.MaxEniQueueNumberExceeded", 403, with("NetworkInterfaceId", "$stop", "QueueNumber", "3")},
	{"ModifyNetworkInterfaceAttribute", "InvalidSecurityGroupId.NotFound", 404, with("NetworkInterfaceId", "$used", "SecurityGroupId.1", "sg-none")},
	{"ModifyNetworkInterfaceAttribute", "InvalidSecurityGroupId.NotVpc", 403, with("NetworkInterfaceId", "$used", "SecurityGroupId.1", "sg-other")},
	{"ModifyNetworkInterfaceAttribute", "SecurityGroupInstanceLimitExceed", 403, with("NetworkInterfaceId", "$used", "SecurityGroupId.1", "sg-full")},

	{"DescribeNetworkInterfaceAttribute", "InvalidEniId.NotFound", 404, with("NetworkInterfaceId", "eni-none")},
	{"DescribeNetworkInterfaceAttribute", "InvalidParameter", 400, with("NetworkInterfaceId", "$free", "Attribute", "colour")},
	{"DescribeInstances", "InvalidInstanceID.Malformed", 400, with("InstanceIds", "i-small")},
	{"DescribeSecurityGroups", "InvalidParameter", 400, with("SecurityGroupIds", "sg-full")},
	{"DescribeSecurityGroups", "InvalidParameter", 400, with("MaxResults", "101")},
	{"TagResources", "InvalidResourceId.NotFound", 404, with("ResourceType", "eni", "ResourceId.1", "eni-none", "Tag.1.Key", "a")},
	{"TagResources", "MissingParameter.Tag.1.Key", 400, with("ResourceType", "eni", "ResourceId.1", "$free")},
	{"TagResources", "UnsupportedParameter", 400, with("ResourceType", "disk", "ResourceId.1", "d-1", "Tag.1.Key", "a")},
	{"TagResources", "QuotaExceeded.TagCount", 403, manyTags()},
	{"UntagResources", "MissingParameter.TagKey.1", 400, with("ResourceType", "eni", "ResourceId.1", "$free")},
	{"UntagResources", "MissingParameter.ResourceId.1", 400, with("ResourceType", "eni", "TagKey.1", "a")},
}

func onPods(pairs ...string) map[string]string {
	m := with(pairs...)
	m["VSwitchId"] = DefaultPodVSwitch
	if m["SecurityGroupId"] == "" && m["SecurityGroupIds.1"] == "" {
		m["SecurityGroupId"] = DefaultSecurityGroup
	}
	return m
}

func manyGroups() map[string]string {
	m := onPods("SecurityGroupIds.1", "sg-more-0")
	for i := range 11 {
		m[fmt.Sprint("SecurityGroupIds.", i+1)] = fmt.Sprint("sg-more-", i)
	}
	return m
}

func manyTags() map[string]string {
	m := with("ResourceType", "eni", "ResourceId.1", "$free")
	for i := range 21 {
		m[fmt.Sprintf("Tag.%d.Key", i+1)] = fmt.Sprint("key-", i)
	}
	return m
}

func TestRefusals(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	before := s.cloud.ENIs()
	for _, r := range refusals {
		s.want(t, r.action, r.params, r.status, r.code)
	}
	if after := s.cloud.ENIs(); fmt.Sprint(after) != fmt.Sprint(before) {
		t.Errorf("refused calls changed something:\n%v\n%v", before, after)
	}
}

// Codes that need more than one call, or a cloud that is set up for them.
func TestRefusalsByState(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	s.cloud.cfg.MaxENIs = len(s.cloud.ENIs())
	s.want(t, "CreateNetworkInterface", onPods(), 403, "MaxEniCountExceeded")
	s.cloud.cfg.MaxENIs = 0
	s.want(t, "CreateNetworkInterface", onPods("ClientToken", "t"), 200, "")
	s.want(t, "CreateNetworkInterface", onPods("ClientToken", "t", "Description", "x"), 400, "IdempotentParameterMismatch")
	s.want(t, "AttachNetworkInterface", with("NetworkInterfaceId", "$six", "InstanceId", "i-stopped"), 200, "")
	s.want(t, "AssignIpv6Addresses", with("NetworkInterfaceId", "$six", "Ipv6AddressCount", "2"), 403, "InvalidOperation.Ipv6CountExceeded")
	s.cloud.instances["i-plain"].leaving = true
	s.want(t, "AttachNetworkInterface", with("NetworkInterfaceId", "$free", "InstanceId", "i-plain"), 400, "InvalidOperation.InvalidEcsState")

	s.cloud.cfg.Policies = map[string][]string{DefaultAccessKey: {"ecs:Describe*", "vpc:*"}}
	s.want(t, "DescribeInstances", nil, 200, "")
	s.want(t, "DeleteNetworkInterface", with("NetworkInterfaceId", "$free"), 403, "Forbidden.RAM")
	if status, answer := s.vpc(t, "DescribeVSwitches", nil); status != 200 {
		t.Errorf("allowed call: %v", answer)
	}
	s.cloud.cfg.Policies = nil

	s.cloud.cfg.MaxVSwitchPages = 2
	if status, answer := s.vpc(t, "DescribeVSwitches", with("PageNumber", "3", "PageSize", "1")); status != 400 || answer["Code"] != "Throttling.DeepPageSkip" {
		t.Errorf("deep page: %d %v", status, answer)
	}
}

// TestCodesAreCovered: whoever adds a code to an action adds a call that gives it.
func TestCodesAreCovered(t *testing.T) {
	t.Parallel()
	covered := []string{
		// elsewhere in these tests: the protocol, the VPC API, and what needs more than one call
		codeInvalidAction, codeInvalidRegion, codeInvalidAccessKey, codeRouteTableNotFound, codeNATGatewayNotFound, codeSNATTableNotFound,
		codeForbidden, codeConflict, codeMaxENIs, codeInternal, codeUnavailable, codeTotalQueues, codeIPv6Exceeded,
	}
	for _, r := range refusals {
		covered = append(covered, r.code)
	}
	for _, codes := range statuses {
		for _, code := range codes {
			if !slices.Contains(covered, code) {
				t.Errorf("no test gives %s", code)
			}
		}
	}
}
