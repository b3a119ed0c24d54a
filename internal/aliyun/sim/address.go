package sim

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/nearpath/nearpath/internal/aliyun"
)

var (
	assignParams   = []string{"NetworkInterfaceId", "PrivateIpAddress.N", "SecondaryPrivateIpAddressCount", "ClientToken"}
	unassignParams = []string{"NetworkInterfaceId", "PrivateIpAddress.N"}
)

// maxUnassigned bounds the addresses of one UnassignPrivateIpAddresses.
const maxUnassigned = 32

func (c *Cloud) assignIPs(in input) (object, error) {
	id, err := in.need("NetworkInterfaceId")
	if err != nil {
		return nil, err
	}
	named, count, err := readAddresses(in, maxAddresses-1, 0)
	if err != nil {
		return nil, err
	}
	if len(named)+count == 0 {
		return nil, missing("SecondaryPrivateIpAddressCount")
	}
	var added []netip.Addr
	err = c.withENI(id, func(e *eni) error {
		if added, err = c.takeFor(e, named, count); err != nil {
			return err
		}
		return c.commitAddresses(e, added)
	})
	if err != nil {
		return nil, err
	}
	texts := []string{}
	for _, a := range added {
		texts = append(texts, a.String())
	}
	return object{"AssignedPrivateIpAddressesSet": object{
		"NetworkInterfaceId": id, "PrivateIpSet": object{"PrivateIpAddress": texts},
	}}, nil
}

// takeFor checks state and quota of the ENI and takes addresses from its vSwitch.
func (c *Cloud) takeFor(e *eni, named []netip.Addr, count int) ([]netip.Addr, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if e.Status != aliyun.StatusAvailable && e.Status != aliyun.StatusInUse {
		return nil, refuse(codeEniState, "The ENI %s is %s, which does not allow to assign addresses.", e.ID, e.Status)
	}
	limit := maxAddresses
	if in := c.instances[e.InstanceID]; in != nil {
		limit = in.limits.AddressesPerENI
	}
	if total := len(e.PrivateIPs) + len(named) + count; total > limit {
		return nil, refuse(codeIPv4Exceeded, "The ENI %s would have %d addresses, the limit is %d.", e.ID, total, limit)
	}
	if len(named) > 0 {
		return named, e.subnet.takeThese(named)
	}
	return e.subnet.take(count)
}

// commitAddresses makes taken addresses work, or gives them back. The caller holds e.op and not c.mu.
func (c *Cloud) commitAddresses(e *eni, addrs []netip.Addr) error {
	var err error
	if e.plugged {
		if err = c.cfg.Fabric.AddAddrs(e.ID, addrs); err != nil {
			err = c.fabricError("add addresses", e.ID, err)
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if err != nil {
		e.subnet.release(addrs)
		return err
	}
	for _, a := range addrs {
		c.byAddr[a] = e
	}
	// A new slice: Port and answers share the old one.
	e.PrivateIPs = slices.Concat(e.PrivateIPs, addrs)
	return nil
}

func (c *Cloud) unassignIPs(in input) (object, error) {
	id, err := in.need("NetworkInterfaceId")
	if err != nil {
		return nil, err
	}
	addrs, err := in.addresses("PrivateIpAddress")
	if err != nil {
		return nil, err
	}
	if len(addrs) == 0 {
		return nil, missing("PrivateIpAddress")
	}
	if len(addrs) > maxUnassigned {
		return nil, invalid("PrivateIpAddress.N", fmt.Sprint(len(addrs), " values"))
	}
	err = c.withENI(id, func(e *eni) error {
		if err := c.mayUnassign(e, addrs); err != nil {
			return err
		}
		if e.plugged {
			if err := c.cfg.Fabric.RemoveAddrs(e.ID, addrs); err != nil {
				return c.fabricError("remove addresses", e.ID, err)
			}
		}
		c.mu.Lock()
		defer c.mu.Unlock()
		c.freeAddresses(e, addrs)
		return nil
	})
	return object{}, err
}

func (c *Cloud) mayUnassign(e *eni, addrs []netip.Addr) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if e.Status != aliyun.StatusAvailable && e.Status != aliyun.StatusInUse {
		return refuse(codeEniState, "The ENI %s is %s, which does not allow to unassign addresses.", e.ID, e.Status)
	}
	for _, a := range addrs {
		if a == e.PrimaryIP {
			return refuse(codeIPAddress, "The address %s is the primary one of %s.", a, e.ID)
		}
		if !slices.Contains(e.PrivateIPs, a) {
			return refuse(codeIPUnassigned, "The address %s is not assigned to %s.", a, e.ID)
		}
	}
	return nil
}

// freeAddresses gives addresses back to the vSwitch. The caller holds e.op and c.mu.
func (c *Cloud) freeAddresses(e *eni, addrs []netip.Addr) {
	var left []netip.Addr
	for _, a := range e.PrivateIPs {
		if !slices.Contains(addrs, a) {
			left = append(left, a)
		}
	}
	e.PrivateIPs = left
	for _, a := range addrs {
		delete(c.byAddr, a)
	}
	e.subnet.release(addrs)
}
