package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"slices"

	"github.com/containernetworking/plugins/pkg/ns"

	"github.com/nearpath/nearpath/bpf"
	"github.com/nearpath/nearpath/cni"
	"github.com/nearpath/nearpath/internal/agentapi"
	"github.com/nearpath/nearpath/internal/cluster"
	"github.com/nearpath/nearpath/internal/service"
	"github.com/nearpath/nearpath/ipam"
)

// linkPrograms is what attaches programs to links of the calling thread's network namespace; *bpf.Datapath does.
type linkPrograms interface {
	AttachLink(role bpf.Role, index int, pod ...netip.Addr) error
	LinkAttached(role bpf.Role, index int) (bool, error)
	DetachLink(role bpf.Role, index int) error
}

// podMap is the datapath's table of pods; *bpf.Pods is one.
type podMap interface {
	Put(bpf.Pod) error
	Delete([]netip.Addr) error
	Lookup(netip.Addr) (bpf.Pod, bool, error)
}

// hostPorts serves ports of the node; *service.Reconciler does.
type hostPorts interface {
	SetHostPorts(ctx context.Context, pod []netip.Addr, ports []service.HostPort) error
	HasHostPorts(pod []netip.Addr, ports []service.HostPort) (bool, error)
	RemoveHostPorts(ctx context.Context, pod []netip.Addr) error
}

// podGate has a pod's policies enforced before it may send, and forgets pods; *policySync does.
type podGate interface {
	admit(ctx context.Context, p localPod, kept bool) error
	dismiss(addrs []netip.Addr)
}

// openGate is for agents that enforce no policies.
type openGate struct{}

func (openGate) admit(context.Context, localPod, bool) error { return nil }
func (openGate) dismiss([]netip.Addr)                        {}

// kernelPods lets CNI tell the datapath of pods.
type kernelPods struct {
	programs linkPrograms
	pods     podMap
	ports    hostPorts
	// warn tells the pod that has the addresses of what it does not get.
	warn func(addrs []netip.Addr, reason, message string)
	// parent finds the link that a link on the node is a slave of, 0 when there is none.
	parent func(index int) (int, error)
	// linked are the pods whose links have programs; see podLinks.
	linked *podLinks
	// scopes are how pods search.
	scopes *dnsScopes
	policy podGate
}

// Add puts the pod into the map before its links get programs, which look it up, has its policies in place by then, too, and
// leads ports of the node to it when it can answer.
func (p *kernelPods) Add(ctx context.Context, e cni.PodEntry) error {
	parent, err := p.parentOf(e)
	if err != nil {
		return err
	}
	kept, err := p.knew(e)
	if err != nil {
		return err
	}
	err = p.pods.Put(bpf.Pod{
		Addrs: e.Addrs, NetNSCookie: e.NetNSCookie, Link: e.Link, Side: e.Side, Slot: e.Slot, Parent: parent,
		ByPackets: e.ByPackets, Guarded: guarded(e), Scope: p.scopes.Bind(e),
	})
	if err != nil {
		return err
	}
	p.scopes.Mapped(e)
	if err := p.admit(ctx, e, kept); err != nil {
		return err
	}
	attach := func(role bpf.Role, index int) error { return p.programs.AttachLink(role, index, e.Addrs...) }
	if err := eachLink(e, attach); err != nil {
		return err
	}
	p.linked.remember(e)
	err = p.ports.SetHostPorts(ctx, e.Addrs, portsOf(e))
	if errors.Is(err, service.ErrConflict) {
		p.warn(e.Addrs, "HostPortConflict", err.Error())
		// Whoever has the port may go; until then the pod must not seem to serve it.
		return &agentapi.CNIError{Code: tryAgainLater, Msg: "a port of the node is taken", Details: err.Error()}
	}
	return err
}

// knew says whether the kernel has this very pod already.
func (p *kernelPods) knew(e cni.PodEntry) (bool, error) {
	if len(e.Addrs) == 0 {
		return false, nil
	}
	have, ok, err := p.pods.Lookup(e.Addrs[0])
	return ok && have.NetNSCookie == e.NetNSCookie, err
}

// admit has the pod's policies enforced under the number that it has now.
func (p *kernelPods) admit(ctx context.Context, e cni.PodEntry, kept bool) error {
	if len(e.Addrs) == 0 {
		return nil
	}
	have, _, err := p.pods.Lookup(e.Addrs[0])
	if err != nil {
		return err
	}
	return p.policy.admit(ctx, localPod{Ref: e.Pod, Addrs: e.Addrs, Number: have.Number}, kept)
}

