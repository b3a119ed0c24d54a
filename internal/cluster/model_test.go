package cluster

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

// A dump is a Snapshot in a form that cmp can compare: whatever the shape of its shards.
type dump struct {
	Synced        bool
	Services      map[Name]*Service
	ServiceSlices map[Name][]*EndpointSlice
	Namespaces    []string
	ByClusterIP   map[netip.Addr]Name
	ByEndpointIP  map[netip.Addr][]ServiceEndpoint
	Pods          map[Name]*Pod
	ByPodIP       map[netip.Addr]*Pod
	Sizes         []int

	NamespaceLabels map[string]map[string]string
	Nodes           map[Name]*Node
	ServiceCIDRs    map[Name]*ServiceCIDR
	Ingresses       map[Name]*Ingress
	Routes          map[Name]*HTTPRoute
	Gateways        map[Name]*Gateway
	Endpoints       map[Name]*DNSEndpoint
}

func dumpOf(s *Snapshot) dump {
	d := dump{
		Synced:        s.Synced(),
		Services:      maps.Collect(s.services.all()),
		ServiceSlices: maps.Collect(s.serviceSlices.all()),
		Namespaces:    slices.Sorted(s.Namespaces()),
		ByClusterIP:   make(map[netip.Addr]Name),
		ByEndpointIP:  make(map[netip.Addr][]ServiceEndpoint),
		Pods:          make(map[Name]*Pod),
		ByPodIP:       make(map[netip.Addr]*Pod),
		Sizes: []int{
			s.services.len(), s.slices.len(), s.serviceSlices.len(), s.namespaces.len(), s.clusterIPs.len(), s.endpointIPs.len(),
			s.pods.len(), s.podIPs.len(), s.namespaceLabels.len(), s.nodes.len(), s.ingresses.len(), s.routes.len(), s.gateways.len(),
			s.endpoints.len(), s.serviceCIDRs.len(),
		},
		NamespaceLabels: maps.Collect(s.namespaceLabels.all()),
		Nodes:           maps.Collect(s.nodes.all()),
		ServiceCIDRs:    maps.Collect(s.serviceCIDRs.all()),
		Ingresses:       maps.Collect(s.ingresses.all()),
		Routes:          maps.Collect(s.routes.all()),
		Gateways:        maps.Collect(s.gateways.all()),
		Endpoints:       maps.Collect(s.endpoints.all()),
	}
	for addr := range s.clusterIPs.all() {
		d.ByClusterIP[addr] = s.ServiceByIP(addr).Name
	}
	for addr := range s.endpointIPs.all() {
		d.ByEndpointIP[addr] = s.EndpointsByIP(addr)
	}
	for pod := range s.Pods() {
		d.Pods[pod.Name] = pod
	}
	for addr := range s.podIPs.all() {
		d.ByPodIP[addr] = s.PodByIP(addr)
	}
	return d
}

var compareAddrs = cmp.Options{
	cmp.Comparer(func(a, b netip.Addr) bool { return a == b }),
	cmp.Comparer(func(a, b netip.Prefix) bool { return a == b }),
}

func drawAddr(t *rapid.T) netip.Addr {
	return netip.AddrFrom4([4]byte{10, 0, 0, rapid.Byte().Draw(t, "address") % 32})
}

func drawService(t *rapid.T) *Service {
	return &Service{
		Name:       Name{"ns", rapid.SampledFrom([]string{"a", "b", "c", "d"}).Draw(t, "service")},
		ClusterIPs: []netip.Addr{drawAddr(t)},
		Created:    time.Unix(rapid.Int64Range(0, 3).Draw(t, "created"), 0),
	}
}

func drawSlice(t *rapid.T) *EndpointSlice {
	slice := &EndpointSlice{
		Name:    Name{"ns", fmt.Sprintf("slice-%d", rapid.IntRange(0, 40).Draw(t, "slice"))},
		Service: Name{"ns", rapid.SampledFrom([]string{"a", "b", "c", "d"}).Draw(t, "of")},
	}
	for range rapid.IntRange(0, 4).Draw(t, "endpoints") {
		slice.Endpoints = append(slice.Endpoints, Endpoint{Addr: drawAddr(t), Ready: rapid.Bool().Draw(t, "ready")})
	}
	return slice
}

func drawPod(t *rapid.T) *Pod {
	pod := &Pod{
		Name:        Name{"ns", rapid.SampledFrom([]string{"p", "q", "r", "s"}).Draw(t, "pod")},
		Created:     time.Unix(rapid.Int64Range(0, 3).Draw(t, "created"), 0),
		HostNetwork: rapid.IntRange(0, 4).Draw(t, "host network") == 0,
		Labels:      map[string]string{"app": rapid.SampledFrom([]string{"a", "b"}).Draw(t, "label")},
		Phase:       rapid.SampledFrom([]PodPhase{PodPending, PodRunning, PodSucceeded}).Draw(t, "phase"),
		Terminating: rapid.Bool().Draw(t, "terminating"),
	}
	for range rapid.IntRange(0, 2).Draw(t, "addresses") {
		pod.Addrs = append(pod.Addrs, drawAddr(t))
	}
	return pod
}

func drawMeta(t *rapid.T, names ...string) Meta {
	return Meta{
		Name:        Name{"ns", rapid.SampledFrom(names).Draw(t, "name")},
		Annotations: map[string]string{"nearpath.io/x": rapid.SampledFrom([]string{"a", "b"}).Draw(t, "annotation")},
	}
}

