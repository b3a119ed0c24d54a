package service

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"

	"github.com/nearpath/nearpath/bpf"
	"github.com/nearpath/nearpath/internal/cluster"
)

// A HostPort is a port of the node that leads to a port of one pod.
type HostPort struct {
	// HostIP is the address of the node that answers; the zero value is any, an unspecified one any of its family.
	HostIP netip.Addr
	// HostPort and ContainerPort are in host order and not 0.
	HostPort, ContainerPort uint16
	// Protocol is an IP protocol number: TCP, UDP or SCTP.
	Protocol uint8
}

func (h HostPort) String() string {
	at := "*"
	if h.HostIP.IsValid() {
		at = h.HostIP.String()
	}
	return fmt.Sprintf("host port %s:%d/%s", at, h.HostPort, cluster.Protocol(h.Protocol))
}

// ErrConflict matches every [ConflictError].
var ErrConflict = errors.New("somebody else has this port of the node")

// A ConflictError says that a frontend has an owner already.
type ConflictError struct {
	// Wanted is what was not served.
	Wanted PortID
	// Frontend is where it was to be reached.
	Frontend bpf.Frontend
	// Owner has it; it is the zero value for a Service of before the agent's start whose name is not known yet.
	Owner PortID

	byKind bool // the owner's claim is of a kind that comes first
}

func (e *ConflictError) Error() string {
	owner, why := "a Service", ""
	if e.Owner != (PortID{}) {
		owner = e.Owner.String()
	}
	switch {
	case e.byKind && !isPod(e.Wanted.Service):
		why = " as another kind of address, which comes first"
	case !isPod(e.Wanted.Service):
		why = " and is older"
	case !isPod(e.Owner.Service) || e.Owner == (PortID{}):
		why = ", and Services come before host ports"
	}
	return fmt.Sprintf("serve %s at %s: %s has it%s", e.Wanted, e.Frontend, owner, why)
}

// Unwrap makes errors.Is(err, ErrConflict) true.
func (e *ConflictError) Unwrap() error { return ErrConflict }

// A pod has a place among the Services of a table under a name that no Service has: its address, in no namespace. Each
// of its addresses is on its own, as families are.
func podName(pod netip.Addr) cluster.Name { return cluster.Name{Name: pod.String()} }

// isPod reports whether podName made the name.
func isPod(name cluster.Name) bool { return name.Namespace == "" }

// hostPorts are the Ports of the host ports that lead to one address of a pod. Those with a host address of the other
// family are left out: they are for the pod's other address, if it has one.
func hostPorts(pod netip.Addr, ports []HostPort) ([]Port, error) {
	byFrontend := map[bpf.Frontend]HostPort{}
	var out []Port
	for _, h := range ports {
		if err := h.check(); err != nil {
			return nil, err
		}
		f, ok := h.frontend(pod)
		if !ok {
			continue
		}
		if same, ok := byFrontend[f]; ok {
			if same.ContainerPort == h.ContainerPort {
				continue
			}
			return nil, fmt.Errorf("%s: leads to the container's ports %d and %d", h, same.ContainerPort, h.ContainerPort)
		}
		byFrontend[f] = h
		out = append(out, portOf(f, netip.AddrPortFrom(pod, h.ContainerPort)))
	}
	slices.SortFunc(out, func(a, b Port) int { return compareID(a.ID, b.ID) })
	return out, nil
}

func (h HostPort) check() error {
	if h.HostPort == 0 || h.ContainerPort == 0 {
		return fmt.Errorf("%s to port %d: 0 is not a port", h, h.ContainerPort)
	}
	if p := cluster.Protocol(h.Protocol); p != cluster.TCP && p != cluster.UDP && p != cluster.SCTP {
		return fmt.Errorf("%s: host ports are TCP, UDP or SCTP", h)
	}
	return nil
}

// frontend is where the host port is reached, false if that is in another family than the pod's address.
func (h HostPort) frontend(pod netip.Addr) (bpf.Frontend, bool) {
	at := h.HostIP.Unmap().WithZone("")
	if !at.IsValid() {
		at = wildcard(pod.Is6())
	}
	return bpf.Frontend{Addr: netip.AddrPortFrom(at, h.HostPort), Protocol: h.Protocol}, at.Is6() == pod.Is6()
}

