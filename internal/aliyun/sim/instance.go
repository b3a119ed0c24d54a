package sim

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"github.com/nearpath/nearpath/internal/aliyun"
)

// States of an instance, with the spelling of the API.
const (
	StatusRunning  = "Running"
	StatusStopped  = "Stopped"
	statusStopping = "Stopping"
)

// An instance is a machine. Its embedded fields never change; Cloud.mu guards status, leaving and tags.
type instance struct {
	aliyun.Instance
	seq     int
	limits  InstanceType
	netns   string
	elastic bool // PublicIP is an elastic address
	tags    map[string]string
	status  string
	leaving bool // being terminated
}

// InstanceSpec describes an instance to run.
type InstanceSpec struct {
	ID        string // "i-" and more; empty: made up
	Type      string
	VSwitchID string
	PrimaryIP netip.Addr // invalid: any of the vSwitch
	// IPv6s is how many IPv6 addresses the primary ENI gets. The instance learns of them by metadata alone.
	IPv6s int
	// PublicIP belongs to the instance, as an elastic address if Elastic is set; the zero Addr: none.
	PublicIP netip.Addr
	Elastic  bool
	Tags     map[string]string
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
	e.Status, e.attachedAt = aliyun.StatusInUse, c.cfg.Now()
	c.note(e)
	return in.Instance, e.snapshot(), nil
}

// addInstance returns the primary ENI with its op lock held, so that nothing comes between it and its link.
func (c *Cloud) addInstance(spec InstanceSpec) (*instance, *eni, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	s, limits, err := c.checkInstance(spec)
	if err != nil {
		return nil, nil, err
	}
	id, seq := c.nextID("i")
	id = orDefault(spec.ID, id)
	groups := c.firstGroup(s.VPCID)
	e, err := c.addENI(eniSpec{
		vSwitch: s.ID, groups: groups, primary: spec.PrimaryIP, kind: aliyun.TypePrimary, deleteOnRelease: true,
		wants: []want{{family: aliyun.IPv4}, {family: aliyun.IPv6, count: spec.IPv6s}},
	})
	if err != nil {
		return nil, nil, err
	}
	e.op.Lock() // against the lock order, but nobody else can have the ENI yet
	in := &instance{
		Instance: aliyun.Instance{
			ID: id, Type: spec.Type, RegionID: c.cfg.RegionID, ZoneID: s.ZoneID, VPCID: s.VPCID, VSwitchID: s.ID,
			SecurityGroupIDs: groups, PublicIP: spec.PublicIP,
		},
		seq: seq, limits: limits, netns: spec.NetNS, elastic: spec.Elastic, tags: maps.Clone(spec.Tags), status: StatusRunning,
	}
	c.instances[id] = in
	e.Status, e.InstanceID, e.QueueNumber = aliyun.StatusAttaching, id, limits.PrimaryQueues
	c.note(e)
	return in, e, nil
}

// checkInstance finds what the specification names. The caller holds c.mu.
func (c *Cloud) checkInstance(spec InstanceSpec) (*subnet, InstanceType, error) {
	s := c.subnets[spec.VSwitchID]
	i := slices.IndexFunc(c.cfg.InstanceTypes, func(t InstanceType) bool { return t.ID == spec.Type })
	switch {
	case c.closed:
		return nil, InstanceType{}, errClosed
	case i < 0:
		return nil, InstanceType{}, fmt.Errorf("instance type %q is unknown", spec.Type)
	case s == nil:
		return nil, InstanceType{}, fmt.Errorf("vSwitch %q is unknown", spec.VSwitchID)
	case spec.ID != "" && !strings.HasPrefix(spec.ID, "i-"):
		return nil, InstanceType{}, errors.New(`the ID of an instance begins with "i-"`)
	case c.instances[spec.ID] != nil:
		return nil, InstanceType{}, errors.New("instance exists")
	case c.cfg.Fabric != nil && spec.NetNS == "":
		return nil, InstanceType{}, errors.New("network namespace is missing")
	case spec.IPv6s > c.cfg.InstanceTypes[i].IPv6PerENI:
		return nil, InstanceType{}, fmt.Errorf("%d IPv6 addresses, the instance type allows %d", spec.IPv6s, c.cfg.InstanceTypes[i].IPv6PerENI)
	}
	return s, c.cfg.InstanceTypes[i], nil
}

// firstGroup is the security group of the VPC's instances. The caller holds c.mu.
func (c *Cloud) firstGroup(vpcID string) []string {
	for _, g := range c.cfg.SecurityGroups {
		if g.VPCID == vpcID && !g.ServiceManaged {
			return []string{g.ID}
		}
	}
	return nil
}

// StopInstance makes a running instance one that is stopped, at once. Its ENIs stay, and so do their links.
func (c *Cloud) StopInstance(id string) error { return c.setStatus(id, StatusRunning, StatusStopped) }

// StartInstance takes StopInstance back.
func (c *Cloud) StartInstance(id string) error { return c.setStatus(id, StatusStopped, StatusRunning) }

func (c *Cloud) setStatus(id, from, to string) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	in := c.instances[id]
	if in == nil || in.leaving || in.status != from {
		return fmt.Errorf("instance %s is not %s", id, from)
	}
	in.status = to
	return nil
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
	e.detached()
	if e.DeleteOnRelease {
		c.dropENI(e)
		return nil
	}
	c.note(e)
	return nil
}

func (in *instance) shownStatus() string {
	if in.leaving {
		return statusStopping
	}
	return in.status
}
