package policy

import (
	"iter"
	"maps"
	"net/netip"
	"slices"

	"github.com/nearpath/nearpath/internal/cluster"
)

// A world is a Snapshot, and what the node knows besides. The compiler holds a copy that changes no more.
type world struct {
	snapshot  *cluster.Snapshot
	locals    map[uint16]*LocalPod
	policies  map[Ref]*Policy
	held      map[Ref]struct{}    // policies that are no more, but are in force for pods that are
	left      map[string]struct{} // namespaces of pods of this node that are being deleted, or are gone after that
	tiers     []Tier
	listeners []Listener
	domain    func(string) []netip.Addr
}

// at is the world for a compiler, which reads maps only while it is updated.
func (w *world) at() *world { one := *w; return &one }

func (w *world) Pod(name cluster.Name) *cluster.PolicyPod { return w.snapshot.PolicyPod(name) }
func (w *world) Pods() iter.Seq[*cluster.PolicyPod]       { return w.snapshot.PolicyPods() }
func (w *world) Owner(addr netip.Addr) *cluster.PolicyPod { return w.snapshot.PolicyPodByIP(addr) }
func (w *world) HasNamespace(name string) bool            { return w.snapshot.HasNamespace(name) }
func (w *world) NamespaceLabels(name string) map[string]string {
	return w.snapshot.NamespaceLabels(name)
}
func (w *world) Nodes() iter.Seq[*cluster.PolicyNode] { return w.snapshot.PolicyNodes() }
func (w *world) Policy(ref Ref) *Policy               { return w.policies[ref] }
func (w *world) Policies() iter.Seq[*Policy]          { return maps.Values(w.policies) }
func (w *world) Tiers() []Tier                        { return w.tiers }
func (w *world) Local(number uint16) *LocalPod        { return w.locals[number] }
func (w *world) Locals() iter.Seq[*LocalPod]          { return maps.Values(w.locals) }
func (w *world) Listeners() []Listener                { return w.listeners }

func (w *world) Domain(name string) []netip.Addr {
	if w.domain == nil {
		return nil
	}
	return w.domain(name)
}

func calicoRef(name cluster.Name) Ref {
	if name.Namespace == "" {
		return Ref{kindCalicoGlobal, name}
	}
	return Ref{kindCalicoPolicy, name}
}

// translate returns the policy as the Snapshot has it, nil for none.
func (w *world) translate(ref Ref) *Policy {
	switch ref.Kind {
	case kindNetworkPolicy:
		if in := w.snapshot.NetworkPolicy(ref.Name); in != nil {
			return FromNetworkPolicy(in)
		}
	case kindClusterNetworkPolicy:
		if in := w.snapshot.ClusterNetworkPolicy(ref.Name.Name); in != nil {
			return FromClusterNetworkPolicy(in)
		}
	case kindCalicoPolicy, kindCalicoGlobal:
		if in := w.snapshot.CalicoPolicy(ref.Name); in != nil {
			return FromCalicoPolicy(in, w.calicoSets())
		}
	}
	return nil
}

func (w *world) translateAll() (all []*Policy) {
	for in := range w.snapshot.NetworkPolicies() {
		all = append(all, FromNetworkPolicy(in))
	}
	for in := range w.snapshot.ClusterNetworkPolicies() {
		all = append(all, FromClusterNetworkPolicy(in))
	}
	sets := w.calicoSets()
	for in := range w.snapshot.CalicoPolicies() {
		all = append(all, FromCalicoPolicy(in, sets))
	}
	return all
}

func (w *world) calicoSets() CalicoSets {
	return CalicoSets{Sets: slices.Collect(w.snapshot.CalicoNetworkSets()), NamespaceLabels: w.snapshot.NamespaceLabels}
}

// retier reports whether the tiers are others than before.
func (w *world) retier() bool {
	old := w.tiers
	w.tiers = WithCalicoTiers(slices.Collect(w.snapshot.CalicoTiers()), slices.Collect(w.snapshot.CalicoPolicies()))
	slices.SortFunc(w.tiers, func(a, b Tier) int { return comparePlaces(a, b) })
	return !slices.Equal(old, w.tiers)
}

// watch remembers which namespaces of this node's pods are on their way out. One that is merely gone is not meant: where manifests
// have no Namespaces, a namespace is there as long as anything is in it.
func (w *world) watch() {
	old := w.left
	w.left = map[string]struct{}{}
	for _, local := range w.locals {
		namespace := local.Name.Namespace
		_, left := old[namespace]
		if w.snapshot.NamespaceLeaving(namespace) || left && !w.snapshot.HasNamespace(namespace) {
			w.left[namespace] = struct{}{}
		}
	}
}

// leaving reports whether the namespace is about to go, or has gone so, and pods of it run here.
func (w *world) leaving(namespace string) bool {
	if _, left := w.left[namespace]; !left {
		return false
	}
	for _, local := range w.locals {
		if local.Name.Namespace == namespace {
			return true
		}
	}
	return false
}

// relisten finds the backends of the cluster's DNS Service, and reports whether they are others than before. If there are none, those
// that were known stay: what they allow is what the node's own answers are allowed by.
func (w *world) relisten(config *Config) bool {
	old := w.listeners
	w.listeners = nil
	for _, addr := range config.Listeners {
		l := Listener{Addr: addr, Backends: w.backends(config.DNSService, addr.Is4())}
		i := slices.IndexFunc(old, func(o Listener) bool { return o.Addr == addr })
		if len(l.Backends) == 0 && i >= 0 {
			l.Backends = old[i].Backends
		}
		w.listeners = append(w.listeners, l)
	}
	return !slices.EqualFunc(old, w.listeners, func(a, b Listener) bool {
		return a.Addr == b.Addr && slices.Equal(a.Backends, b.Backends)
	})
}

// backends are where port 53 of the Service leads, ready or not: of the family, or of both if it has none of that one for the protocol.
func (w *world) backends(name cluster.Name, v4 bool) (all []Backend) {
	service := w.snapshot.Service(name)
	if service == nil {
		return nil
	}
	const dns = 53
	for _, port := range service.Ports {
		if port.Port != dns {
			continue
		}
		behind := w.behind(name, port)
		same := slices.DeleteFunc(slices.Clone(behind), func(b Backend) bool { return b.Addr.Is4() != v4 })
		if len(same) == 0 {
			same = behind
		}
		all = append(all, same...)
	}
	return all
}

// behind are the backends of a port of a Service.
func (w *world) behind(name cluster.Name, port cluster.ServicePort) (all []Backend) {
	for _, slice := range w.snapshot.Slices(name) {
		for _, target := range slice.Ports {
			if target.Name != port.Name || target.Protocol != port.Protocol {
				continue
			}
			for i := range slice.Endpoints {
				all = append(all, Backend{slice.Endpoints[i].Addr, port.Protocol, port.Port, target.Port})
			}
		}
	}
	return all
}
