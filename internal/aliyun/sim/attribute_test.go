package sim

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"testing"

	"github.com/nearpath/nearpath/internal/aliyun"
)

// get digs into an answer: names of fields, and indices of lists.
func get(answer any, path ...any) string {
	for _, p := range path {
		switch p := p.(type) {
		case string:
			m, _ := answer.(map[string]any)
			answer = m[p]
		case int:
			l, _ := answer.([]any)
			if p >= len(l) {
				return "none"
			}
			answer = l[p]
		}
	}
	text, _ := json.Marshal(answer) // it was JSON
	return string(text)
}

func same(t *testing.T, what, got, want string) {
	t.Helper()
	if got != want {
		t.Errorf("%s is %s, want %s", what, got, want)
	}
}

func TestDualStackENI(t *testing.T) {
	t.Parallel()
	c := &caller{cloud: newCloud(t, func(c *Config) { *c = DualStackConfig() })}
	if _, _, err := c.cloud.RunInstance(t.Context(), InstanceSpec{ID: "i-1", Type: "ecs.sim.large", VSwitchID: DefaultNodeVSwitch, IPv6s: 2}); err != nil {
		t.Fatal(err)
	}
	_, created := c.ecs(t, "CreateNetworkInterface", onPods(
		"SecondaryPrivateIpAddressCount", "1", "Ipv6AddressCount", "2", "QueueNumber", "6", "DeleteOnRelease", "false",
		"NetworkInterfaceName", "eth", "ResourceGroupId", "rg-1", "Tag.1.Key", "a", "Tag.1.Value", "b"))
	id := created["NetworkInterfaceId"].(string)
	same(t, "Ipv6Sets", get(created, "Ipv6Sets"), `{"Ipv6Set":[{"Ipv6Address":"2001:db8:10:40::1"},{"Ipv6Address":"2001:db8:10:40::2"}]}`)
	for _, absent := range []string{"QueueNumber", "DeleteOnRelease", "CreationTime", "Attachment", "InstanceId"} {
		if _, ok := created[absent]; ok {
			t.Errorf("the answer to the creation has %s, the real one has not", absent)
		}
	}
	if status, answer := c.ecs(t, "AttachNetworkInterface", with("NetworkInterfaceId", id, "InstanceId", "i-1")); status != 200 {
		t.Fatal(answer)
	}
	_, answer := c.ecs(t, "AssignIpv6Addresses", with("NetworkInterfaceId", id, "Ipv6Address.1", "2001:db8:10:40::99", "ClientToken", "t"))
	same(t, "assigned", get(answer, "Ipv6Sets", "Ipv6Address"), `["2001:db8:10:40::99"]`)
	_, again := c.ecs(t, "AssignIpv6Addresses", with("NetworkInterfaceId", id, "Ipv6Address.1", "2001:db8:10:40::99", "ClientToken", "t"))
	same(t, "assigned again", get(again, "Ipv6Sets"), get(answer, "Ipv6Sets"))
	if status, answer := c.ecs(t, "UnassignIpv6Addresses", with("NetworkInterfaceId", id, "Ipv6Address.1", "2001:db8:10:40::1")); status != 200 {
		t.Error(answer)
	}
	_, answer = c.ecs(t, "AssignPrivateIpAddresses", with("NetworkInterfaceId", id, "Ipv4PrefixCount", "1"))
	same(t, "prefixes", get(answer, "AssignedPrivateIpAddressesSet", "Ipv4PrefixSet"), `{"Ipv4Prefixes":["10.0.64.16/28"]}`)
	if got := c.cloud.callerOf("10.0.64.20:1"); got == nil || got.ID != "i-1" {
		t.Errorf("an address of the prefix belongs to %v", got)
	}

	_, one := c.ecs(t, "DescribeNetworkInterfaceAttribute", with("NetworkInterfaceId", id))
	for field, want := range map[string]string{
		"QueueNumber": "6", "DeleteOnRelease": "false", "NetworkInterfaceName": `"eth"`, "ResourceGroupId": `"rg-1"`,
		"NetworkInterfaceTrafficMode": `"Standard"`, "QueuePairNumber": "0", "ServiceManaged": "false", "Type": `"Secondary"`,
		"Ipv6Sets":       `{"Ipv6Set":[{"Ipv6Address":"2001:db8:10:40::2"},{"Ipv6Address":"2001:db8:10:40::99"}]}`,
		"Ipv4PrefixSets": `{"Ipv4PrefixSet":[{"Ipv4Prefix":"10.0.64.16/28"}]}`, "Tags": `{"Tag":[{"TagKey":"a","TagValue":"b"}]}`,
	} {
		same(t, field, get(one, field), want)
	}
	same(t, "attachment", get(one, "Attachment", "InstanceId")+get(one, "Attachment", "DeviceIndex")+get(one, "Attachment", "NetworkCardIndex"), `"i-1"10`)
	_, machines := c.ecs(t, "DescribeInstances", nil)
	same(t, "IPv6 of the machine", get(machines, "Instances", "Instance", 0, "NetworkInterfaces", "NetworkInterface", 0, "Ipv6Sets", "Ipv6Set", 1), `{"Ipv6Address":"2001:db8:10::2"}`)
	_, vpcs := c.vpc(t, "DescribeVpcs", nil)
	same(t, "IPv6 of the VPC", get(vpcs, "Vpcs", "Vpc", 0, "Ipv6CidrBlock"), `"2001:db8:10::/56"`)
	_, vsw := c.vpc(t, "DescribeVSwitches", with("VSwitchId", DefaultPodVSwitch))
	same(t, "IPv6 of the vSwitch", get(vsw, "VSwitches", "VSwitch", 0, "Ipv6CidrBlock"), `"2001:db8:10:40::/64"`)
	_, vsw = c.vpc(t, "DescribeVSwitchAttributes", with("VSwitchId", DefaultPodVSwitch))
	same(t, "IPv6 of the vSwitch alone", get(vsw, "Ipv6CidrBlock"), `"2001:db8:10:40::/64"`)
	if status, answer := c.ecs(t, "UnassignPrivateIpAddresses", with("NetworkInterfaceId", id, "Ipv4Prefix.1", "10.0.64.16/28")); status != 200 {
		t.Error(answer)
	}
	checkInvariants(t, c.cloud, nil)
}

