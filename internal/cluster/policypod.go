package cluster

import (
	"cmp"
	"fmt"
	"iter"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
)

// A PolicyPod is what policies read of a pod, of any node. Pods without a node are left out: they have no network. It is
// immutable once it is in a Snapshot.
type PolicyPod struct {
	Name Name
	// Local says that the pod is of this node; only then UID is set. What [Snapshot.Pod] says of it is of the same moment.
	Local          bool
	UID            string
	Node           string
	ServiceAccount string
	Created        time.Time
	// Addrs are as in [Pod]: IPv4 first, never v4-mapped, those of the node for a pod of the host network, and kept by the
	// API when the pod has ended.
	Addrs  []netip.Addr
	Labels map[string]string // shared by pods that have the same
	// Ports are those that have a name, sorted and each once, of the containers and of init containers that run beside
	// them (restartPolicy Always). Two may have one name and protocol, if two containers say so.
	Ports       []NamedPort
	HostNetwork bool
	Phase       PodPhase
	Terminating bool
}

// A NamedPort is a port of a container by its name.
type NamedPort struct {
	Name     string
	Protocol Protocol
	Port     uint16 // host order
}

func (p NamedPort) compare(o NamedPort) int {
	return cmp.Or(strings.Compare(p.Name, o.Name), cmp.Compare(p.Protocol, o.Protocol), cmp.Compare(p.Port, o.Port))
}

// HasNetwork reports whether the pod's addresses are its own and still its: only such pods are selected by anything.
func (p *PolicyPod) HasNetwork() bool {
	return !p.HostNetwork && p.Phase != PodSucceeded && p.Phase != PodFailed
}

func (p *PolicyPod) name() Name { return p.Name }

func (p *PolicyPod) equal(o *PolicyPod) bool {
	return p.Name == o.Name && p.Local == o.Local && p.UID == o.UID && p.Node == o.Node && p.ServiceAccount == o.ServiceAccount && p.Created.Equal(o.Created) &&
		slices.Equal(p.Addrs, o.Addrs) && maps.Equal(p.Labels, o.Labels) && slices.Equal(p.Ports, o.Ports) &&
		p.HostNetwork == o.HostNetwork && p.Phase == o.Phase && p.Terminating == o.Terminating
}

// succeeds reports whether the pod has an address that another claims as well: it is not terminating, or the younger one.
func (p *PolicyPod) succeeds(o *PolicyPod) bool {
	switch {
	case p.Terminating != o.Terminating:
		return o.Terminating
	case !p.Created.Equal(o.Created):
		return p.Created.After(o.Created)
	}
	return compareNames(p.Name, o.Name) < 0
}

// policySharer makes pods with equal labels or ports share them. The zero value is ready for use.
type policySharer struct {
	labels labelSets
	ports  portSets
}

// localPodFrom is policyPodFrom for a pod of this node.
func localPodFrom(in *corev1.Pod, share *policySharer) (*PolicyPod, error) {
	pod, err := policyPodFrom(in, share)
	if err == nil {
		pod.Local, pod.UID = true, string(in.UID)
	}
	return pod, err
}

// policyPodFrom converts a pod of the API. Errors name the object and the field.
func policyPodFrom(in *corev1.Pod, share *policySharer) (*PolicyPod, error) {
	pod := &PolicyPod{
		Name:           Name{intern(in.Namespace), in.Name},
		Node:           intern(in.Spec.NodeName),
		ServiceAccount: intern(in.Spec.ServiceAccountName),
		Created:        in.CreationTimestamp.Time,
		Labels:         share.labels.shared(internMap(in.Labels, func(string) bool { return true })),
		HostNetwork:    in.Spec.HostNetwork,
		Phase:          phase(in.Status.Phase),
		Terminating:    in.DeletionTimestamp != nil,
	}
	var err error
	if pod.Addrs, err = podAddrs(&in.Status); err != nil {
		return nil, fmt.Errorf("convert Pod %s: %w", pod.Name, err)
	}
	ports, err := namedPorts(&in.Spec)
	if err != nil {
		return nil, fmt.Errorf("convert Pod %s: %w", pod.Name, err)
	}
	pod.Ports = share.ports.shared(ports)
	return pod, nil
}

func namedPorts(spec *corev1.PodSpec) (ports []NamedPort, err error) {
	for i := range spec.InitContainers {
		if c := &spec.InitContainers[i]; c.RestartPolicy != nil && *c.RestartPolicy == corev1.ContainerRestartPolicyAlways {
			if ports, err = appendPorts(ports, fmt.Sprintf("spec.initContainers[%d]", i), c); err != nil {
				return nil, err
			}
		}
	}
	for i := range spec.Containers {
		if ports, err = appendPorts(ports, fmt.Sprintf("spec.containers[%d]", i), &spec.Containers[i]); err != nil {
			return nil, err
		}
	}
	slices.SortFunc(ports, NamedPort.compare)
	return slices.Compact(ports), nil
}

