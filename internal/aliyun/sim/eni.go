package sim

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"sync"

	"github.com/nearpath/nearpath/internal/aliyun"
)

// maxAddresses bounds the addresses of an ENI, its primary one included, whatever the instance type.
const maxAddresses = 50

// An eni is the cloud's side of an ENI. Fields change only with both op and Cloud.mu held, so either is enough to read
// them; plugged and gone are op's alone.
type eni struct {
	op sync.Mutex // orders changes of this ENI with their Fabric calls; taken before Cloud.mu
	aliyun.ENI
	seq             int
	subnet          *subnet
	description     string
	deleteOnRelease bool
	plugged         bool // the Fabric has it
	gone            bool // deleted; whoever waited for op finds nothing
}

func (e *eni) snapshot() aliyun.ENI {
	s := e.ENI
	s.PrivateIPs = slices.Clone(e.PrivateIPs)
	s.SecurityGroupIDs = slices.Clone(e.SecurityGroupIDs)
	s.Tags = maps.Clone(e.Tags)
	return s
}

// withENI runs change while no other change of the ENI is under way.
func (c *Cloud) withENI(id string, change func(*eni) error) error {
	c.mu.Lock()
	e := c.enis[id]
	c.mu.Unlock()
	if e == nil {
		return refuse(codeEniNotFound, "The specified NetworkInterfaceId %q does not exist.", id)
	}
	e.op.Lock()
	defer e.op.Unlock()
	if e.gone {
		return refuse(codeEniNotFound, "The specified NetworkInterfaceId %q does not exist.", id)
	}
	return change(e)
}

var createENIParams = []string{
	"VSwitchId", "SecurityGroupId", "SecurityGroupIds.N", "PrimaryIpAddress", "PrivateIpAddress.N",
	"SecondaryPrivateIpAddressCount", "InstanceType", "DeleteOnRelease", "Tag.N.Key", "Tag.N.Value",
	"NetworkInterfaceName", "Description", "ClientToken",
}

// An eniSpec is a checked request for an ENI.
type eniSpec struct {
	subnet          *subnet
	groups          []string
	primary         netip.Addr   // invalid: any
	addrs           []netip.Addr // secondary addresses by name
	count           int          // or by number
	tags            map[string]string
	description     string
	deleteOnRelease bool
	kind            string // aliyun.TypePrimary or aliyun.TypeSecondary
}

func (c *Cloud) createENI(in input) (object, error) {
	spec, err := c.readENISpec(in)
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	e, err := c.addENI(spec)
	if err != nil {
		return nil, err
	}
	return e.describe(), nil
}

func (c *Cloud) readENISpec(in input) (eniSpec, error) {
	vsw, err := in.need("VSwitchId")
	if err != nil {
		return eniSpec{}, err
	}
	spec := eniSpec{
		subnet: c.subnets[vsw], // the map never changes after New
		kind:   aliyun.TypeSecondary, description: in.text("Description"), deleteOnRelease: in.text("DeleteOnRelease") != "false",
	}
	if spec.subnet == nil {
		return eniSpec{}, refuse(codeVSwitchNotFound, "The specified vSwitch %q does not exist.", vsw)
	}
	if t := in.text("InstanceType"); t != "" && t != aliyun.TypeSecondary {
		return eniSpec{}, refuse(codeUnsupportedParameter, "The ENI type %q is not supported.", t)
	}
	if spec.groups, err = c.readGroups(in); err != nil {
		return eniSpec{}, err
	}
	if p := in.text("PrimaryIpAddress"); p != "" {
		if spec.primary, err = netip.ParseAddr(p); err != nil {
			return eniSpec{}, refuse(codeIPAddress, "The address %q is not valid.", p)
		}
	}
	if spec.addrs, spec.count, err = readAddresses(in, maxAddresses-1, 0); err != nil {
		return eniSpec{}, err
	}
	spec.tags, err = in.tags()
	if len(spec.tags) > 20 {
		return eniSpec{}, invalid("Tag.N.Key", fmt.Sprint(len(spec.tags), " tags"))
	}
	return spec, err
}