func TestModifyENI(t *testing.T) {
	t.Parallel()
	c := &caller{cloud: newCloud(t, func(c *Config) {
		c.SecurityGroups = append(c.SecurityGroups, SecurityGroup{SecurityGroup: aliyun.SecurityGroup{ID: "sg-2"}})
	})}
	_, created := c.ecs(t, "CreateNetworkInterface", onPods("Description", "old"))
	id := created["NetworkInterfaceId"].(string)
	for _, step := range []map[string]string{
		with("SecurityGroupId.1", "sg-2", "DeleteOnRelease", "false"), with("QueueNumber", "3"), with("NetworkInterfaceName", "name"),
		with("NetworkInterfaceTrafficConfig.QueueNumber", "4", "NetworkInterfaceTrafficConfig.NetworkInterfaceTrafficMode", "Standard"),
	} {
		step["NetworkInterfaceId"] = id
		if status, answer := c.ecs(t, "ModifyNetworkInterfaceAttribute", step); status != 200 {
			t.Errorf("%v: %v", step, answer)
		}
	}
	e := c.cloud.ENIs()[0]
	if e.DeleteOnRelease || e.QueueNumber != 4 || fmt.Sprint(e.SecurityGroupIDs) != "[sg-2]" {
		t.Errorf("after all changes: %+v", e)
	}
	_, one := c.ecs(t, "DescribeNetworkInterfaceAttribute", with("NetworkInterfaceId", id))
	same(t, "name and description", get(one, "NetworkInterfaceName")+get(one, "Description"), `"name""old"`)
}

