package sim

import (
	"slices"

	"github.com/nearpath/nearpath/internal/aliyun"
)

var modifyENIParams = []string{
	"NetworkInterfaceId", "SecurityGroupId.N", "QueueNumber", "DeleteOnRelease", "NetworkInterfaceName", "Description",
	"SourceDestCheck", "NetworkInterfaceTrafficConfig.NetworkInterfaceTrafficMode", "NetworkInterfaceTrafficConfig.QueueNumber",
	"NetworkInterfaceTrafficConfig.QueuePairNumber",
}

// trafficConfig is where newer clients put queues and traffic mode.
const trafficConfig = "NetworkInterfaceTrafficConfig."

// A modification is what ModifyNetworkInterfaceAttribute changes; what the request does not name is as it was.
type modification struct {
	groups          []string // empty: no change
	queues          int      // zero: no change
	deleteOnRelease bool
	sourceDestCheck bool
	name            string
	description     string
	flags           bool // the request has DeleteOnRelease or SourceDestCheck
}

func (c *Cloud) modifyENI(in input) (object, error) {
	id, err := in.need("NetworkInterfaceId")
	if err != nil {
		return nil, err
	}
	flat := in.without(trafficConfig)
	if err := checkMode(flat); err != nil {
		return nil, err
	}
	err = c.withENI(id, func(e *eni) error {
		c.mu.Lock()
		defer c.mu.Unlock()
		m, err := readModification(flat, e)
		if err != nil {
			return err
		}
		if err := c.mayModify(e, m); err != nil {
			return err
		}
		if len(m.groups) > 0 {
			e.SecurityGroupIDs = m.groups
		}
		if m.queues > 0 {
			e.queuesAsked, e.QueueNumber = m.queues, m.queues
		}
		e.DeleteOnRelease, e.sourceDestCheck, e.name, e.description = m.deleteOnRelease, m.sourceDestCheck, m.name, m.description
		c.note(e)
		return nil
	})
	return object{}, err
}

// without takes a prefix off the names that have it.
func (in input) without(prefix string) input {
	flat := input{}
	for k, v := range in {
		if len(k) > len(prefix) && k[:len(prefix)] == prefix {
			k = k[len(prefix):]
		}
		flat[k] = v
	}
	return flat
}

func readModification(in input, e *eni) (modification, error) {
	m := modification{
		groups: in.list("SecurityGroupId"), name: orDefault(in.text("NetworkInterfaceName"), e.name),
		description: orDefault(in.text("Description"), e.description),
		flags:       in.text("DeleteOnRelease") != "" || in.text("SourceDestCheck") != "",
	}
	var err error
	if m.queues, err = in.queues(); err != nil {
		return m, err
	}
	if m.deleteOnRelease, err = in.flag("DeleteOnRelease", e.DeleteOnRelease); err != nil {
		return m, err
	}
	m.sourceDestCheck, err = in.flag("SourceDestCheck", e.sourceDestCheck)
	return m, err
}

// mayModify checks the change. The caller holds e.op and c.mu.
func (c *Cloud) mayModify(e *eni, m modification) error {
	primary := e.Type == aliyun.TypePrimary
	switch {
	case primary && m.queues > 0:
		return refuse(codePrimaryQueues, "Primary NetworkInterface is not allowed to modify queue number.")
	case primary && (len(m.groups) > 0 || m.flags):
		return refuse(codePrimaryFixed, "Primary NetworkInterface is only allowed to modify name and description.")
	}
	if err := e.mayChange("modify it"); err != nil {
		return err
	}
	if m.queues > 0 {
		if err := c.mayQueue(e, m.queues); err != nil {
			return err
		}
	}
	if len(m.groups) == 0 {
		return nil
	}
	if err := c.checkGroups(m.groups, e.VPCID); err != nil {
		return err
	}
	added := slices.DeleteFunc(slices.Clone(m.groups), func(g string) bool { return slices.Contains(e.SecurityGroupIDs, g) })
	return c.room(added, e.slots(aliyun.IPv4))
}

// mayQueue checks a number of queues against the instance the ENI is on, which must be stopped. The caller holds c.mu.
func (c *Cloud) mayQueue(e *eni, queues int) error {
	in := c.instances[e.InstanceID]
	if in == nil {
		return nil
	}
	if in.status != StatusStopped {
		return refuse(codeEniState, "The ENI %s is attached to an instance that is %s, which does not allow to modify its queue number.", e.ID, in.status)
	}
	return c.queuesFit(e, in, queues)
}

// queuesFit checks a number of queues against the limits of an instance, where the type has such limits. The caller
// holds c.mu.
func (c *Cloud) queuesFit(e *eni, in *instance, queues int) error {
	total := queues
	for _, other := range c.attached(in.ID) {
		if other != e {
			total += other.QueueNumber
		}
	}
	switch most := in.limits; {
	case most.MaxQueuesPerENI > 0 && queues > most.MaxQueuesPerENI:
		return refuse(codeQueuesPerENI, "The ENI %s would have %d queues, the limit is %d.", e.ID, queues, most.MaxQueuesPerENI)
	case most.TotalQueues > 0 && total > most.TotalQueues:
		return refuse(codeTotalQueues, "The ENIs of %s would have %d queues, the limit is %d.", in.ID, total, most.TotalQueues)
	}
	return nil
}
