package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"

	"github.com/containernetworking/plugins/pkg/ns"

	"github.com/nearpath/nearpath/bpf"
	"github.com/nearpath/nearpath/cni"
)

// linkPrograms is what attaches programs to links of the calling thread's network namespace; *bpf.Datapath does.
type linkPrograms interface {
	AttachLink(role bpf.Role, index int) error
	LinkAttached(role bpf.Role, index int) (bool, error)
	DetachLink(role bpf.Role, index int) error
}

// podMap is the datapath's table of pods; *bpf.Pods is one.
type podMap interface {
	Put(bpf.Pod) error
	Delete([]netip.Addr) error
	Lookup(netip.Addr) (bpf.Pod, bool, error)
}

// kernelPods lets CNI tell the datapath of pods.
type kernelPods struct {
	programs linkPrograms
	pods     podMap
}

// Add puts the pod into the map before its links get programs: these look it up.
func (p kernelPods) Add(_ context.Context, e cni.PodEntry) error {
	err := p.pods.Put(bpf.Pod{
		Addrs: e.Addrs, NetNSCookie: e.NetNSCookie, HostNSID: e.HostNSID, Link: e.Link, Side: e.Side, Slot: e.Slot,
	})
	if err != nil {
		return err
	}
	return p.eachLink(e, p.programs.AttachLink)
}

// Remove tries all of it, so that as little as possible is left.
func (p kernelPods) Remove(_ context.Context, e cni.PodEntry) error {
	err := p.eachLink(e, p.programs.DetachLink)
	if errors.As(err, new(ns.NSPathNotExistErr)) || errors.As(err, new(ns.NSPathNotNSErr)) || errors.Is(err, fs.ErrNotExist) {
		err = nil // the links are gone with the namespace
	}
	return errors.Join(err, p.pods.Delete(e.Addrs))
}

func (p kernelPods) Has(_ context.Context, e cni.PodEntry) (bool, error) {
	for _, a := range e.Addrs {
		have, ok, err := p.pods.Lookup(a)
		if err != nil || !ok || !sameEntry(have, e) {
			return false, err
		}
	}
	all := len(e.Addrs) > 0
	err := p.eachLink(e, func(role bpf.Role, index int) error {
		ok, err := p.programs.LinkAttached(role, index)
		all = all && ok
		return err
	})
	return all && err == nil, err
}

// sameEntry compares what the entry says; 0 is not known.
func sameEntry(have bpf.Pod, e cni.PodEntry) bool {
	return have.NetNSCookie == e.NetNSCookie && (have.HostNSID == e.HostNSID || e.NetNSCookie == 0) &&
		(e.Link == 0 || have.Link == e.Link) && have.Side == e.Side && have.Slot == e.Slot
}

// eachLink calls f for each link that is the pod's alone, in the link's namespace. The companion of an ENI is shared, and the
// host network sees to it.
func (p kernelPods) eachLink(e cni.PodEntry, f func(bpf.Role, int) error) error {
	var errs []error
	if e.Link != 0 && e.Datapath != cni.IPVlan {
		errs = append(errs, f(bpf.PodLink, e.Link))
	}
	if e.ENI != 0 && e.NetNS != "" {
		err := ns.WithNetNSPath(e.NetNS, func(ns.NetNS) error { return f(bpf.ExclusiveENI, e.ENI) })
		if err != nil {
			err = fmt.Errorf("in %s: %w", e.NetNS, err)
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}
