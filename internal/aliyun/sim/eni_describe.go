package sim

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/nearpath/nearpath/internal/aliyun"
)

var describeENIsParams = []string{
	"NetworkInterfaceId.N", "InstanceId", "Type", "Status", "VpcId", "VSwitchId", "SecurityGroupId", "NetworkInterfaceName",
	"ResourceGroupId", "ServiceManaged", "PrimaryIpAddress", "PrivateIpAddress.N", "Ipv6Address.N", "Tag.N.Key", "Tag.N.Value",
	"NextToken", "MaxResults", "PageNumber", "PageSize",
}

func (c *Cloud) describeENIs(in input) (object, error) {
	filter, err := readENIFilter(in)
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	var found []*eniState
	var seqs []int
	for _, e := range c.shown(byAPI) {
		if filter.matches(e) {
			found = append(found, e)
			seqs = append(seqs, e.seq)
		}
	}
	pg, err := tokenPage(in, seqs, 500)
	if err != nil {
		return nil, err
	}
	items := []object{}
	for _, e := range found[pg.start:pg.end] {
		items = append(items, e.describe())
	}
	return pg.describe(object{"NetworkInterfaceSets": object{"NetworkInterfaceSet": items}}), nil
}

// An eniFilter is the filters of DescribeNetworkInterfaces.
type eniFilter struct {
	in    input
	ids   []string
	addrs []netip.Addr
	tags  map[string]string
}

func readENIFilter(in input) (eniFilter, error) {
	f := eniFilter{in: in, ids: in.list("NetworkInterfaceId")}
	if len(f.ids) > 100 {
		return f, invalid("NetworkInterfaceId.N", fmt.Sprint(len(f.ids), " values"))
	}
	for _, family := range []aliyun.Family{aliyun.IPv4, aliyun.IPv6} {
		addrs, err := in.addresses(namesOf[family].addr, family)
		if err != nil {
			return f, err
		}
		f.addrs = append(f.addrs, addrs...)
	}
	if len(f.addrs) > 100 {
		return f, invalid("PrivateIpAddress.N", fmt.Sprint(len(f.addrs), " values"))
	}
	var err error
	f.tags, err = in.tags()
	return f, err
}

func (f *eniFilter) matches(e *eniState) bool {
	for name, value := range map[string]string{
		"InstanceId": e.InstanceID, "Type": e.Type, "Status": e.Status, "VpcId": e.VPCID, "VSwitchId": e.VSwitchID,
		"PrimaryIpAddress": e.PrimaryIP.String(), "NetworkInterfaceName": e.name, "ResourceGroupId": e.resourceGroup,
		"ServiceManaged": "false",
	} {
		if !matches(f.in, name, value) {
			return false
		}
	}
	if g := f.in.text("SecurityGroupId"); g != "" && !slices.Contains(e.SecurityGroupIDs, g) {
		return false
	}
	if len(f.ids) > 0 && !slices.Contains(f.ids, e.ID) {
		return false
	}
	has := func(a netip.Addr) bool { return slices.Contains(*e.addrs(aliyun.FamilyOf(a)), a) }
	if len(f.addrs) > 0 && !slices.ContainsFunc(f.addrs, has) {
		return false
	}
	return matchTags(f.tags, e.Tags)
}

// describeNew is the ENI as the answer to its creation shows it: less than later ones.
func (e *eniState) describeNew() object {
	ips, ipv6s, prefixes := []object{}, []object{}, []object{}
	for _, a := range e.PrivateIPs {
		ips = append(ips, object{"PrivateIpAddress": a.String(), "Primary": a == e.PrimaryIP})
	}
	for _, a := range e.IPv6s {
		ipv6s = append(ipv6s, object{"Ipv6Address": a.String()})
	}
	for _, p := range e.IPv4Prefixes {
		prefixes = append(prefixes, object{"Ipv4Prefix": p.String()})
	}
	return object{
		"NetworkInterfaceId": e.ID, "NetworkInterfaceName": e.name, "Description": e.description, "MacAddress": e.MAC,
		"Type": e.Type, "Status": e.Status, "VpcId": e.VPCID, "VSwitchId": e.VSwitchID, "ZoneId": e.ZoneID,
		"ResourceGroupId": e.resourceGroup, "PrivateIpAddress": e.PrimaryIP.String(), "OwnerId": ownerID, "ServiceManaged": false,
		"SourceDestCheck":  e.sourceDestCheck,
		"PrivateIpSets":    object{"PrivateIpSet": ips},
		"Ipv6Sets":         object{"Ipv6Set": ipv6s},
		"Ipv4PrefixSets":   object{"Ipv4PrefixSet": prefixes},
		"Ipv6PrefixSets":   object{"Ipv6PrefixSet": []object{}},
		"SecurityGroupIds": object{"SecurityGroupId": e.SecurityGroupIDs},
		"Tags":             object{"Tag": describeTags(e.Tags, "TagKey", "TagValue")},
	}
}

// describe is the ENI as lists of the API show it.
func (e *eniState) describe() object {
	o := e.describeNew()
	o["InstanceId"] = e.InstanceID
	o["CreationTime"] = e.Created.UTC().Format(timestampFormat)
	o["DeleteOnRelease"] = e.DeleteOnRelease
	o["NetworkInterfaceTrafficMode"] = trafficStandard
	o["QueueNumber"], o["QueuePairNumber"] = e.QueueNumber, 0
	attachment := object{}
	if e.InstanceID != "" {
		attachment = object{"InstanceId": e.InstanceID, "DeviceIndex": e.device, "NetworkCardIndex": 0, "TrunkNetworkInterfaceId": ""}
		if !e.attachedAt.IsZero() {
			attachment["AttachedTime"] = e.attachedAt.UTC().Format(timestampFormat)
		}
	}
	o["Attachment"] = attachment
	return o
}

var describeENIAttributeParams = []string{"NetworkInterfaceId", "Attribute", "Tag.N.Key", "Tag.N.Value"}

// describeENIAttribute shows one ENI, flat. Attribute says which attribute to fill in; all of them are, always.
func (c *Cloud) describeENIAttribute(in input) (object, error) {
	id, err := in.need("NetworkInterfaceId")
	if err != nil {
		return nil, err
	}
	switch a := in.text("Attribute"); a {
	case "", "attachment", "queueNumber", "sourceDestCheck", "networkInterfaceTrafficMode":
	default:
		return nil, invalid("Attribute", a)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, e := range c.shown(byAPI) {
		if e.ID == id {
			return e.describe(), nil
		}
	}
	return nil, refuse(codeEniNotFound, "The specified NetworkInterfaceId %q does not exist.", id)
}
