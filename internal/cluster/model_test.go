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
			s.pods.len(), s.podIPs.len(),
		},
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

var compareAddrs = cmp.Comparer(func(a, b netip.Addr) bool { return a == b })

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

// A model is the plainest store there is.
type model struct {
	services   map[Name]*Service
	slices     map[Name]*EndpointSlice
	namespaces map[string]struct{}
	pods       map[Name]*Pod
}

func newModel() model {
	return model{make(map[Name]*Service), make(map[Name]*EndpointSlice), make(map[string]struct{}), make(map[Name]*Pod)}
}

// step makes one random change to the model and the same one to the edit.
func (m model) step(t *rapid.T, e *Edit) {
	switch rapid.IntRange(0, 7).Draw(t, "step") {
	case 0:
		svc := drawService(t)
		m.services[svc.Name] = svc
		e.PutService(svc)
	case 1:
		name := drawService(t).Name
		delete(m.services, name)
		e.DeleteService(name)
	case 2:
		slice := drawSlice(t)
		m.slices[slice.Name] = slice
		e.PutSlice(slice)
	case 3:
		name := drawSlice(t).Name
		delete(m.slices, name)
		e.DeleteSlice(name)
	case 4:
		m.namespaces["ns"] = struct{}{}
		e.PutNamespace("ns")
	case 5:
		delete(m.namespaces, "ns")
		e.DeleteNamespace("ns")
	case 6:
		pod := drawPod(t)
		m.pods[pod.Name] = pod
		e.PutPod(pod)
	case 7:
		name := drawPod(t).Name
		delete(m.pods, name)
		e.DeletePod(name)
	}
}

func (m model) objects() Objects {
	return Objects{
		Services:   slices.Collect(maps.Values(m.services)),
		Slices:     slices.Collect(maps.Values(m.slices)),
		Namespaces: slices.Collect(maps.Keys(m.namespaces)),
		Pods:       slices.Collect(maps.Values(m.pods)),
	}
}