func appendPorts(ports []NamedPort, field string, c *corev1.Container) ([]NamedPort, error) {
	for i := range c.Ports {
		p := &c.Ports[i]
		if p.Name == "" {
			continue
		}
		proto, err := protocol(p.Protocol)
		if err != nil {
			return nil, fmt.Errorf("%s.ports[%d].protocol: %w", field, i, err)
		}
		if p.ContainerPort < 1 || p.ContainerPort > 65535 {
			return nil, fmt.Errorf("%s.ports[%d].containerPort: %d is not a port, write 1 to 65535", field, i, p.ContainerPort)
		}
		ports = append(ports, NamedPort{intern(p.Name), proto, uint16(p.ContainerPort)})
	}
	return ports, nil
}

// PolicyPod returns the pod of that name, of whichever node, nil when there is none or policies are not read.
func (s *Snapshot) PolicyPod(name Name) *PolicyPod {
	pod, _ := s.policyPods.get(name)
	return pod
}

// PolicyPods yields every pod of the cluster that has a node, in no particular order; nothing unless policies are read.
func (s *Snapshot) PolicyPods() iter.Seq[*PolicyPod] { return values(s.policyPods) }

// PolicyPodByIP returns the pod of the cluster that has the address for its own, nil when there is none. When two claim it, as
// while the status of one is behind, the one that is not terminating has it, then the younger one.
func (s *Snapshot) PolicyPodByIP(addr netip.Addr) *PolicyPod {
	list, _ := s.policyIPs.get(addr)
	var owner *PolicyPod
	for _, pod := range list {
		if owner == nil || pod.succeeds(owner) {
			owner = pod
		}
	}
	return owner
}

// PolicyPodsByIP returns every pod that claims the address for its own, in no particular order.
func (s *Snapshot) PolicyPodsByIP(addr netip.Addr) []*PolicyPod {
	list, _ := s.policyIPs.get(addr)
	return list
}

// PutPolicyPod adds a pod of the cluster or replaces the one of that name.
func (e *Edit) PutPolicyPod(pod *PolicyPod) {
	old := e.next.PolicyPod(pod.Name)
	if old != nil && old.equal(pod) {
		return
	}
	e.unindexPolicyPod(old)
	e.next.policyPods = e.next.policyPods.put(pod.Name, pod)
	if pod.HasNetwork() && !e.next.namesOnly {
		for _, addr := range pod.Addrs {
			list, _ := e.next.policyIPs.get(addr)
			e.next.policyIPs = e.next.policyIPs.put(addr, append(slices.Clip(slices.Clone(list)), pod))
		}
	}
	e.touch(PolicyPods, pod.Name)
}

// putPodAnywhere is PutPolicyPod for one of two watches that each see a pod's name on another node, in whatever order.
func (e *Edit) putPodAnywhere(pod *PolicyPod) {
	if old := e.next.PolicyPod(pod.Name); old == nil || old.Local == pod.Local || !old.Created.After(pod.Created) {
		e.PutPolicyPod(pod)
	}
}

// deletePodFrom is DeletePolicyPod for a pod that one of the two watches saw last.
func (e *Edit) deletePodFrom(name Name, local bool) {
	if old := e.next.PolicyPod(name); old != nil && old.Local == local {
		e.DeletePolicyPod(name)
	}
}

// DeletePolicyPod removes a pod of the cluster.
func (e *Edit) DeletePolicyPod(name Name) {
	old := e.next.PolicyPod(name)
	if old == nil {
		return
	}
	e.unindexPolicyPod(old)
	e.next.policyPods = e.next.policyPods.delete(name)
	e.touch(PolicyPods, name)
}

func (e *Edit) unindexPolicyPod(pod *PolicyPod) {
	if pod == nil || !pod.HasNetwork() || e.next.namesOnly {
		return
	}
	for _, addr := range pod.Addrs {
		list, _ := e.next.policyIPs.get(addr)
		list = slices.DeleteFunc(slices.Clone(list), func(o *PolicyPod) bool { return o.Name == pod.Name })
		if len(list) > 0 {
			e.next.policyIPs = e.next.policyIPs.put(addr, slices.Clip(list))
		} else {
			e.next.policyIPs = e.next.policyIPs.delete(addr)
		}
	}
}
