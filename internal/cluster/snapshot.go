package cluster

import (
	"iter"
	"net/netip"
	"slices"
	"strings"
	"time"
)

// A Snapshot is the state of the cluster at one moment, as far as its source reads it. It is immutable and safe for
// concurrent use; what it returns must not be changed.
type Snapshot struct {
	version       uint64
	changed       time.Time
	synced        bool
	services      cowMap[Name, *Service]
	slices        cowMap[Name, *EndpointSlice]   // by slice name
	serviceSlices cowMap[Name, []*EndpointSlice] // by Service name, sorted by slice name
	namespaces    cowMap[string, struct{}]
	clusterIPs    cowMap[netip.Addr, []Name] // names of Services, sorted
	endpointIPs   cowMap[netip.Addr, []Name] // names of slices, sorted
	pods          cowMap[Name, *Pod]
	podIPs        cowMap[netip.Addr, []Name] // names of pods that have a network of their own, sorted

	// namesOnly says that nothing is indexed by address.
	namesOnly       bool
	namespaceLabels cowMap[string, map[string]string] // without namespaces that have none
	nodes           cowMap[Name, *Node]
	serviceCIDRs    cowMap[Name, *ServiceCIDR]
	ingresses       cowMap[Name, *Ingress]
	routes          cowMap[Name, *HTTPRoute]
	gateways        cowMap[Name, *Gateway]
	endpoints       cowMap[Name, *DNSEndpoint]

	policySynced bool
	leaving      cowMap[string, struct{}] // namespaces that are being deleted
	policyPods   cowMap[Name, *PolicyPod]
	policyIPs    cowMap[netip.Addr, []*PolicyPod]
	policyNodes  cowMap[Name, *PolicyNode]

	networkPolicies cowMap[Name, *NetworkPolicy]
	clusterPolicies cowMap[Name, *ClusterNetworkPolicy]
	calicoPolicies  cowMap[Name, *CalicoPolicy]
	calicoTiers     cowMap[Name, *CalicoTier]
	calicoSets      cowMap[Name, *CalicoNetworkSet]
}

// A ServiceEndpoint is an endpoint and the Service it stands behind.
type ServiceEndpoint struct {
	Service  Name
	Endpoint *Endpoint
}

func newSnapshot() *Snapshot {
	return &Snapshot{
		services:      newCOWMap[Name, *Service](),
		slices:        newCOWMap[Name, *EndpointSlice](),
		serviceSlices: newCOWMap[Name, []*EndpointSlice](),
		namespaces:    newCOWMap[string, struct{}](),
		clusterIPs:    newCOWMap[netip.Addr, []Name](),
		endpointIPs:   newCOWMap[netip.Addr, []Name](),
		pods:          newCOWMap[Name, *Pod](),
		podIPs:        newCOWMap[netip.Addr, []Name](),

		namespaceLabels: newCOWMap[string, map[string]string](),
		nodes:           newCOWMap[Name, *Node](),
		serviceCIDRs:    newCOWMap[Name, *ServiceCIDR](),
		ingresses:       newCOWMap[Name, *Ingress](),
		routes:          newCOWMap[Name, *HTTPRoute](),
		gateways:        newCOWMap[Name, *Gateway](),
		endpoints:       newCOWMap[Name, *DNSEndpoint](),

		leaving:         newCOWMap[string, struct{}](),
		policyPods:      newCOWMap[Name, *PolicyPod](),
		policyIPs:       newCOWMap[netip.Addr, []*PolicyPod](),
		policyNodes:     newCOWMap[Name, *PolicyNode](),
		networkPolicies: newCOWMap[Name, *NetworkPolicy](),
		clusterPolicies: newCOWMap[Name, *ClusterNetworkPolicy](),
		calicoPolicies:  newCOWMap[Name, *CalicoPolicy](),
		calicoTiers:     newCOWMap[Name, *CalicoTier](),
		calicoSets:      newCOWMap[Name, *CalicoNetworkSet](),
	}
}

// count is how many objects of a kind there are.
func (s *Snapshot) count(kind Kind) int {
	return [kindCount]int{
		Services: s.services.len(), Namespaces: s.namespaces.len(), Pods: s.pods.len(), Nodes: s.nodes.len(),
		ServiceCIDRs: s.serviceCIDRs.len(),
		Ingresses:    s.ingresses.len(), HTTPRoutes: s.routes.len(), Gateways: s.gateways.len(), DNSEndpoints: s.endpoints.len(),
		PolicyPods: s.policyPods.len(), PolicyNodes: s.policyNodes.len(), NetworkPolicies: s.networkPolicies.len(),
		ClusterNetworkPolicies: s.clusterPolicies.len(), CalicoPolicies: s.calicoPolicies.len(),
		CalicoTiers: s.calicoTiers.len(), CalicoNetworkSets: s.calicoSets.len(),
	}[kind]
}