func (c *Cloud) readGroups(in input) ([]string, error) {
	groups := in.list("SecurityGroupIds")
	if single := in.text("SecurityGroupId"); single != "" {
		if len(groups) > 0 {
			return nil, invalid("SecurityGroupId", single)
		}
		groups = []string{single}
	}
	if len(groups) == 0 {
		return nil, missing("SecurityGroupId")
	}
	for _, g := range groups {
		if !slices.Contains(c.cfg.SecurityGroups, g) {
			return nil, refuse(codeGroupNotFound, "The specified security group %q does not exist.", g)
		}
	}
	return groups, nil
}

// readAddresses reads secondary addresses by name or by number, not both. With neither, the number is absent.
func readAddresses(in input, most, absent int) (addrs []netip.Addr, count int, err error) {
	if addrs, err = in.addresses("PrivateIpAddress"); err != nil {
		return nil, 0, err
	}
	if len(addrs) > 0 {
		absent = 0
	}
	if count, err = in.number("SecondaryPrivateIpAddressCount", most, absent); err != nil {
		return nil, 0, err
	}
	if len(addrs) > 0 && count > 0 || len(addrs) > most {
		return nil, 0, invalid("PrivateIpAddress.N", fmt.Sprint(addrs))
	}
	return addrs, count, nil
}

// addENI makes a detached ENI. The caller holds c.mu.
func (c *Cloud) addENI(spec eniSpec) (*eni, error) {
	if c.cfg.MaxENIs > 0 && len(c.enis) >= c.cfg.MaxENIs {
		return nil, refuse(codeMaxENIs, "The maximum number of ENIs of the account is exceeded.")
	}
	addrs, err := spec.takeAddresses()
	if err != nil {
		return nil, err
	}
	id, seq := c.nextID("eni")
	e := &eni{
		ENI: aliyun.ENI{
			ID: id, MAC: macOf(seq), Type: spec.kind, Status: aliyun.StatusAvailable, VPCID: c.cfg.VPCID,
			VSwitchID: spec.subnet.ID, ZoneID: spec.subnet.ZoneID, PrimaryIP: addrs[0], PrivateIPs: addrs,
			SecurityGroupIDs: spec.groups, Tags: spec.tags, Created: c.cfg.Now(),
		},
		seq: seq, subnet: spec.subnet, description: spec.description, deleteOnRelease: spec.deleteOnRelease,
	}
	c.enis[id] = e
	for _, a := range addrs {
		c.byAddr[a] = e
	}
	return e, nil
}

// takeAddresses takes the primary address and the secondary ones, all or none.
func (spec *eniSpec) takeAddresses() ([]netip.Addr, error) {
	named := slices.Clone(spec.addrs)
	if spec.primary.IsValid() {
		named = slices.Insert(named, 0, spec.primary)
	}
	if err := spec.subnet.takeThese(named); err != nil {
		return nil, err
	}
	count := spec.count
	if !spec.primary.IsValid() {
		count++
	}
	picked, err := spec.subnet.take(count)
	if err != nil {
		spec.subnet.release(named)
		return nil, err
	}
	if spec.primary.IsValid() {
		return append(named, picked...), nil
	}
	return append(picked[:1:1], append(named, picked[1:]...)...), nil
}

// dropENI forgets an ENI and frees its addresses. The caller holds e.op and c.mu.
func (c *Cloud) dropENI(e *eni) {
	e.gone = true
	delete(c.enis, e.ID)
	for _, a := range e.PrivateIPs {
		delete(c.byAddr, a)
	}
	e.subnet.release(e.PrivateIPs)
}

// macOf makes addresses under the prefix the cloud uses.
func macOf(seq int) string {
	return fmt.Sprintf("00:16:3e:%02x:%02x:%02x", byte(seq>>16), byte(seq>>8), byte(seq))
}