// An ENI has as many queues as its instance gives it, unless it was asked for a number.
func TestQueues(t *testing.T) {
	t.Parallel()
	c := &caller{cloud: newCloud(t, nil)}
	if _, e, err := c.cloud.RunInstance(t.Context(), InstanceSpec{ID: "i-1", Type: "ecs.sim.large", VSwitchID: DefaultNodeVSwitch}); err != nil || e.QueueNumber != 4 {
		t.Fatalf("primary ENI: %+v, %v", e, err)
	}
	var ids []string
	for i, asked := range []string{"", "8", ""} { // after the primary one's 4 of 24
		_, created := c.ecs(t, "CreateNetworkInterface", onPods("QueueNumber", asked))
		ids = append(ids, created["NetworkInterfaceId"].(string))
		if status, answer := c.ecs(t, "AttachNetworkInterface", with("NetworkInterfaceId", ids[i], "InstanceId", "i-1")); status != 200 {
			t.Fatal(answer)
		}
	}
	for i, want := range []int{4, 8, 4} {
		if got := c.cloud.ENIs()[i+1].QueueNumber; got != want {
			t.Errorf("ENI %d has %d queues, want %d", i, got, want)
		}
	}
	if err := c.cloud.StopInstance("i-1"); err != nil {
		t.Fatal(err)
	}
	for _, step := range []struct {
		id, queues string
		code       any
	}{{ids[0], "8", nil}, {ids[2], "5", codeTotalQueues}, {ids[0], "9", codeQueuesPerENI}} {
		if _, answer := c.ecs(t, "ModifyNetworkInterfaceAttribute", with("NetworkInterfaceId", step.id, "QueueNumber", step.queues)); answer["Code"] != step.code {
			t.Errorf("%v: %v", step, answer)
		}
	}
	c.ecs(t, "DetachNetworkInterface", with("NetworkInterfaceId", ids[2], "InstanceId", "i-1"))
	if got := c.cloud.ENIs()[3].QueueNumber; got != 0 {
		t.Errorf("detached, it has %d queues", got)
	}
	if err := c.cloud.StartInstance("i-1"); err != nil || c.cloud.StartInstance("i-1") == nil || c.cloud.StopInstance("i-2") == nil {
		t.Error("starting what runs, or stopping what is not there, is accepted")
	}
}

func TestTags(t *testing.T) {
	t.Parallel()
	c := &caller{cloud: newCloud(t, nil)}
	if _, _, err := c.cloud.RunInstance(t.Context(), InstanceSpec{
		ID: "i-1", Type: "ecs.sim.small", VSwitchID: DefaultNodeVSwitch, Tags: map[string]string{"role": "node"},
	}); err != nil {
		t.Fatal(err)
	}
	eni := c.cloud.ENIs()[0].ID
	for _, step := range []struct {
		action string
		params map[string]string
	}{
		{"TagResources", with("ResourceType", "eni", "ResourceId.1", eni, "Tag.1.Key", "a", "Tag.1.Value", "1", "Tag.2.Key", "b")},
		{"UntagResources", with("ResourceType", "eni", "ResourceId.1", eni, "TagKey.1", "b")},
		{"TagResources", with("ResourceType", "instance", "ResourceId.1", "i-1", "Tag.1.Key", "role", "Tag.1.Value", "new")},
		{"TagResources", with("ResourceType", "securitygroup", "ResourceId.1", DefaultSecurityGroup, "Tag.1.Key", "x", "Tag.1.Value", "y")},
	} {
		if status, answer := c.ecs(t, step.action, step.params); status != 200 {
			t.Errorf("%s: %v", step.action, answer)
		}
	}
	if got := fmt.Sprint(c.cloud.ENIs()[0].Tags); got != "map[a:1]" {
		t.Errorf("tags of the ENI: %s", got)
	}
	// One of two does not exist: neither changes.
	c.ecs(t, "UntagResources", with("ResourceType", "eni", "ResourceId.1", eni, "ResourceId.2", "eni-none", "All", "true"))
	for action, params := range map[string]map[string]string{
		"DescribeNetworkInterfaces": with("Tag.1.Key", "a", "Tag.1.Value", "1"), "DescribeInstances": with("Tag.1.Key", "role", "Tag.1.Value", "new"),
		"DescribeSecurityGroups": with("Tag.1.Key", "x"),
	} {
		if _, answer := c.ecs(t, action, params); answer["TotalCount"] != 1.0 {
			t.Errorf("%s by tag: %v", action, answer)
		}
	}
	c.ecs(t, "UntagResources", with("ResourceType", "eni", "ResourceId.1", eni, "All", "true"))
	if got := c.cloud.ENIs()[0].Tags; len(got) != 0 {
		t.Errorf("tags left: %v", got)
	}
}