// Version grows by one with every change within one process; it means nothing outside of it.
func (s *Snapshot) Version() uint64 { return s.version }

// Changed says when the Snapshot was made, the zero time for the one a Store starts with.
func (s *Snapshot) Changed() time.Time { return s.changed }

// Synced reports whether every kind has been listed: only then does absence mean that an object does not exist.
func (s *Snapshot) Synced() bool { return s.synced }

// PolicySynced reports whether all has been listed that policies are and depend on: Synced does not wait for it, as Services
// and names shall not. Only then does the absence of a policy, a pod of another node or another node mean that it does not exist.
func (s *Snapshot) PolicySynced() bool { return s.policySynced }

// Service returns the Service of that name, nil when there is none.
func (s *Snapshot) Service(name Name) *Service {
	svc, _ := s.services.get(name)
	return svc
}

// Services yields every Service, in no particular order.
func (s *Snapshot) Services() iter.Seq[*Service] { return values(s.services) }

// Slices returns the slices of a Service, sorted by name. They may exist without the Service, and one endpoint may be
// in two of them while the control plane moves it.
func (s *Snapshot) Slices(service Name) []*EndpointSlice {
	list, _ := s.serviceSlices.get(service)
	return list
}

// HasNamespace reports whether the namespace exists.
func (s *Snapshot) HasNamespace(name string) bool {
	_, ok := s.namespaces.get(name)
	return ok
}

// Namespaces yields the name of every namespace, in no particular order.
func (s *Snapshot) Namespaces() iter.Seq[string] { return keys(s.namespaces) }

// NamespaceLabels returns the labels of a namespace, nil when it has none or they are not read.
func (s *Snapshot) NamespaceLabels(name string) map[string]string {
	labels, _ := s.namespaceLabels.get(name)
	return labels
}

// NamespaceLeaving reports whether the namespace is being deleted: objects in it go in whatever order. It is false unless
// policies are read.
func (s *Snapshot) NamespaceLeaving(name string) bool {
	_, leaving := s.leaving.get(name)
	return leaving
}

// ServiceByIP returns the Service that has the address among its cluster IPs, nil when there is none. When two claim
// it, which happens for the moment between a deletion and a creation only, the older one has it.
func (s *Snapshot) ServiceByIP(addr netip.Addr) *Service {
	names, _ := s.clusterIPs.get(addr)
	var oldest *Service
	for _, name := range names {
		svc := s.Service(name)
		if oldest == nil || svc.Created.Before(oldest.Created) {
			oldest = svc
		}
	}
	return oldest
}

// EndpointsByIP returns every endpoint with that address, sorted by Service; those of one Service in the order of its
// slices. Pods of the host network share an address, so the list may be long.
func (s *Snapshot) EndpointsByIP(addr netip.Addr) []ServiceEndpoint {
	names, _ := s.endpointIPs.get(addr)
	var found []ServiceEndpoint
	for _, name := range names {
		slice, _ := s.slices.get(name)
		for i := range slice.Endpoints {
			if slice.Endpoints[i].Addr == addr {
				found = append(found, ServiceEndpoint{slice.Service, &slice.Endpoints[i]})
			}
		}
	}
	slices.SortStableFunc(found, func(a, b ServiceEndpoint) int { return compareNames(a.Service, b.Service) })
	return found
}

// Pod returns the pod of that name when it is one of those that are read, else nil.
func (s *Snapshot) Pod(name Name) *Pod {
	pod, _ := s.pods.get(name)
	return pod
}

// Pods yields every pod that is read, in no particular order: those of this node, or all for publishing.
func (s *Snapshot) Pods() iter.Seq[*Pod] { return values(s.pods) }

// PodByIP returns the pod of this node that has the address, nil when there is none. Pods of the host network and those
// that have ended are left out. When two claim it, as while the status of one is behind, the one that is not
// terminating has it, then the younger one.
func (s *Snapshot) PodByIP(addr netip.Addr) *Pod {
	names, _ := s.podIPs.get(addr)
	var owner *Pod
	for _, name := range names {
		if pod := s.Pod(name); owner == nil || pod.succeeds(owner) {
			owner = pod
		}
	}
	return owner
}

func compareNames(a, b Name) int {
	if c := strings.Compare(a.Namespace, b.Namespace); c != 0 {
		return c
	}
	return strings.Compare(a.Name, b.Name)
}

// withName and withoutName keep sorted lists, and leave the list they are given as it is.
func withName(names []Name, name Name) []Name {
	i, found := slices.BinarySearchFunc(names, name, compareNames)
	if found {
		return names
	}
	return slices.Insert(slices.Clip(slices.Clone(names)), i, name)
}

func withoutName(names []Name, name Name) []Name {
	i, found := slices.BinarySearchFunc(names, name, compareNames)
	if !found {
		return names
	}
	return slices.Concat(names[:i], names[i+1:])
}
