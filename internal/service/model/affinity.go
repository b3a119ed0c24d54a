package model

import (
	"net/netip"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
)

// An AffinityKey is a client of a Service port and of one of its lists. Its address says the family.
type AffinityKey struct {
	Port   PortRef
	Client netip.Addr
	Local  bool
	// via is where it connected to, as a mutation.
	via netip.AddrPort
}

// An AffinityEntry is the backend that a client had last.
type AffinityEntry struct {
	Backend netip.AddrPort
	Used    time.Duration // when it last connected
	timeout time.Duration // then
}

// Affinity is which client has which backend: state that a caller keeps from one connection to the next.
type Affinity map[AffinityKey]AffinityEntry

// Connect is Decide for a client that may have a backend already (F1 to F5).
func (r Rules) Connect(w *World, p Probe, have Affinity, now time.Duration) Verdict {
	v, svc := r.decide(w, p)
	if v.Outcome != Forward {
		return v
	}
	timeout := timeoutOf(svc)
	if timeout == 0 {
		return v
	}
	for _, key := range r.affinityKeys(p, v) {
		e, ok := have[key]
		timeout := timeout
		if r.Breaks("F5") && ok {
			timeout = e.timeout
		}
		if !ok || now-e.Used >= timeout {
			continue
		}
		if v, ok = r.keep(w, svc, v, e); ok {
			return v
		}
	}
	return v
}

// keep has a client keep its backend, if the list that it chooses from has it.
func (r Rules) keep(w *World, svc *corev1.Service, v Verdict, e AffinityEntry) (Verdict, bool) {
	for _, b := range v.Backends {
		if b.Addr == e.Backend {
			v.Backends, v.Rows = []Backend{b}, append(v.Rows, "F1")
			return v, true
		}
	}
	if r.Breaks("F1 removed") || r.Breaks("F4") && r.serves(w, svc, v, e.Backend) {
		v.Backends = []Backend{{Addr: e.Backend, Source: v.Backends[0].Source}}
		return v, true
	}
	v.Rows = append(v.Rows, "F4")
	return v, false
}

// Connected notes the backend that a client got by the verdict of Connect.
func (r Rules) Connected(w *World, p Probe, have Affinity, now time.Duration, v Verdict, backend netip.AddrPort) {
	for _, svc := range w.Services {
		timeout := timeoutOf(svc)
		if v.Outcome != Forward || svc.Namespace != v.Port.Namespace || svc.Name != v.Port.Name || timeout == 0 {
			continue
		}
		keys := r.affinityKeys(p, v)
		key := keys[0]
		// The entry that it came by starts anew; a choice is noted for the list that it was made from.
		for _, k := range keys {
			if e, ok := have[k]; ok && e.Backend == backend && now-e.Used < timeout {
				key = k
				break
			}
		}
		if e, ok := have[key]; ok && e.Backend == backend && r.Breaks("F1 timer") {
			continue
		}
		have[key] = AffinityEntry{Backend: backend, Used: now, timeout: timeout}
	}
}

// Changed forgets what does not outlive a change of the world: clients of ports that have no affinity any more (F5).
func (r Rules) Changed(w *World, have Affinity) {
	for key := range have {
		keeps := slices.ContainsFunc(w.Services, func(svc *corev1.Service) bool {
			return svc.Namespace == key.Port.Namespace && svc.Name == key.Port.Name && timeoutOf(svc) > 0 &&
				slices.ContainsFunc(svc.Spec.Ports, func(p corev1.ServicePort) bool {
					return p.Port == key.Port.Port && p.Protocol == key.Port.Protocol
				})
		})
		if !keeps && !r.Breaks("F5 off") {
			delete(have, key)
		}
	}
}

// affinityKeys are those that a client's backend may be found by, that of the list that it chooses from first: choices by
// the two lists of a port live side by side, and either counts for the other list if that has the backend, too.
func (r Rules) affinityKeys(p Probe, v Verdict) []AffinityKey {
	key := AffinityKey{Port: v.Port, Client: p.Client.Addr, Local: v.local}
	if r.Breaks("F1") {
		key.via = p.To
	}
	if r.Breaks("F2") && p.Client.Kind == LocalPod {
		key.Client = netip.IPv4Unspecified()
	}
	if r.Breaks("F2 ports") {
		key.Port.Port, key.Port.Protocol = 0, ""
	}
	if r.Breaks("F1 one") {
		key.Local = false
		return []AffinityKey{key}
	}
	other := key
	other.Local = !key.Local
	if r.Breaks("F1 lists") {
		return []AffinityKey{key}
	}
	return []AffinityKey{key, other}
}

// serves says whether a backend is in some list of what decided.
func (r Rules) serves(w *World, svc *corev1.Service, v Verdict, backend netip.AddrPort) bool {
	for i := range svc.Spec.Ports {
		port := &svc.Spec.Ports[i]
		if port.Port != v.Port.Port || port.Protocol != v.Port.Protocol {
			continue
		}
		lists := r.lists(w, svc, port, backend.Addr().Is6())
		return slices.Contains(lists.cluster, backend) || slices.Contains(lists.local, backend)
	}
	return false
}

func timeoutOf(svc *corev1.Service) time.Duration {
	if svc.Spec.SessionAffinity != corev1.ServiceAffinityClientIP {
		return 0
	}
	return time.Duration(*svc.Spec.SessionAffinityConfig.ClientIP.TimeoutSeconds) * time.Second
}