// A model is the plainest store there is.
type model struct {
	services   map[Name]*Service
	slices     map[Name]*EndpointSlice
	namespaces map[string]map[string]string // their labels
	pods       map[Name]*Pod
	nodes      map[Name]*Node
	cidrs      map[Name]*ServiceCIDR
	ingresses  map[Name]*Ingress
	routes     map[Name]*HTTPRoute
	gateways   map[Name]*Gateway
	endpoints  map[Name]*DNSEndpoint
}

func newModel() model {
	return model{
		make(map[Name]*Service), make(map[Name]*EndpointSlice), make(map[string]map[string]string), make(map[Name]*Pod),
		make(map[Name]*Node), make(map[Name]*ServiceCIDR), make(map[Name]*Ingress), make(map[Name]*HTTPRoute), make(map[Name]*Gateway), make(map[Name]*DNSEndpoint),
	}
}

// step makes one random change to the model and the same one to the edit.
func (m model) step(t *rapid.T, e *Edit) {
	gone := rapid.IntRange(0, 2).Draw(t, "delete") == 0
	switch rapid.IntRange(0, 9).Draw(t, "step") {
	case 0:
		change(m.services, drawService(t), func(s *Service) Name { return s.Name }, gone, e.PutService, e.DeleteService)
	case 1:
		change(m.slices, drawSlice(t), func(s *EndpointSlice) Name { return s.Name }, gone, e.PutSlice, e.DeleteSlice)
	case 2:
		change(m.pods, drawPod(t), func(p *Pod) Name { return p.Name }, gone, e.PutPod, e.DeletePod)
	case 3:
		node := &Node{Meta: drawMeta(t, "node-a", "node-b"), InternalIPs: []netip.Addr{drawAddr(t)}}
		node.Name.Namespace = ""
		change(m.nodes, node, (*Node).name, gone, e.PutNode, func(name Name) { e.DeleteNode(name.Name) })
	case 4:
		ingress := &Ingress{Meta: drawMeta(t, "i", "j"), LoadBalancer: LoadBalancer{Addrs: []netip.Addr{drawAddr(t)}}}
		change(m.ingresses, ingress, (*Ingress).name, gone, e.PutIngress, e.DeleteIngress)
	case 5:
		route := &HTTPRoute{Meta: drawMeta(t, "r", "s"), Parents: []ParentRef{{Port: uint16(rapid.IntRange(0, 1).Draw(t, "port"))}}}
		change(m.routes, route, (*HTTPRoute).name, gone, e.PutHTTPRoute, e.DeleteHTTPRoute)
	case 6:
		gateway := &Gateway{Meta: drawMeta(t, "g", "h"), Addresses: []string{drawAddr(t).String()}}
		change(m.gateways, gateway, (*Gateway).name, gone, e.PutGateway, e.DeleteGateway)
	case 7:
		endpoint := &DNSEndpoint{Meta: drawMeta(t, "d", "e"), Records: []RecordSet{{Targets: []string{drawAddr(t).String()}}}}
		change(m.endpoints, endpoint, (*DNSEndpoint).name, gone, e.PutDNSEndpoint, e.DeleteDNSEndpoint)
	case 8:
		cidr := &ServiceCIDR{rapid.SampledFrom([]string{"kubernetes", "more"}).Draw(t, "cidr"), []netip.Prefix{netip.PrefixFrom(drawAddr(t), 32)}}
		change(m.cidrs, cidr, (*ServiceCIDR).name, gone, e.PutServiceCIDR, func(name Name) { e.DeleteServiceCIDR(name.Name) })
	case 9:
		labels := map[string]string{"team": rapid.SampledFrom([]string{"a", "b"}).Draw(t, "team")}
		if rapid.Bool().Draw(t, "plain") {
			labels = nil
		}
		if gone {
			delete(m.namespaces, "ns")
			e.DeleteNamespace("ns")
			return
		}
		m.namespaces["ns"] = labels
		e.LabelNamespace("ns", labels)
	}
}

func change[T any](m map[Name]T, o T, name func(T) Name, gone bool, put func(T), remove func(Name)) {
	if gone {
		delete(m, name(o))
		remove(name(o))
		return
	}
	m[name(o)] = o
	put(o)
}

func (m model) objects() Objects {
	return Objects{
		Services:   slices.Collect(maps.Values(m.services)),
		Slices:     slices.Collect(maps.Values(m.slices)),
		Namespaces: slices.Collect(maps.Keys(m.namespaces)),
		Pods:       slices.Collect(maps.Values(m.pods)),

		NamespaceLabels: m.namespaces,
		Nodes:           slices.Collect(maps.Values(m.nodes)),
		ServiceCIDRs:    slices.Collect(maps.Values(m.cidrs)),
		Ingresses:       slices.Collect(maps.Values(m.ingresses)),
		HTTPRoutes:      slices.Collect(maps.Values(m.routes)),
		Gateways:        slices.Collect(maps.Values(m.gateways)),
		DNSEndpoints:    slices.Collect(maps.Values(m.endpoints)),
	}
}

// differing names the objects that are not the same in two Snapshots.
func differing[V any](before, after cowMap[Name, V], same func(V, V) bool) []Name {
	var names []Name
	for name, was := range before.all() {
		if is, ok := after.get(name); !ok || !same(was, is) {
			names = append(names, name)
		}
	}
	for name := range after.all() {
		if _, ok := before.get(name); !ok {
			names = append(names, name)
		}
	}
	slices.SortFunc(names, compareNames)
	return slices.Compact(names)
}

func same[T comparable](a, b T) bool { return a == b }
