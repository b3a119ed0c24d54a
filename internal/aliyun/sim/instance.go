package sim

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/nearpath/nearpath/internal/aliyun"
)

// An instance is a machine. Its fields but leaving never change.
type instance struct {
	aliyun.Instance
	seq     int
	limits  aliyun.InstanceType
	netns   string
	leaving bool // being terminated; Cloud.mu guards it
}

// InstanceSpec describes an instance to run.
type InstanceSpec struct {
	ID        string // empty: made up
	Type      string
	VSwitchID string
	PrimaryIP netip.Addr // invalid: any of the vSwitch
	// NetNS is the path of the network namespace that is the instance. Only a Fabric needs it.
	NetNS string
}

// RunInstance starts an instance with its primary ENI, which appears in the namespace as eth0 with its address and a
// default route.
func (c *Cloud) RunInstance(ctx context.Context, spec InstanceSpec) (aliyun.Instance, aliyun.ENI, error) {
	if err := ctx.Err(); err != nil {
		return aliyun.Instance{}, aliyun.ENI{}, fmt.Errorf("run instance %s: %w", spec.ID, err)
	}
	in, e, err := c.addInstance(spec)
	if err != nil {
		return aliyun.Instance{}, aliyun.ENI{}, fmt.Errorf("run instance %s: %w", spec.ID, err)
	}
	defer e.op.Unlock()
	err = c.plug(e, in)
	c.mu.Lock()
	defer c.mu.Unlock()
	if err != nil {
		c.dropENI(e)
		delete(c.instances, in.ID)
		return aliyun.Instance{}, aliyun.ENI{}, fmt.Errorf("run instance %s: %w", in.ID, err)
	}
	e.Status = aliyun.StatusInUse
	return in.Instance, e.snapshot(), nil
}

// addInstance returns the primary ENI with its op lock held, so that nothing comes between it and its link.
func (c *Cloud) addInstance(spec InstanceSpec) (*instance, *eni, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	i := slices.IndexFunc(c.cfg.InstanceTypes, func(t aliyun.InstanceType) bool { return t.ID == spec.Type })
	s := c.subnets[spec.VSwitchID]
	switch {
	case c.closed:
		return nil, nil, errClosed
	case i < 0:
		return nil, nil, fmt.Errorf("instance type %q is unknown", spec.Type)
	case s == nil:
		return nil, nil, fmt.Errorf("vSwitch %q is unknown", spec.VSwitchID)
	case c.instances[spec.ID] != nil:
		return nil, nil, errors.New("instance exists")
	case c.cfg.Fabric != nil && spec.NetNS == "":
		return nil, nil, errors.New("network namespace is missing")
	}
	id, seq := c.nextID("i")
	if spec.ID != "" {
		id = spec.ID
	}
	groups := c.cfg.SecurityGroups[:1]
	e, err := c.addENI(eniSpec{subnet: s, groups: groups, primary: spec.PrimaryIP, kind: aliyun.TypePrimary, deleteOnRelease: true})
	if err != nil {
		return nil, nil, err
	}
	e.op.Lock() // against the lock order, but nobody else can have the ENI yet
	in := &instance{
		Instance: aliyun.Instance{
			ID: id, Type: spec.Type, RegionID: c.cfg.RegionID, ZoneID: s.ZoneID, VPCID: c.cfg.VPCID, VSwitchID: s.ID,
			SecurityGroupIDs: groups,
		},
		seq: seq, limits: c.cfg.InstanceTypes[i], netns: spec.NetNS,
	}
	c.instances[id] = in
	e.Status, e.InstanceID = aliyun.StatusAttaching, id
	return in, e, nil
}

// TerminateInstance takes every ENI from the instance and deletes those that go with it, the primary one among them.
func (c *Cloud) TerminateInstance(ctx context.Context, id string) error {
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("terminate instance %s: %w", id, err)
	}
	c.mu.Lock()
	in := c.instances[id]
	var enis []*eni
	if in != nil {
		in.leaving = true // nothing is attached from here on
		enis = c.attached(id)
	}
	c.mu.Unlock()
	if in == nil {
		return fmt.Errorf("terminate instance %s: unknown", id)
	}
	var errs []error
	for _, e := range enis {
		errs = append(errs, c.withENI(e.ID, func(e *eni) error { return c.releaseFrom(e, id) }))
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("terminate instance %s: %w", id, err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.instances, id)
	return nil
}

