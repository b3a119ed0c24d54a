package sim

import (
	"fmt"
	"strings"
	"time"

	"github.com/nearpath/nearpath/internal/aliyun"
)

var (
	attachENIParams = []string{
		"NetworkInterfaceId", "InstanceId", "TrunkNetworkInstanceId", "NetworkCardIndex", "WaitForNetworkConfigurationReady",
	}
	detachENIParams = []string{"NetworkInterfaceId", "InstanceId", "TrunkNetworkInstanceId"}
)

// readAttachment reads which ENI and instance a request is about.
func readAttachment(in input) (eniID, instanceID string, err error) {
	if eniID, err = in.need("NetworkInterfaceId"); err != nil {
		return "", "", err
	}
	if instanceID, err = in.need("InstanceId"); err != nil {
		return "", "", err
	}
	if !strings.HasPrefix(instanceID, "i-") {
		return "", "", refuse(codeEcsMalformed, "The specified InstanceId %q is malformed.", instanceID)
	}
	if t := in.text("TrunkNetworkInstanceId"); t != "" {
		return "", "", refuse(codeUnsupportedParameter, "The parameter %q is not supported: no instance type here has trunk ENIs.", "TrunkNetworkInstanceId")
	}
	if card := in.text("NetworkCardIndex"); card != "" && card != "0" {
		return "", "", invalid("NetworkCardIndex", card)
	}
	_, err = in.flag("WaitForNetworkConfigurationReady", false)
	return eniID, instanceID, err
}

func (c *Cloud) attachENI(in input) (object, error) {
	id, instanceID, err := readAttachment(in)
	if err != nil {
		return nil, err
	}
	err = c.withENI(id, func(e *eni) error {
		c.mu.Lock()
		defer c.mu.Unlock()
		i := c.instances[instanceID]
		if err := c.mayAttach(e, i); err != nil {
			return err
		}
		if e.queuesAsked == 0 {
			e.QueueNumber = c.defaultQueues(i)
		}
		e.device = c.freeDevice(i)
		e.Status, e.InstanceID = aliyun.StatusAttaching, instanceID
		c.note(e)
		return nil
	})
	if err != nil {
		return nil, err
	}
	failBack := c.fallsBack()
	c.later(c.lasts(aliyun.StatusAttaching), func() { c.finishAttach(id, instanceID, failBack) })
	return object{}, nil
}

// AttachNew makes an ENI with its primary address and ipv6s of IPv6, and attaches it to an instance, as its owner would by
// hand: it has no tags, and no delays.
func (c *Cloud) AttachNew(instanceID, vSwitchID string, ipv6s int) (aliyun.ENI, error) {
	e, err := c.addAttaching(instanceID, vSwitchID, ipv6s)
	if err != nil {
		return aliyun.ENI{}, fmt.Errorf("attach a new ENI to %s: %w", instanceID, err)
	}
	c.finishAttach(e.ID, instanceID, false)
	c.mu.Lock()
	defer c.mu.Unlock()
	if e.Status != aliyun.StatusInUse {
		return aliyun.ENI{}, fmt.Errorf("attach a new ENI to %s: it is %s", instanceID, e.Status)
	}
	return e.snapshot(), nil
}

func (c *Cloud) addAttaching(instanceID, vSwitchID string, ipv6s int) (*eni, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	in := c.instances[instanceID]
	if in == nil || c.subnets[vSwitchID] == nil {
		return nil, fmt.Errorf("no such instance, or vSwitch %q is unknown", vSwitchID)
	}
	e, err := c.addENI(eniSpec{
		vSwitch: vSwitchID, groups: in.SecurityGroupIDs, kind: aliyun.TypeSecondary, deleteOnRelease: true,
		wants: []want{{family: aliyun.IPv4}, {family: aliyun.IPv6, count: ipv6s}},
	})
	if err != nil {
		return nil, err
	}
	if err := c.mayAttach(e, in); err != nil {
		c.dropENI(e)
		return nil, err
	}
	e.device = c.freeDevice(in)
	e.Status, e.InstanceID = aliyun.StatusAttaching, instanceID
	c.note(e)
	return e, nil
}

// mayAttach checks ENI, instance (nil: unknown) and quotas. The caller holds c.mu.
func (c *Cloud) mayAttach(e *eni, in *instance) error {
	switch {
	case in == nil:
		return refuse(codeEcsNotFound, "The specified InstanceId does not exist.")
	case in.leaving || in.status != StatusRunning && in.status != StatusStopped:
		return refuse(codeEcsState, "The instance %s is %s, which does not allow to attach an ENI.", in.ID, in.shownStatus())
	case e.Type == aliyun.TypePrimary:
		return refuse(codeEniType, "The ENI %s is primary.", e.ID)
	case e.Status != aliyun.StatusAvailable:
		return refuse(codeEniState, "The ENI %s is %s, which does not allow to attach it.", e.ID, e.Status)
	case e.VPCID != in.VPCID:
		return refuse(codeVPCMismatch, "The ENI %s is in the VPC %s, the instance in %s.", e.ID, e.VPCID, in.VPCID)
	case e.ZoneID != in.ZoneID:
		return refuse(codeZoneMismatch, "The ENI %s is in %s, the instance in %s.", e.ID, e.ZoneID, in.ZoneID)
	case len(c.attached(in.ID)) >= in.limits.ENIs:
		return refuse(codeEniPerInstance, "The instance type of %s allows %d ENIs.", in.ID, in.limits.ENIs)
	}
	for _, f := range []aliyun.Family{aliyun.IPv4, aliyun.IPv6} {
		limit, have := in.limits.limit(f), e.slots(f)
		if have > 0 && limit == 0 {
			return refuse(codeNoIPv6, "The instanceType of %s not support ipv6.", in.ID)
		}
		if have > limit {
			return refuse(namesOf[f].exceeded, "The ENI %s has %d %v addresses, the instance type allows %d.", e.ID, have, f, limit)
		}
	}
	return c.queuesFit(e, in, e.queuesAsked)
}

