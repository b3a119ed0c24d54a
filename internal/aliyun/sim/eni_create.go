package sim

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/nearpath/nearpath/internal/aliyun"
)

// maxQueues bounds QueueNumber whatever the instance type.
const maxQueues = 2048

var createENIParams = []string{
	"VSwitchId", "SecurityGroupId", "SecurityGroupIds.N", "PrimaryIpAddress", "PrivateIpAddress.N",
	"SecondaryPrivateIpAddressCount", "Ipv6Address.N", "Ipv6AddressCount", "Ipv4Prefix.N", "Ipv4PrefixCount", "Ipv6Prefix.N",
	"Ipv6PrefixCount", "InstanceType", "NetworkInterfaceTrafficMode", "QueueNumber", "QueuePairNumber", "DeleteOnRelease",
	"SourceDestCheck", "ResourceGroupId", "Tag.N.Key", "Tag.N.Value", "NetworkInterfaceName", "Description", "ClientToken",
}

// trafficStandard is the NetworkInterfaceTrafficMode of an ENI without RDMA, which is the only kind here.
const trafficStandard = "Standard"

// An eniSpec is a request for an ENI.
type eniSpec struct {
	vSwitch         string
	groups          []string
	primary         netip.Addr // invalid: any
	wants           []want     // beside the primary address: one of IPv4, then one of IPv6
	kind            string     // aliyun.TypePrimary or aliyun.TypeSecondary
	tags            map[string]string
	name            string
	description     string
	resourceGroup   string
	queues          int
	deleteOnRelease bool
	sourceDestCheck bool
}

func (c *Cloud) createENI(in input) (object, error) {
	spec, err := readENISpec(in)
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	e, err := c.addENI(spec)
	if err != nil {
		return nil, err
	}
	return e.describeNew(), nil
}

func readENISpec(in input) (eniSpec, error) {
	vsw, err := in.need("VSwitchId")
	if err != nil {
		return eniSpec{}, err
	}
	spec := eniSpec{
		vSwitch: vsw, kind: aliyun.TypeSecondary, description: in.text("Description"), name: in.text("NetworkInterfaceName"),
		resourceGroup: in.text("ResourceGroupId"),
	}
	if spec.groups, err = readGroups(in); err != nil {
		return eniSpec{}, err
	}
	if p := in.text("PrimaryIpAddress"); p != "" {
		if spec.primary, err = netip.ParseAddr(p); err != nil || !spec.primary.Is4() {
			return eniSpec{}, refuse(codeIPAddress, "The address %q is not valid.", p)
		}
	}
	for _, f := range []aliyun.Family{aliyun.IPv4, aliyun.IPv6} {
		w, err := readWant(in, f, maxAddresses[f]-primaries(f))
		if err != nil {
			return eniSpec{}, err
		}
		spec.wants = append(spec.wants, w)
	}
	if err := spec.readOptions(in); err != nil {
		return eniSpec{}, err
	}
	spec.tags, err = in.tags()
	if len(spec.tags) > maxTags {
		return eniSpec{}, invalid("Tag.N.Key", fmt.Sprint(len(spec.tags), " tags"))
	}
	return spec, err
}

// primaries is how many addresses of the family every ENI has without asking.
func primaries(f aliyun.Family) int {
	if f == aliyun.IPv4 {
		return 1
	}
	return 0
}

func (spec *eniSpec) readOptions(in input) error {
	if err := checkMode(in); err != nil {
		return err
	}
	if t := in.text("InstanceType"); t != "" && t != aliyun.TypeSecondary {
		return refuse(codeUnsupportedParameter, "The ENI type %q is not supported.", t)
	}
	var err error
	if spec.deleteOnRelease, err = in.flag("DeleteOnRelease", true); err != nil {
		return err
	}
	if spec.sourceDestCheck, err = in.flag("SourceDestCheck", false); err != nil {
		return err
	}
	spec.queues, err = in.queues()
	return err
}