var deleteENIParams = []string{"NetworkInterfaceId"}

func (c *Cloud) deleteENI(in input) (object, error) {
	id, err := in.need("NetworkInterfaceId")
	if err != nil {
		return nil, err
	}
	err = c.withENI(id, func(e *eni) error {
		c.mu.Lock()
		defer c.mu.Unlock()
		if e.Status != aliyun.StatusAvailable {
			return refuse(codeEniState, "The ENI %s is %s, which does not allow to delete it.", e.ID, e.Status)
		}
		e.Status = aliyun.StatusDeleting
		return nil
	})
	if err != nil {
		return nil, err
	}
	c.later(c.cfg.Delays.Delete, func() { c.finishDelete(id) })
	return object{}, nil
}

func (c *Cloud) finishDelete(id string) {
	// It cannot fail: nothing else deletes an ENI that is Deleting.
	_ = c.withENI(id, func(e *eni) error {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.dropENI(e)
		return nil
	})
}

var describeENIsParams = []string{
	"NetworkInterfaceId.N", "InstanceId", "Type", "Status", "VpcId", "VSwitchId", "SecurityGroupId",
	"PrimaryIpAddress", "PrivateIpAddress.N", "Tag.N.Key", "Tag.N.Value", "NextToken", "MaxResults", "PageNumber", "PageSize",
}

func (c *Cloud) describeENIs(in input) (object, error) {
	filter, err := readENIFilter(in)
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	var found []*eni
	var seqs []int
	for _, e := range c.sortedENIs() {
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
	var err error
	if f.addrs, err = in.addresses("PrivateIpAddress"); err != nil {
		return f, err
	}
	f.tags, err = in.tags()
	return f, err
}

func (f *eniFilter) matches(e *eni) bool {
	for name, value := range map[string]string{
		"InstanceId": e.InstanceID, "Type": e.Type, "Status": e.Status, "VpcId": e.VPCID, "VSwitchId": e.VSwitchID,
		"PrimaryIpAddress": e.PrimaryIP.String(),
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
	if len(f.addrs) > 0 && !slices.ContainsFunc(f.addrs, func(a netip.Addr) bool { return slices.Contains(e.PrivateIPs, a) }) {
		return false
	}
	return matchTags(f.tags, e.Tags)
}

// matchTags requires every wanted tag; a wanted tag without a value asks for the key alone.
func matchTags(want, have map[string]string) bool {
	for k, v := range want {
		if got, ok := have[k]; !ok || v != "" && got != v {
			return false
		}
	}
	return true
}

// describe is the ENI as the API shows it. The caller holds Cloud.mu.
func (e *eni) describe() object {
	ips := []object{}
	for _, a := range e.PrivateIPs {
		ips = append(ips, object{"PrivateIpAddress": a.String(), "Primary": a == e.PrimaryIP})
	}
	tags := []object{}
	for _, k := range slices.Sorted(maps.Keys(e.Tags)) {
		tags = append(tags, object{"TagKey": k, "TagValue": e.Tags[k]})
	}
	return object{
		"NetworkInterfaceId": e.ID, "MacAddress": e.MAC, "Type": e.Type, "Status": e.Status, "InstanceId": e.InstanceID,
		"VpcId": e.VPCID, "VSwitchId": e.VSwitchID, "ZoneId": e.ZoneID, "PrivateIpAddress": e.PrimaryIP.String(),
		"PrivateIpSets":    object{"PrivateIpSet": ips},
		"SecurityGroupIds": object{"SecurityGroupId": e.SecurityGroupIDs},
		"Tags":             object{"Tag": tags},
		"Attachment":       object{"InstanceId": e.InstanceID},
		"CreationTime":     e.Created.UTC().Format(timestampFormat),
		"Description":      e.description,
		"DeleteOnRelease":  e.deleteOnRelease,
	}
}
