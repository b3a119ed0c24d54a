package cluster

import (
	"maps"
	"net/netip"
	"slices"
	"strings"
)

// An Edit collects the changes of one [Store.Update]. What it is given must not be changed afterwards. Putting what is
// there already, and deleting what is not, touches nothing. It is valid within the call only.
type Edit struct {
	next Snapshot
	touched
	synced       bool // this edit made the Snapshot synced
	policySynced bool // this edit made what policies read synced
}

func (e *Edit) changed() bool { return e.synced || e.policySynced || !e.nothing() }

// PutService adds a Service or replaces the one of that name.
func (e *Edit) PutService(svc *Service) {
	old := e.next.Service(svc.Name)
	if old != nil && old.equal(svc) {
		return
	}
	e.unindexService(old)
	e.next.services = e.next.services.put(svc.Name, svc)
	if !e.next.namesOnly {
		for _, addr := range svc.ClusterIPs {
			e.next.clusterIPs = addName(e.next.clusterIPs, addr, svc.Name)
		}
	}
	e.touch(Services, svc.Name)
}

// DeleteService removes a Service; its slices stay.
func (e *Edit) DeleteService(name Name) {
	old := e.next.Service(name)
	if old == nil {
		return
	}
	e.unindexService(old)
	e.next.services = e.next.services.delete(name)
	e.touch(Services, name)
}

func (e *Edit) unindexService(svc *Service) {
	if svc == nil || e.next.namesOnly {
		return
	}
	for _, addr := range svc.ClusterIPs {
		e.next.clusterIPs = removeName(e.next.clusterIPs, addr, svc.Name)
	}
}

// PutSlice adds a slice or replaces the one of that name, which may have belonged to another Service.
func (e *Edit) PutSlice(slice *EndpointSlice) {
	old, _ := e.next.slices.get(slice.Name)
	if old != nil && old.equal(slice) {
		return
	}
	e.indexEndpoints(old, slice)
	e.detachSlice(old)
	e.attachSlice(slice)
	e.next.slices = e.next.slices.put(slice.Name, slice)
}

// DeleteSlice removes a slice.
func (e *Edit) DeleteSlice(name Name) {
	old, _ := e.next.slices.get(name)
	if old == nil {
		return
	}
	e.indexEndpoints(old, nil)
	e.detachSlice(old)
	e.next.slices = e.next.slices.delete(name)
}

func (e *Edit) attachSlice(slice *EndpointSlice) {
	list := e.next.Slices(slice.Service)
	i, _ := slices.BinarySearchFunc(list, slice, compareSlices)
	list = slices.Insert(slices.Clip(slices.Clone(list)), i, slice)
	e.next.serviceSlices = e.next.serviceSlices.put(slice.Service, list)
	e.touch(Services, slice.Service)
}

func (e *Edit) detachSlice(slice *EndpointSlice) {
	if slice == nil {
		return
	}
	list := e.next.Slices(slice.Service)
	i, _ := slices.BinarySearchFunc(list, slice, compareSlices)
	if list = slices.Concat(list[:i], list[i+1:]); len(list) > 0 {
		e.next.serviceSlices = e.next.serviceSlices.put(slice.Service, list)
	} else {
		e.next.serviceSlices = e.next.serviceSlices.delete(slice.Service)
	}
	e.touch(Services, slice.Service)
}

// indexEndpoints moves the address index from one state of a slice to the next; addresses in both cost nothing.
func (e *Edit) indexEndpoints(old, slice *EndpointSlice) {
	if e.next.namesOnly {
		return
	}
	before, after := old.addrs(), slice.addrs()
	for addr := range before {
		if _, kept := after[addr]; !kept {
			e.next.endpointIPs = removeName(e.next.endpointIPs, addr, old.Name)
		}
	}
	for addr := range after {
		if _, had := before[addr]; !had {
			e.next.endpointIPs = addName(e.next.endpointIPs, addr, slice.Name)
		}
	}
}

// PutNamespace says that the namespace exists.
func (e *Edit) PutNamespace(name string) {
	if e.next.HasNamespace(name) {
		return
	}
	e.next.namespaces = e.next.namespaces.put(name, struct{}{})
	e.touch(Namespaces, Name{Name: name})
}