// releaseFrom detaches an ENI from an instance that ends. The caller holds e.op.
func (c *Cloud) releaseFrom(e *eni, instanceID string) error {
	if e.InstanceID != instanceID { // detached meanwhile
		return nil
	}
	if err := c.unplug(e); err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	e.Status, e.InstanceID = aliyun.StatusAvailable, ""
	if e.deleteOnRelease {
		c.dropENI(e)
	}
	return nil
}

var describeInstancesParams = []string{"InstanceIds", "VpcId", "VSwitchId", "ZoneId", "PageNumber", "PageSize"}

func (c *Cloud) describeInstances(in input) (object, error) {
	var ids []string
	if text := in.text("InstanceIds"); text != "" {
		if err := json.Unmarshal([]byte(text), &ids); err != nil || len(ids) > 100 {
			return nil, invalid("InstanceIds", text)
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	var found []*instance
	for _, i := range c.instances {
		if (ids == nil || slices.Contains(ids, i.ID)) && matches(in, "VpcId", i.VPCID) &&
			matches(in, "VSwitchId", i.VSwitchID) && matches(in, "ZoneId", i.ZoneID) {
			found = append(found, i)
		}
	}
	slices.SortFunc(found, func(a, b *instance) int { return a.seq - b.seq })
	pg, err := numberedPage(in, len(found), 100)
	if err != nil {
		return nil, err
	}
	items := []object{}
	for _, i := range found[pg.start:pg.end] {
		items = append(items, c.describeInstance(i))
	}
	return pg.describe(object{"Instances": object{"Instance": items}}), nil
}

// describeInstance is an instance as the API shows it. The caller holds c.mu.
func (c *Cloud) describeInstance(in *instance) object {
	enis, primary := []object{}, []string{}
	for _, e := range c.attached(in.ID) {
		enis = append(enis, object{
			"NetworkInterfaceId": e.ID, "MacAddress": e.MAC, "PrimaryIpAddress": e.PrimaryIP.String(), "Type": e.Type,
		})
		if e.Type == aliyun.TypePrimary {
			primary = append(primary, e.PrimaryIP.String())
		}
	}
	status := "Running"
	if in.leaving {
		status = "Stopping"
	}
	return object{
		"InstanceId": in.ID, "InstanceName": in.ID, "InstanceType": in.Type, "RegionId": in.RegionID, "ZoneId": in.ZoneID,
		"Status": status, "InstanceNetworkType": "vpc",
		"VpcAttributes": object{
			"VpcId": in.VPCID, "VSwitchId": in.VSwitchID, "PrivateIpAddress": object{"IpAddress": primary},
		},
		"NetworkInterfaces": object{"NetworkInterface": enis},
		"SecurityGroupIds":  object{"SecurityGroupId": in.SecurityGroupIDs},
	}
}

var describeInstanceTypesParams = []string{"InstanceTypes.N", "NextToken", "MaxResults"}

func (c *Cloud) describeInstanceTypes(in input) (object, error) {
	wanted := in.list("InstanceTypes")
	if len(wanted) > 10 {
		return nil, invalid("InstanceTypes.N", fmt.Sprint(len(wanted), " values"))
	}
	items := []object{}
	for _, t := range c.cfg.InstanceTypes {
		if len(wanted) == 0 || slices.Contains(wanted, t.ID) {
			items = append(items, object{
				"InstanceTypeId": t.ID, "EniQuantity": t.ENIs, "EniTotalQuantity": t.ENIs,
				"EniPrivateIpAddressQuantity": t.AddressesPerENI, "EniIpv6AddressQuantity": 0,
			})
		}
	}
	return object{"InstanceTypes": object{"InstanceType": items}, "NextToken": ""}, nil
}