// portOf is the Port of a host port. Its only backend is on this node and sees its clients' addresses, as it would
// without a proxy.
func portOf(f bpf.Frontend, to netip.AddrPort) Port {
	return Port{
		ID: PortID{
			Service: podName(to.Addr()), Protocol: cluster.Protocol(f.Protocol), Port: f.Addr.Port(), IPv6: to.Addr().Is6(),
			Host: f.Addr.Addr(),
		},
		Frontends: []Frontend{{f, bpf.HostPort}},
		Block:     bpf.Block{Cluster: []netip.AddrPort{to}, Local: []netip.AddrPort{to}, ExternalLocal: true},
	}
}

// wildcard is the address of a frontend that answers on every address of the node.
func wildcard(v6 bool) netip.Addr {
	if v6 {
		return netip.IPv6Unspecified()
	}
	return netip.IPv4Unspecified()
}

// anyAddress is the wildcard over a frontend.
func anyAddress(f bpf.Frontend) bpf.Frontend {
	f.Addr = netip.AddrPortFrom(wildcard(f.Addr.Addr().Is6()), f.Addr.Port())
	return f
}

// adoptHostPorts finds the host ports among what the maps hold: their blocks say which pod they lead to. What is not
// whole is left to be dropped as a stranger.
func (t *table) adoptHostPorts() {
	for f, e := range t.frontends {
		if e.kind != bpf.HostPort || t.owned[e.record] {
			continue
		}
		b := t.blocks[e.record]
		if len(b.Cluster) != 1 || b.Cluster[0].Addr().Is6() != f.Addr.Addr().Is6() {
			continue
		}
		port := portOf(f, b.Cluster[0])
		name := port.ID.Service
		t.put(name, append(t.services[name], port))
		t.records[port.ID], t.owned[e.record], t.owners[f] = e.record, true, port.ID
	}
	for _, ports := range t.pods() {
		slices.SortFunc(ports, func(a, b Port) int { return compareID(a.ID, b.ID) })
	}
}

// pods are the names of the pods that have host ports.
func (t *table) pods() map[cluster.Name][]Port {
	pods := map[cluster.Name][]Port{}
	for name := range t.hosting {
		pods[name] = t.services[name]
	}
	return pods
}

func (t *table) put(name cluster.Name, ports []Port) {
	t.services[name] = ports
	if isPod(name) {
		t.hosting[name] = true
	}
}

// conflict is the error for host ports of which one is somebody else's. Services are served wherever their nodes'
// ports are asked for, so a wildcard of one leaves nothing of that port for host ports with an address; host ports
// meet each other as the scheduler and the kubelet have it: any address and a certain one exclude each other.
func (t *table) conflict(ports []Port) error {
	for _, p := range ports {
		f := p.Frontends[0].Frontend
		for _, at := range []bpf.Frontend{f, anyAddress(f)} {
			if owner, ok := t.ownerOf(at); ok && owner.Service != p.ID.Service {
				return &ConflictError{Wanted: p.ID, Frontend: f, Owner: owner}
			}
		}
		if other, ok := t.below(p); ok {
			return &ConflictError{Wanted: p.ID, Frontend: f, Owner: other}
		}
	}
	return nil
}

// below finds a host port of another pod on one of the addresses that p is to have all of.
func (t *table) below(p Port) (PortID, bool) {
	f := p.Frontends[0].Frontend
	for _, name := range slices.SortedFunc(maps.Keys(t.pods()), compareNames) {
		for _, other := range t.services[name] {
			if name != p.ID.Service && f == anyAddress(other.Frontends[0].Frontend) {
				return other.ID, true
			}
		}
	}
	return PortID{}, false
}

// ownerOf tells who has a frontend. A Service of before the agent's start has no name until it has been seen.
func (t *table) ownerOf(f bpf.Frontend) (PortID, bool) {
	if owner, ok := t.owners[f]; ok {
		return owner, true
	}
	e, ok := t.frontends[f]
	return PortID{}, ok && e.kind != bpf.HostPort
}

func compareNames(a, b cluster.Name) int {
	return cmp.Or(cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name))
}
