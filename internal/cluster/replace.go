package cluster

// Replace makes the Snapshot hold exactly these objects, beside those that were refused, and marks it synced. Only what differs is touched.
func (s *Store) Replace(all Objects) {
	s.Update(func(e *Edit) {
		deleteMissing(e, all.keys().keep(all.Refused))
		for _, name := range all.Namespaces {
			e.LabelNamespace(name, all.NamespaceLabels[name])
			e.LeaveNamespace(name, all.LeavingNamespaces[name])
		}
		each(all.Slices, e.PutSlice)
		each(all.Services, e.PutService)
		each(all.Pods, e.PutPod)
		each(all.Nodes, e.PutNode)
		each(all.ServiceCIDRs, e.PutServiceCIDR)
		each(all.Ingresses, e.PutIngress)
		each(all.HTTPRoutes, e.PutHTTPRoute)
		each(all.Gateways, e.PutGateway)
		each(all.DNSEndpoints, e.PutDNSEndpoint)
		all.putPolicies(e)
		e.MarkSynced()
		e.MarkPolicySynced()
	})
}

func each[T any](list []T, f func(T)) {
	for _, o := range list {
		f(o)
	}
}

func deleteMissing(e *Edit, want objectKeys) {
	have := e.next
	missing(have.services, want[kindService], e.DeleteService)
	missing(have.slices, want[kindSlice], e.DeleteSlice)
	missing(have.pods, want[kindPod], e.DeletePod)
	missing(have.nodes, want[kindNode], func(name Name) { e.DeleteNode(name.Name) })
	missing(have.serviceCIDRs, want[kindServiceCIDR], func(name Name) { e.DeleteServiceCIDR(name.Name) })
	missing(have.ingresses, want[kindIngress], e.DeleteIngress)
	missing(have.routes, want[kindHTTPRoute], e.DeleteHTTPRoute)
	missing(have.gateways, want[kindGateway], e.DeleteGateway)
	missing(have.endpoints, want[kindDNSEndpoint], e.DeleteDNSEndpoint)
	deleteMissingPolicies(e, want)
	for name := range have.namespaces.all() {
		if _, ok := want[kindNamespace][Name{Name: name}]; !ok {
			e.DeleteNamespace(name)
		}
	}
}

func missing[V any](have cowMap[Name, V], want map[Name]struct{}, remove func(Name)) {
	for name := range have.all() {
		if _, ok := want[name]; !ok {
			remove(name)
		}
	}
}

// objectKeys are the names of objects by the API's kind.
type objectKeys map[string]map[Name]struct{}

func (o Objects) keys() objectKeys {
	namespaces := make(map[Name]struct{}, len(o.Namespaces))
	for _, name := range o.Namespaces {
		namespaces[Name{Name: name}] = struct{}{}
	}
	return objectKeys{
		kindService:     namesOf(o.Services, func(s *Service) Name { return s.Name }),
		kindSlice:       namesOf(o.Slices, func(s *EndpointSlice) Name { return s.Name }),
		kindPod:         namesOf(o.Pods, func(p *Pod) Name { return p.Name }),
		kindNode:        namesOf(o.Nodes, (*Node).name),
		kindServiceCIDR: namesOf(o.ServiceCIDRs, (*ServiceCIDR).name),
		kindIngress:     namesOf(o.Ingresses, (*Ingress).name),
		kindHTTPRoute:   namesOf(o.HTTPRoutes, (*HTTPRoute).name),
		kindGateway:     namesOf(o.Gateways, (*Gateway).name),
		kindDNSEndpoint: namesOf(o.DNSEndpoints, (*DNSEndpoint).name),
		kindNamespace:   namespaces,

		kindPolicyPod:     namesOf(o.PolicyPods, (*PolicyPod).name),
		kindPolicyNode:    namesOf(o.PolicyNodes, (*PolicyNode).name),
		kindNetworkPolicy: namesOf(o.NetworkPolicies, (*NetworkPolicy).name),
		kindClusterPolicy: namesOf(o.ClusterNetworkPolicies, (*ClusterNetworkPolicy).name),
		kindCalicoPolicy:  namesOf(o.CalicoPolicies, (*CalicoPolicy).name),
		kindCalicoTier:    namesOf(o.CalicoTiers, (*CalicoTier).name),
		kindCalicoSet:     namesOf(o.CalicoNetworkSets, (*CalicoNetworkSet).name),
	}
}

// keep adds the names of objects that were refused: they stay if they are there.
func (k objectKeys) keep(refused []Refusal) objectKeys {
	for _, r := range refused {
		switch kind := r.Kind; kind {
		case kindPod:
			k[kindPod][r.Name], k[kindPolicyPod][r.Name] = struct{}{}, struct{}{}
		case kindNode:
			k[kindNode][r.Name], k[kindPolicyNode][r.Name] = struct{}{}, struct{}{}
		case kindCalicoGlobalPolicy:
			k[kindCalicoPolicy][r.Name] = struct{}{}
		case kindCalicoGlobalSet:
			k[kindCalicoSet][r.Name] = struct{}{}
		default:
			k[kind][r.Name] = struct{}{}
		}
	}
	return k
}

func namesOf[T any](list []T, name func(T) Name) map[Name]struct{} {
	names := make(map[Name]struct{}, len(list))
	for _, o := range list {
		names[name(o)] = struct{}{}
	}
	return names
}