// Remove tries all of it, so that as little as possible is left. What is known of the pod by its address goes first.
func (p *kernelPods) Remove(ctx context.Context, e cni.PodEntry) error {
	p.scopes.Unbind(e)
	p.linked.forget(e)
	portsErr := p.ports.RemoveHostPorts(ctx, e.Addrs)
	err := eachLink(e, p.programs.DetachLink)
	if isGone(err) {
		err = nil
	}
	p.policy.dismiss(e.Addrs) // before its number can be another's
	return errors.Join(portsErr, err, p.pods.Delete(e.Addrs))
}

func (p *kernelPods) Has(_ context.Context, e cni.PodEntry) (bool, error) {
	parent, err := p.parentOf(e)
	if err != nil {
		return false, err
	}
	for _, a := range e.Addrs {
		have, ok, err := p.pods.Lookup(a)
		if err != nil || !ok || !sameEntry(have, e) || e.Link != 0 && have.Parent != parent {
			return false, err
		}
	}
	all := len(e.Addrs) > 0
	err = eachLink(e, func(role bpf.Role, index int) error {
		ok, err := p.programs.LinkAttached(role, index)
		all = all && ok
		return err
	})
	if !all || err != nil {
		return false, err
	}
	if !p.scopes.Has(e) {
		return false, nil
	}
	return p.ports.HasHostPorts(e.Addrs, portsOf(e))
}

// parentOf is the index of the link that the pod's packets come by first.
func (p *kernelPods) parentOf(e cni.PodEntry) (int, error) {
	if e.Datapath != cni.IPVlan || e.Link == 0 {
		return e.Link, nil
	}
	return p.parent(e.Link)
}

func portsOf(e cni.PodEntry) []service.HostPort {
	ports := make([]service.HostPort, 0, len(e.HostPorts))
	for _, h := range e.HostPorts {
		ports = append(ports, service.HostPort(h))
	}
	return ports
}

// isGone says that a pod's namespace, and with it its links, is gone.
func isGone(err error) bool {
	return errors.As(err, new(ns.NSPathNotExistErr)) || errors.As(err, new(ns.NSPathNotNSErr)) || errors.Is(err, fs.ErrNotExist)
}

// sameEntry compares what the entry says; 0 is not known.
func sameEntry(have bpf.Pod, e cni.PodEntry) bool {
	return have.NetNSCookie == e.NetNSCookie &&
		(e.Link == 0 || have.Link == e.Link) && have.Side == e.Side && have.Slot == e.Slot &&
		(have.ByPackets == e.ByPackets && have.Guarded == guarded(e) || e.NetNSCookie == 0)
}

// guarded says whether programs of the pod's links are in its own namespace, where raw sockets could send past them.
func guarded(e cni.PodEntry) bool { return e.Datapath == cni.IPVlan || e.Datapath == cni.Exclusive }

// eachLink calls f for each link that is the pod's alone, in the link's namespace. The companion of an ENI is shared, and the
// host network sees to it.
func eachLink(e cni.PodEntry, f func(bpf.Role, int) error) error {
	var errs []error
	if e.Link != 0 && e.Datapath != cni.IPVlan {
		errs = append(errs, f(bpf.PodLink, e.Link))
	}
	role, index := bpf.ExclusiveENI, e.ENI
	if e.Datapath == cni.IPVlan {
		role, index = bpf.IPVlanSlave, e.Slave
	}
	if index != 0 && e.NetNS != "" {
		err := ns.WithNetNSPath(e.NetNS, func(ns.NetNS) error { return f(role, index) })
		if err != nil {
			err = fmt.Errorf("in %s: %w", e.NetNS, err)
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// podWith is the pod that has an address, the node if none has.
func podWith(leases []ipam.Lease, addrs []netip.Addr) cluster.Object {
	for _, l := range leases {
		if l.Pod.Name != "" && slices.ContainsFunc(l.Addrs, func(a netip.Addr) bool { return slices.Contains(addrs, a) }) {
			return objectOf(cni.PodRef{Namespace: l.Pod.Namespace, Name: l.Pod.Name, UID: l.Pod.UID})
		}
	}
	return cluster.Object{}
}