func TestDescribeGroupsTypesAndInstances(t *testing.T) {
	t.Parallel()
	c := &caller{cloud: newCloud(t, func(c *Config) {
		for i := range 5 {
			c.SecurityGroups = append(c.SecurityGroups, SecurityGroup{SecurityGroup: aliyun.SecurityGroup{ID: fmt.Sprint("sg-", i), Type: GroupEnterprise}})
		}
		c.SecurityGroups[1].ServiceManaged = true
	})}
	total := func(action string, params map[string]string) any {
		t.Helper()
		_, answer := c.ecs(t, action, params)
		return answer["TotalCount"]
	}
	for want, params := range map[float64]map[string]string{
		6: nil, 5: with("SecurityGroupType", "enterprise"), 1: with("ServiceManaged", "true"), 2: with("SecurityGroupIds", `["sg-3","sg-4","sg-none"]`),
		0: with("VpcId", "vpc-none"),
	} {
		if got := total("DescribeSecurityGroups", params); got != want {
			t.Errorf("groups by %v: %v, want %v", params, got, want)
		}
	}
	_, page := c.ecs(t, "DescribeSecurityGroups", with("MaxResults", "4"))
	_, rest := c.ecs(t, "DescribeSecurityGroups", with("MaxResults", "4", "NextToken", page["NextToken"].(string)))
	same(t, "group on the second page", get(rest, "SecurityGroups", "SecurityGroup", 1, "SecurityGroupId"), `"sg-4"`)

	for i, addr := range []string{"198.51.100.1", "198.51.100.2"} {
		spec := InstanceSpec{ID: fmt.Sprint("i-", i), Type: "ecs.sim.small", VSwitchID: DefaultNodeVSwitch, PublicIP: netip.MustParseAddr(addr), Elastic: i == 0}
		if _, _, err := c.cloud.RunInstance(t.Context(), spec); err != nil {
			t.Fatal(err)
		}
	}
	_, answer := c.ecs(t, "DescribeInstances", with("MaxResults", "1"))
	same(t, "elastic address", get(answer, "Instances", "Instance", 0, "EipAddress", "IpAddress"), `"198.51.100.1"`)
	_, answer = c.ecs(t, "DescribeInstances", with("MaxResults", "1", "NextToken", answer["NextToken"].(string)))
	same(t, "public address", get(answer, "Instances", "Instance", 0, "PublicIpAddress", "IpAddress"), `["198.51.100.2"]`)
	for want, params := range map[float64]map[string]string{
		0: with("InstanceIds", "[]"), 1: with("EipAddresses", `["198.51.100.1"]`), 2: with("Status", "Running", "SecurityGroupId", DefaultSecurityGroup),
	} {
		if got := total("DescribeInstances", params); got != want {
			t.Errorf("instances by %v: %v, want %v", params, got, want)
		}
	}

	_, types := c.ecs(t, "DescribeInstanceTypes", with("InstanceTypes.1", "ecs.sim.large", "InstanceTypes.2", "ecs.none"))
	large := types["InstanceTypes"].(map[string]any)["InstanceType"].([]any)
	if len(large) != 1 {
		t.Fatalf("types: %v", types)
	}
	for field, want := range map[string]string{
		"CpuCoreCount": "4", "MemorySize": "16", "EniQuantity": "4", "EniTotalQuantity": "4", "EniPrivateIpAddressQuantity": "15",
		"EniIpv6AddressQuantity": "15", "PrimaryEniQueueNumber": "4", "SecondaryEniQueueNumber": "4", "MaximumQueueNumberPerEni": "8",
		"TotalEniQueueQuantity": "24", "EniTrunkSupported": "false", "InstanceTypeFamily": `"ecs.sim"`, "NetworkCardQuantity": "1",
		"InstanceBandwidthRx": "4096000", "InstancePpsTx": "1000000",
	} {
		same(t, field, get(large[0], field), want)
	}
	_, first := c.ecs(t, "DescribeInstanceTypes", with("MaxResults", "2"))
	_, second := c.ecs(t, "DescribeInstanceTypes", with("MaxResults", "10", "NextToken", first["NextToken"].(string)))
	same(t, "third type", get(second, "InstanceTypes", "InstanceType", 0, "InstanceTypeId"), `"ecs.sim.medium"`)
}