// defaultQueues is what an ENI gets on an instance without asking. The caller holds c.mu.
func (c *Cloud) defaultQueues(in *instance) int {
	left := in.limits.TotalQueues
	for _, e := range c.attached(in.ID) {
		left -= e.QueueNumber
	}
	if in.limits.TotalQueues == 0 {
		return in.limits.QueuesPerENI
	}
	return min(in.limits.QueuesPerENI, max(left, 1))
}

// freeDevice is the lowest index no ENI of the instance has; the primary one has 0. The caller holds c.mu.
func (c *Cloud) freeDevice(in *instance) int {
	taken := map[int]bool{}
	for _, e := range c.attached(in.ID) {
		taken[e.device] = true
	}
	index := 1
	for taken[index] {
		index++
	}
	return index
}

// attached returns the ENIs of an instance, those on the way in or out included. The caller holds c.mu.
func (c *Cloud) attached(instanceID string) []*eni {
	var all []*eni
	for _, e := range c.sortedENIs() {
		if e.InstanceID == instanceID {
			all = append(all, e)
		}
	}
	return all
}

// finishAttach ends Attaching: in use, or available again if it shall fail or the link cannot be made.
func (c *Cloud) finishAttach(id, instanceID string, failBack bool) {
	// The ENI may be gone with its instance meanwhile; then there is nothing to finish.
	_ = c.withENI(id, func(e *eni) error {
		c.mu.Lock()
		in := c.instances[instanceID]
		wanted := in != nil && !in.leaving && e.Status == aliyun.StatusAttaching && e.InstanceID == instanceID
		c.mu.Unlock()
		if !wanted {
			return nil
		}
		failed := failBack
		if !failed {
			failed = c.plug(e, in) != nil // plug has logged why
		}
		c.mu.Lock()
		defer c.mu.Unlock()
		if failed {
			e.detached()
		} else {
			e.Status, e.attachedAt = aliyun.StatusInUse, c.cfg.Now()
		}
		c.note(e)
		return nil
	})
}

// detached makes the ENI one without an instance. The caller holds e.op and c.mu.
func (e *eni) detached() {
	e.Status, e.InstanceID, e.device, e.attachedAt = aliyun.StatusAvailable, "", 0, time.Time{}
	e.QueueNumber = e.queuesAsked
}

// plug makes the link. The caller holds e.op and not c.mu; the fields it reads change only under e.op.
func (c *Cloud) plug(e *eni, in *instance) error {
	if c.cfg.Fabric == nil {
		return nil
	}
	err := c.cfg.Fabric.Plug(Port{
		ENIID: e.ID, MAC: e.MAC, NetNS: in.netns, Primary: e.Type == aliyun.TypePrimary,
		Addrs: e.holdings().all(), Nets: e.subnet.nets(),
	})
	if err != nil {
		return c.fabricError("plug", e.ID, err)
	}
	e.plugged = true
	return nil
}

// unplug takes the link away. The caller holds e.op and not c.mu.
func (c *Cloud) unplug(e *eni) error {
	if !e.plugged {
		return nil
	}
	if err := c.cfg.Fabric.Unplug(e.ID); err != nil {
		return c.fabricError("unplug", e.ID, err)
	}
	e.plugged = false
	return nil
}

func (c *Cloud) detachENI(in input) (object, error) {
	id, instanceID, err := readAttachment(in)
	if err != nil {
		return nil, err
	}
	err = c.withENI(id, func(e *eni) error {
		c.mu.Lock()
		defer c.mu.Unlock()
		switch {
		case c.instances[instanceID] == nil:
			return refuse(codeEcsNotFound, "The specified InstanceId does not exist.")
		case e.Type == aliyun.TypePrimary:
			return refuse(codeDetachPrimary, "The ENI %s is primary.", e.ID)
		case e.Status != aliyun.StatusInUse || e.InstanceID != instanceID:
			return refuse(codeEniState, "The ENI %s is %s, which does not allow to detach it.", e.ID, e.Status)
		}
		e.Status = aliyun.StatusDetaching
		c.note(e)
		return nil
	})
	if err != nil {
		return nil, err
	}
	c.later(c.lasts(aliyun.StatusDetaching), func() { c.finishDetach(id, instanceID) })
	return object{}, nil
}

// finishDetach ends Detaching: available, or in use still if the link cannot be taken away.
func (c *Cloud) finishDetach(id, instanceID string) {
	// The ENI may be gone with its instance meanwhile; then there is nothing to finish.
	_ = c.withENI(id, func(e *eni) error {
		c.mu.Lock()
		wanted := e.Status == aliyun.StatusDetaching && e.InstanceID == instanceID
		c.mu.Unlock()
		if !wanted {
			return nil
		}
		err := c.unplug(e)
		c.mu.Lock()
		defer c.mu.Unlock()
		if err != nil {
			e.Status = aliyun.StatusInUse
		} else {
			e.detached()
		}
		c.note(e)
		return nil
	})
}