// checkMode accepts ENIs without RDMA, which have no queue pairs.
func checkMode(in input) error {
	switch mode := in.text("NetworkInterfaceTrafficMode"); mode {
	case "", trafficStandard:
	case "HighPerformance":
		return refuse(codeUnsupportedParameter, "The traffic mode %q is not supported: no instance type here has RDMA.", mode)
	default:
		return invalid("NetworkInterfaceTrafficMode", mode)
	}
	if n := in.text("QueuePairNumber"); n != "" {
		return refuse(codeQueuePairs, "The specified QueuePairNumber %q needs the traffic mode HighPerformance.", n)
	}
	return nil
}

// queues reads QueueNumber; zero: absent.
func (in input) queues() (int, error) {
	n, err := in.number("QueueNumber", maxQueues, 0)
	if err != nil {
		return 0, refuse(codeQueueNumber, "The specified QueueNumber %q is not a number from 1 to %d.", in.text("QueueNumber"), maxQueues)
	}
	return n, nil
}

// addENI makes a detached ENI. The caller holds c.mu.
func (c *Cloud) addENI(spec eniSpec) (*eni, error) {
	s := c.subnets[spec.vSwitch]
	if s == nil {
		return nil, refuse(codeVSwitchNotFound, "The specified vSwitch %q does not exist.", spec.vSwitch)
	}
	if err := c.checkGroups(spec.groups, s.VPCID); err != nil {
		return nil, err
	}
	if c.cfg.MaxENIs > 0 && len(c.enis) >= c.cfg.MaxENIs {
		return nil, refuse(codeMaxENIs, "The maximum number of ENIs of the account is exceeded: %d.", c.cfg.MaxENIs)
	}
	g, err := spec.take(c, s)
	if err != nil {
		return nil, err
	}
	id, seq := c.nextID("eni")
	e := &eni{eniState: eniState{
		ENI: aliyun.ENI{
			ID: id, MAC: macOf(seq), Type: spec.kind, Status: aliyun.StatusAvailable, VPCID: s.VPCID,
			VSwitchID: s.ID, ZoneID: s.ZoneID, PrimaryIP: g.addrs[0], SecurityGroupIDs: spec.groups,
			QueueNumber: spec.queues, DeleteOnRelease: spec.deleteOnRelease, Tags: spec.tags, Created: c.cfg.Now(),
		},
		seq: seq, subnet: s, name: spec.name, description: spec.description, resourceGroup: spec.resourceGroup,
		sourceDestCheck: spec.sourceDestCheck,
		queuesAsked:     spec.queues,
	}}
	c.add(e, g)
	c.enis[id] = e
	c.note(e)
	return e, nil
}

// take takes everything the ENI shall have, the primary address first, or nothing. Named addresses are taken before others
// are picked, so that none of them is picked for another place. The caller holds c.mu.
func (spec *eniSpec) take(c *Cloud, s *subnet) (grant, error) {
	named, picked := slices.Clone(spec.wants), slices.Clone(spec.wants)
	slots := primaries(aliyun.IPv4)
	for i, w := range spec.wants {
		named[i] = want{family: w.family, addrs: w.addrs}
		picked[i].addrs = nil
		if w.family == aliyun.IPv6 {
			continue
		}
		slots += w.slots()
		if !spec.primary.IsValid() {
			picked[i].count++
			continue
		}
		if slices.Contains(w.addrs, spec.primary) {
			return grant{}, refuse(codeIPRepeated, "The address %s is repeated.", spec.primary)
		}
		named[i].addrs = slices.Concat([]netip.Addr{spec.primary}, w.addrs)
	}
	if err := c.room(spec.groups, slots); err != nil {
		return grant{}, err
	}
	first, err := s.takeAll(named)
	if err != nil {
		return grant{}, err
	}
	rest, err := s.takeAll(picked)
	if err != nil {
		s.release(first)
		return grant{}, err
	}
	if spec.primary.IsValid() {
		return grant{addrs: slices.Concat(first.addrs, rest.addrs), prefixes: rest.prefixes}, nil
	}
	return grant{addrs: slices.Concat(rest.addrs[:1], first.addrs, rest.addrs[1:]), prefixes: rest.prefixes}, nil
}