// LabelNamespace says that the namespace exists and has exactly these labels.
func (e *Edit) LabelNamespace(name string, labels map[string]string) {
	e.PutNamespace(name)
	if maps.Equal(e.next.NamespaceLabels(name), labels) {
		return
	}
	if len(labels) == 0 {
		e.next.namespaceLabels = e.next.namespaceLabels.delete(name)
	} else {
		e.next.namespaceLabels = e.next.namespaceLabels.put(name, labels)
	}
	e.touch(Namespaces, Name{Name: name})
}

// LeaveNamespace says whether the namespace is being deleted.
func (e *Edit) LeaveNamespace(name string, leaving bool) {
	switch {
	case leaving == e.next.NamespaceLeaving(name):
		return
	case leaving:
		e.next.leaving = e.next.leaving.put(name, struct{}{})
	default:
		e.next.leaving = e.next.leaving.delete(name)
	}
	e.touch(Namespaces, Name{Name: name})
}

// DeleteNamespace says that the namespace does not exist; objects in it stay until they are deleted themselves.
func (e *Edit) DeleteNamespace(name string) {
	if !e.next.HasNamespace(name) {
		return
	}
	e.next.namespaces = e.next.namespaces.delete(name)
	e.next.namespaceLabels = e.next.namespaceLabels.delete(name)
	e.next.leaving = e.next.leaving.delete(name)
	e.touch(Namespaces, Name{Name: name})
}

// PutPod adds a pod or replaces the one of that name.
func (e *Edit) PutPod(pod *Pod) {
	old := e.next.Pod(pod.Name)
	if old != nil && old.equal(pod) {
		return
	}
	e.unindexPod(old)
	e.next.pods = e.next.pods.put(pod.Name, pod)
	if pod.hasNetwork() && !e.next.namesOnly {
		for _, addr := range pod.Addrs {
			e.next.podIPs = addName(e.next.podIPs, addr, pod.Name)
		}
	}
	e.touch(Pods, pod.Name)
}

// DeletePod removes a pod.
func (e *Edit) DeletePod(name Name) {
	old := e.next.Pod(name)
	if old == nil {
		return
	}
	e.unindexPod(old)
	e.next.pods = e.next.pods.delete(name)
	e.touch(Pods, name)
}

func (e *Edit) unindexPod(pod *Pod) {
	if pod == nil || !pod.hasNetwork() || e.next.namesOnly {
		return
	}
	for _, addr := range pod.Addrs {
		e.next.podIPs = removeName(e.next.podIPs, addr, pod.Name)
	}
}

// MarkSynced says that every kind has been listed.
func (e *Edit) MarkSynced() {
	if !e.next.synced {
		e.next.synced, e.synced = true, true
	}
}

// MarkPolicySynced says that every kind that is read for policies has been listed.
func (e *Edit) MarkPolicySynced() {
	if !e.next.policySynced {
		e.next.policySynced, e.policySynced = true, true
	}
}

func compareSlices(a, b *EndpointSlice) int {
	if c := strings.Compare(a.Name.Name, b.Name.Name); c != 0 {
		return c
	}
	return strings.Compare(a.Name.Namespace, b.Name.Namespace)
}

func (s *EndpointSlice) addrs() map[netip.Addr]struct{} {
	if s == nil {
		return nil
	}
	addrs := make(map[netip.Addr]struct{}, len(s.Endpoints))
	for i := range s.Endpoints {
		addrs[s.Endpoints[i].Addr] = struct{}{}
	}
	return addrs
}

func addName(m cowMap[netip.Addr, []Name], addr netip.Addr, name Name) cowMap[netip.Addr, []Name] {
	names, _ := m.get(addr)
	return m.put(addr, withName(names, name))
}

func removeName(m cowMap[netip.Addr, []Name], addr netip.Addr, name Name) cowMap[netip.Addr, []Name] {
	names, _ := m.get(addr)
	if names = withoutName(names, name); len(names) > 0 {
		return m.put(addr, names)
	}
	return m.delete(addr)
}
