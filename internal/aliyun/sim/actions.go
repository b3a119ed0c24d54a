package sim

import (
	"maps"
	"time"
)

// Versions of the APIs.
const (
	ecsVersion = "2014-05-26"
	vpcVersion = "2016-04-28"
)

// assumeRoleAction is the one action of STS.
const assumeRoleAction = "AssumeRoleWithOIDC"

type actionKey struct{ version, name string }

// An action of the API. Params are the names it accepts beside the common ones; ".N" stands for a list index.
type action struct {
	params  []string
	delay   func(Delays) time.Duration // nil: none
	changes bool                       // the ENI NetworkInterfaceId
	serve   func(*Cloud, input) (object, error)
}

func actions() map[actionKey]action {
	all := map[actionKey]action{
		{ecsVersion, "DescribeInstances"}:      {params: describeInstancesParams, serve: (*Cloud).describeInstances},
		{ecsVersion, "DescribeInstanceTypes"}:  {params: describeInstanceTypesParams, serve: (*Cloud).describeInstanceTypes},
		{ecsVersion, "DescribeSecurityGroups"}: {params: describeGroupsParams, serve: (*Cloud).describeSecurityGroups},
		{ecsVersion, "TagResources"}:           {params: tagResourcesParams, serve: (*Cloud).tagResources},
		{ecsVersion, "UntagResources"}:         {params: untagResourcesParams, serve: (*Cloud).untagResources},

		{vpcVersion, "DescribeVSwitches"}:         {params: describeVSwitchesParams, serve: (*Cloud).describeVSwitches},
		{vpcVersion, "DescribeVpcs"}:              {params: describeVPCsParams, serve: (*Cloud).describeDualStackVPCs},
		{vpcVersion, "DescribeVSwitchAttributes"}: {params: describeVSwitchAttributesParams, serve: (*Cloud).describeDualStackVSwitch},
		{vpcVersion, "DescribeRouteTableList"}:    {params: describeRouteTableListParams, serve: (*Cloud).describeRouteTableList},
		{vpcVersion, "DescribeRouteEntryList"}:    {params: describeRouteEntryListParams, serve: (*Cloud).describeRouteEntryList},
		{vpcVersion, "DescribeNatGateways"}:       {params: describeNATGatewaysParams, serve: (*Cloud).describeNATGateways},
		{vpcVersion, "DescribeSnatTableEntries"}:  {params: describeSNATTableEntriesParams, serve: (*Cloud).describeSNATTableEntries},
	}
	for name, a := range eniActions() {
		all[actionKey{ecsVersion, name}] = a
	}
	maps.Copy(all, pvtzActions())
	return all
}

func eniActions() map[string]action {
	assign := func(d Delays) time.Duration { return d.Assign }
	unassign := func(d Delays) time.Duration { return d.Unassign }
	return map[string]action{
		"DescribeNetworkInterfaces":         {params: describeENIsParams, serve: (*Cloud).describeENIs},
		"DescribeNetworkInterfaceAttribute": {params: describeENIAttributeParams, serve: (*Cloud).describeENIAttribute},
		"CreateNetworkInterface": {
			params: createENIParams, serve: idempotent((*Cloud).createENI), delay: func(d Delays) time.Duration { return d.Create },
		},
		"AttachNetworkInterface":          {params: attachENIParams, serve: (*Cloud).attachENI, changes: true},
		"DetachNetworkInterface":          {params: detachENIParams, serve: (*Cloud).detachENI, changes: true},
		"DeleteNetworkInterface":          {params: deleteENIParams, serve: (*Cloud).deleteENI, changes: true},
		"ModifyNetworkInterfaceAttribute": {params: modifyENIParams, serve: (*Cloud).modifyENI, changes: true},
		"AssignPrivateIpAddresses":        {params: assignParams, serve: idempotent((*Cloud).assignIPs), delay: assign, changes: true},
		"UnassignPrivateIpAddresses":      {params: unassignParams, serve: (*Cloud).unassignIPs, delay: unassign, changes: true},
		"AssignIpv6Addresses":             {params: assignIPv6Params, serve: idempotent((*Cloud).assignIPv6s), delay: assign, changes: true},
		"UnassignIpv6Addresses":           {params: unassignIPv6Params, serve: (*Cloud).unassignIPv6s, delay: unassign, changes: true},
	}
}

// describeDualStackVPCs adds what the VPC has of IPv6.
func (c *Cloud) describeDualStackVPCs(in input) (object, error) {
	answer, err := c.describeVPCs(in)
	if err != nil {
		return nil, err
	}
	for _, v := range answer["Vpcs"].(object)["Vpc"].([]object) {
		v["Ipv6CidrBlock"], v["EnabledIpv6"] = v6Text(c.cfg.VPCIPv6CIDR), c.cfg.VPCIPv6CIDR.IsValid()
	}
	return answer, nil
}

// describeDualStackVSwitch adds what the vSwitch has of IPv6.
func (c *Cloud) describeDualStackVSwitch(in input) (object, error) {
	answer, err := c.describeVSwitchAttributes(in)
	if err != nil {
		return nil, err
	}
	s := c.subnets[in.text("VSwitchId")] // the map never changes after New
	answer["Ipv6CidrBlock"], answer["EnabledIpv6"], answer["VpcId"] = v6Text(s.IPv6CIDR), s.IPv6CIDR.IsValid(), s.VPCID
	return answer, nil
}
