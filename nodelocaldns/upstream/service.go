package upstream

import (
	"cmp"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/nearpath/nearpath/internal/cluster"
)

// followEvery is how often a Snapshot is looked at when nobody asks anything; each question looks before.
const followEvery = time.Second

// servicePort is the port of a Service that its DNS servers have.
const servicePort = 53

func (u *Upstream) watchServices() {
	ticker := time.NewTicker(followEvery)
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
			u.follow()
		case <-u.life.Done():
			return
		}
	}
}

// follow makes the members those of the newest Snapshot. It costs nothing when that has been seen.
func (u *Upstream) follow() {
	var s *cluster.Snapshot
	if u.Snapshot != nil {
		s = u.Snapshot()
		if u.seen.Load() == s {
			return
		}
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.life.Err() != nil {
		return // Close gives back what is there
	}
	u.replace(u.wanted(s))
	u.seen.Store(s)
}

// A place is where a member is asked.
type place struct {
	addr      netip.AddrPort
	transport Transport
}

func (u *Upstream) wanted(s *cluster.Snapshot) []place {
	var all []place
	add := func(p place) {
		if p.addr.IsValid() && !slices.Contains(all, p) {
			all = append(all, p)
		}
	}
	for _, t := range u.Targets {
		add(place{t.Addr, t.Transport})
		if t.Addr == (netip.AddrPort{}) && s != nil {
			for _, addr := range serviceEndpoints(s, t.Service, t.Transport) {
				add(place{addr, t.Transport})
			}
		}
	}
	return all
}

// replace keeps members that stay, takes new ones before it gives old ones back, and leaves the list that readers hold as
// it is. The caller holds mu.
func (u *Upstream) replace(wanted []place) {
	old := *u.members.Load()
	next := make([]*member, 0, len(wanted))
	for _, w := range wanted {
		i := slices.IndexFunc(old, func(m *member) bool { return m.addr == w.addr && m.transport == w.transport })
		if i >= 0 {
			next = append(next, old[i])
		} else {
			next = append(next, &member{endpoint: u.Pool.acquire(w.addr, u.settings(w.transport), u.Metrics)})
		}
	}
	u.members.Store(&next)
	for _, m := range old {
		if !slices.Contains(next, m) {
			u.Metrics.looped.DeleteLabelValues(m.addr.String(), u.Zone)
			u.Pool.release(m.endpoint)
		}
	}
}

// serviceEndpoints are the ready endpoints of a Service; without any, those that still serve while they end, as for
// kube-proxy. A pod with two addresses counts once, by the Service's first family.
func serviceEndpoints(s *cluster.Snapshot, name cluster.Name, t Transport) []netip.AddrPort {
	svc := s.Service(name)
	var ready, serving []netip.AddrPort
	for _, slice := range s.Slices(name) {
		port, ok := slicePort(svc, slice, t)
		if !ok {
			continue
		}
		for i := range slice.Endpoints {
			switch e := &slice.Endpoints[i]; {
			case e.Ready:
				ready = append(ready, netip.AddrPortFrom(e.Addr, port))
			case e.Serving:
				serving = append(serving, netip.AddrPortFrom(e.Addr, port))
			}
		}
	}
	found := ready
	if len(found) == 0 {
		found = serving
	}
	return oneFamily(svc, found)
}

func oneFamily(svc *cluster.Service, found []netip.AddrPort) []netip.AddrPort {
	slices.SortFunc(found, netip.AddrPort.Compare)
	found = slices.Compact(found)
	v4 := true
	if svc != nil && len(svc.ClusterIPs) > 0 {
		v4 = svc.ClusterIPs[0].Is4()
	}
	first := slices.DeleteFunc(slices.Clone(found), func(a netip.AddrPort) bool { return a.Addr().Is4() != v4 })
	if len(first) > 0 {
		return first
	}
	return found
}

// slicePort is the port of a slice that stands behind port 53 of the Service, by the name they share. Without the Service
// it is the one that is called dns, or the only one.
func slicePort(svc *cluster.Service, slice *cluster.EndpointSlice, t Transport) (uint16, bool) {
	protocol := cluster.TCP
	if t == UDPFirst {
		protocol = cluster.UDP
	}
	if svc != nil {
		i := slices.IndexFunc(svc.Ports, func(p cluster.ServicePort) bool { return p.Port == servicePort && p.Protocol == protocol })
		if i < 0 {
			return 0, false
		}
		return portNamed(slice, protocol, func(name string) bool { return name == svc.Ports[i].Name })
	}
	port, ok := portNamed(slice, protocol, func(name string) bool { return strings.HasPrefix(name, "dns") })
	if !ok && len(slice.Ports) == 1 {
		return portNamed(slice, protocol, func(string) bool { return true })
	}
	return port, ok
}

func portNamed(slice *cluster.EndpointSlice, protocol cluster.Protocol, is func(string) bool) (uint16, bool) {
	for _, p := range slice.Ports {
		if p.Protocol == protocol && is(p.Name) {
			return cmp.Or(p.Port, servicePort), true
		}
	}
	return 0, false
}
