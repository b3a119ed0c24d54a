package sim

import "github.com/nearpath/nearpath/internal/aliyun"

var attachENIParams = []string{"NetworkInterfaceId", "InstanceId"}

func (c *Cloud) attachENI(in input) (object, error) {
	id, err := in.need("NetworkInterfaceId")
	if err != nil {
		return nil, err
	}
	instanceID, err := in.need("InstanceId")
	if err != nil {
		return nil, err
	}
	err = c.withENI(id, func(e *eni) error {
		c.mu.Lock()
		defer c.mu.Unlock()
		if err := c.mayAttach(e, c.instances[instanceID]); err != nil {
			return err
		}
		e.Status, e.InstanceID = aliyun.StatusAttaching, instanceID
		return nil
	})
	if err != nil {
		return nil, err
	}
	c.later(c.cfg.Delays.Attach, func() { c.finishAttach(id, instanceID) })
	return object{}, nil
}

// mayAttach checks ENI, instance (nil: unknown) and quotas. The caller holds c.mu.
func (c *Cloud) mayAttach(e *eni, in *instance) error {
	switch {
	case in == nil:
		return refuse(codeEcsNotFound, "The specified InstanceId does not exist.")
	case in.leaving:
		return refuse(codeEcsState, "The instance %s is being released.", in.ID)
	case e.Type == aliyun.TypePrimary:
		return refuse(codeEniType, "The ENI %s is primary.", e.ID)
	case e.Status != aliyun.StatusAvailable:
		return refuse(codeEniState, "The ENI %s is %s, which does not allow to attach it.", e.ID, e.Status)
	case e.ZoneID != in.ZoneID:
		return refuse(codeZoneMismatch, "The ENI %s is in %s, the instance in %s.", e.ID, e.ZoneID, in.ZoneID)
	case len(e.PrivateIPs) > in.limits.AddressesPerENI:
		return refuse(codeIPv4Exceeded, "The ENI %s has %d addresses, the instance type allows %d.", e.ID, len(e.PrivateIPs), in.limits.AddressesPerENI)
	case len(c.attached(in.ID)) >= in.limits.ENIs:
		return refuse(codeEniPerInstance, "The instance type of %s allows %d ENIs.", in.ID, in.limits.ENIs)
	}
	return nil
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

// finishAttach ends Attaching: in use, or available again if the link cannot be made.
func (c *Cloud) finishAttach(id, instanceID string) {
	// The ENI may be gone with its instance meanwhile; then there is nothing to finish.
	_ = c.withENI(id, func(e *eni) error {
		c.mu.Lock()
		in := c.instances[instanceID]
		wanted := in != nil && !in.leaving && e.Status == aliyun.StatusAttaching && e.InstanceID == instanceID
		c.mu.Unlock()
		if !wanted {
			return nil
		}
		err := c.plug(e, in)
		c.mu.Lock()
		defer c.mu.Unlock()
		if err != nil {
			e.Status, e.InstanceID = aliyun.StatusAvailable, ""
			return nil
		}
		e.Status = aliyun.StatusInUse
		return nil
	})
}

// plug makes the link. The caller holds e.op and not c.mu; the fields it reads change only under e.op.
func (c *Cloud) plug(e *eni, in *instance) error {
	if c.cfg.Fabric == nil {
		return nil
	}
	err := c.cfg.Fabric.Plug(Port{
		ENIID: e.ID, MAC: e.MAC, NetNS: in.netns, Primary: e.Type == aliyun.TypePrimary,
		Addrs: e.PrivateIPs, Subnet: e.subnet.CIDR, Gateway: e.subnet.gateway,
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
	id, err := in.need("NetworkInterfaceId")
	if err != nil {
		return nil, err
	}
	instanceID, err := in.need("InstanceId")
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
		return nil
	})
	if err != nil {
		return nil, err
	}
	c.later(c.cfg.Delays.Detach, func() { c.finishDetach(id, instanceID) })
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
			return nil
		}
		e.Status, e.InstanceID = aliyun.StatusAvailable, ""
		return nil
	})
}
