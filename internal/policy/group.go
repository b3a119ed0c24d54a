package policy

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"github.com/nearpath/nearpath/internal/cluster"
)

// A group is pods that nothing tells apart but their addresses: replicas. Selectors are asked once for all of them.
type group struct {
	key     string
	pod     Labelled
	ports   []cluster.NamedPort
	members []uint32 // serials of the peer-sets that hold the pods by who they are, sorted; without mixed ones
	addrs   map[netip.Addr]struct{}
}

func groupKey(pod *cluster.PolicyPod) string {
	var b strings.Builder
	b.Grow(256)
	fmt.Fprintf(&b, "%s/%s", pod.Name.Namespace, pod.ServiceAccount)
	for _, key := range slices.Sorted(maps.Keys(pod.Labels)) {
		b.WriteByte('\n')
		b.WriteString(key)
		b.WriteByte('=')
		b.WriteString(pod.Labels[key])
	}
	for _, port := range pod.Ports {
		fmt.Fprintf(&b, "\n:%s/%d/%d", port.Name, port.Protocol, port.Port)
	}
	return b.String()
}

// groupOf returns the group of the pod, and makes it if there is none.
func (c *Compiler) groupOf(pod *cluster.PolicyPod) *group {
	key := groupKey(pod)
	if g := c.groups[key]; g != nil {
		return g
	}
	g := &group{key: key, pod: labelled(pod), ports: pod.Ports, addrs: map[netip.Addr]struct{}{}}
	c.groups[key] = g
	c.allGroups[g] = struct{}{}
	in := c.groupsIn[pod.Name.Namespace]
	if in == nil {
		in = map[*group]struct{}{}
		c.groupsIn[pod.Name.Namespace] = in
	}
	in[g] = struct{}{}
	g.members = c.membersOf(g)
	return g
}

func (c *Compiler) membersOf(g *group) (members []uint32) {
	namespaceLabels := c.w.NamespaceLabels(g.pod.Namespace)
	for _, ps := range c.bySerial {
		if !ps.mixed && ps.holdsGroup(g, namespaceLabels) {
			members = append(members, ps.serial)
		}
	}
	slices.Sort(members)
	return members
}

// disband forgets a group without pods.
func (c *Compiler) disband(g *group) {
	delete(c.groups, g.key)
	delete(c.allGroups, g)
	in := c.groupsIn[g.pod.Namespace]
	if delete(in, g); len(in) == 0 {
		delete(c.groupsIn, g.pod.Namespace)
	}
}

func (c *Compiler) touchGroup(g *group) {
	if c.dirty.groups {
		return
	}
	for addr := range g.addrs {
		c.dirty.addrs[addr] = struct{}{}
	}
}

// touchAll is for what may concern every address that is known.
func (c *Compiler) touchAll() {
	for addr := range c.addrs {
		c.dirty.addrs[addr] = struct{}{}
	}
}

// relabel asks selectors of namespaces anew.
func (c *Compiler) relabel(namespace string) {
	for g := range c.groupsIn[namespace] {
		members := c.membersOf(g)
		if len(c.mixed) > 0 || !slices.Equal(members, g.members) {
			g.members = members
			c.touchGroup(g)
		}
	}
}

// An address is one that a pod, a node or a name has, or a listener.
type address struct {
	group *group // nil if no pod has it
	class *class
}

// updatePod follows a pod that came, went or changed.
func (c *Compiler) updatePod(name cluster.Name) {
	old := c.pods[name]
	if pod := c.w.Pod(name); pod != nil && pod.HasNetwork() && len(pod.Addrs) > 0 {
		c.pods[name] = pod.Addrs
	} else {
		delete(c.pods, name)
	}
	for _, addr := range old {
		c.reown(addr)
	}
	for _, addr := range c.pods[name] {
		c.reown(addr)
	}
}

// owner returns the pod whose address it is: those of this node's are known from their ADD, whatever a status that is behind
// says of them.
func (c *Compiler) owner(addr netip.Addr) *cluster.PolicyPod {
	if s := c.localAddrs[addr]; s != nil {
		if pod := s.local.pod(c.w); pod != nil && pod.HasNetwork() {
			return pod
		}
		return nil
	}
	return c.w.Owner(addr)
}

// pod is the API's object, nil if it does not know the pod yet or any more.
func (l *LocalPod) pod(w World) *cluster.PolicyPod {
	pod := w.Pod(l.Name)
	if pod == nil || l.UID != "" && pod.UID != "" && pod.UID != l.UID {
		return nil
	}
	return pod
}

// reown finds out whose address it is.
func (c *Compiler) reown(addr netip.Addr) {
	var g *group
	if pod := c.owner(addr); pod != nil {
		g = c.groupOf(pod)
	}
	a := c.addrs[addr]
	if a == nil {
		if g == nil {
			return
		}
		a = &address{}
		c.addrs[addr] = a
	}
	if a.group == g {
		return
	}
	if a.group != nil {
		if delete(a.group.addrs, addr); len(a.group.addrs) == 0 {
			c.disband(a.group)
		}
	}
	if a.group = g; g != nil {
		g.addrs[addr] = struct{}{}
	}
	c.dirty.addrs[addr] = struct{}{}
}
