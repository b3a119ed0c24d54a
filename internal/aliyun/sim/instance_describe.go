package sim

import (
	"slices"

	"github.com/nearpath/nearpath/internal/aliyun"
)

// ownerID is the account everything belongs to.
const ownerID = "1000000000000000"

var describeInstancesParams = []string{
	"InstanceIds", "InstanceName", "InstanceType", "VpcId", "VSwitchId", "ZoneId", "SecurityGroupId", "Status",
	"InstanceNetworkType", "PrivateIpAddresses", "EipAddresses", "PublicIpAddresses", "Tag.N.Key", "Tag.N.Value",
	"MaxResults", "NextToken", "PageNumber", "PageSize",
}

func (c *Cloud) describeInstances(in input) (object, error) {
	f := instanceFilter{in: in}
	if err := f.read(); err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	var found []*instance
	for _, i := range c.instances {
		if f.matches(i, c.primaryOf(i)) {
			found = append(found, i)
		}
	}
	slices.SortFunc(found, func(a, b *instance) int { return a.seq - b.seq })
	var seqs []int
	for _, i := range found {
		seqs = append(seqs, i.seq)
	}
	pg, err := tokenPage(in, seqs, 100)
	if err != nil {
		return nil, err
	}
	shown, items := c.shown(byAPI), []object{}
	for _, i := range found[pg.start:pg.end] {
		items = append(items, describeInstance(i, shown))
	}
	return pg.describe(object{"Instances": object{"Instance": items}}), nil
}

// An instanceFilter is the filters of DescribeInstances.
type instanceFilter struct {
	in    input
	lists map[string][]string // parameters that are JSON arrays; nil: absent
	tags  map[string]string
}

func (f *instanceFilter) read() error {
	f.lists = map[string][]string{}
	for _, name := range []string{"InstanceIds", "PrivateIpAddresses", "EipAddresses", "PublicIpAddresses"} {
		code := codeInvalidParameter
		if name == "InstanceIds" {
			code = codeEcsMalformed
		}
		list, err := f.in.jsonList(name, code)
		if err != nil {
			return err
		}
		f.lists[name] = list
	}
	var err error
	f.tags, err = f.in.tags()
	return err
}

func (f *instanceFilter) matches(i *instance, primary string) bool {
	for name, value := range map[string]string{
		"VpcId": i.VPCID, "VSwitchId": i.VSwitchID, "ZoneId": i.ZoneID, "InstanceName": i.ID, "InstanceType": i.Type,
		"Status": i.shownStatus(), "InstanceNetworkType": "vpc",
	} {
		if !matches(f.in, name, value) {
			return false
		}
	}
	elastic, public := i.publicTexts()
	for name, values := range map[string][]string{
		"InstanceIds": {i.ID}, "PrivateIpAddresses": {primary}, "EipAddresses": {elastic}, "PublicIpAddresses": public,
	} {
		list := f.lists[name]
		if list != nil && !slices.ContainsFunc(values, func(v string) bool { return slices.Contains(list, v) }) {
			return false
		}
	}
	if g := f.in.text("SecurityGroupId"); g != "" && !slices.Contains(i.SecurityGroupIDs, g) {
		return false
	}
	return matchTags(f.tags, i.tags)
}

// publicTexts are the instance's elastic address, if any, and its others.
func (in *instance) publicTexts() (elastic string, public []string) {
	switch {
	case !in.PublicIP.IsValid():
		return "", []string{}
	case in.elastic:
		return in.PublicIP.String(), []string{}
	}
	return "", []string{in.PublicIP.String()}
}

// primaryOf is the primary address of an instance. The caller holds c.mu.
func (c *Cloud) primaryOf(in *instance) string {
	for _, e := range c.attached(in.ID) {
		if e.Type == aliyun.TypePrimary {
			return e.PrimaryIP.String()
		}
	}
	return ""
}

// describeInstance is an instance as the API shows it, with what is seen of its ENIs. The caller holds Cloud.mu.
func describeInstance(in *instance, shown []*eniState) object {
	enis, primary := []object{}, []string{}
	for _, e := range shown {
		if e.InstanceID != in.ID {
			continue
		}
		all := e.describeNew()
		o := object{"NetworkInterfaceId": e.ID, "MacAddress": e.MAC, "PrimaryIpAddress": e.PrimaryIP.String(), "Type": e.Type}
		for _, name := range []string{"PrivateIpSets", "Ipv6Sets", "Ipv4PrefixSets", "Ipv6PrefixSets"} {
			o[name] = all[name]
		}
		enis = append(enis, o)
		if e.Type == aliyun.TypePrimary {
			primary = append(primary, e.PrimaryIP.String())
		}
	}
	elastic, public := in.publicTexts()
	eip := object{"IpAddress": elastic, "AllocationId": ""}
	if elastic != "" {
		eip["AllocationId"] = "eip-" + elastic
	}
	return object{
		"InstanceId": in.ID, "InstanceName": in.ID, "HostName": in.ID, "InstanceType": in.Type, "RegionId": in.RegionID,
		"ZoneId": in.ZoneID, "Status": in.shownStatus(), "InstanceNetworkType": "vpc", "InstanceTypeFamily": in.limits.family(),
		"Cpu": in.limits.CPUs, "Memory": int(in.limits.MemoryGiB * 1024),
		"VpcAttributes": object{
			"VpcId": in.VPCID, "VSwitchId": in.VSwitchID, "PrivateIpAddress": object{"IpAddress": primary}, "NatIpAddress": "",
		},
		"NetworkInterfaces": object{"NetworkInterface": enis},
		"SecurityGroupIds":  object{"SecurityGroupId": in.SecurityGroupIDs},
		"PublicIpAddress":   object{"IpAddress": public},
		"EipAddress":        eip,
		"Tags":              object{"Tag": describeTags(in.tags, "TagKey", "TagValue")},
	}
}
