package cni

import (
	"context"
	"fmt"

	"github.com/containernetworking/cni/pkg/types"

	"github.com/nearpath/nearpath/internal/agentapi"
)

// del takes a container apart. Everything is found by the key, so neither the namespace nor a previous result is needed,
// and what is not there is no error.
func (s *Server) del(ctx context.Context, r agentapi.CNIRequest) error {
	conf, err := parseForTeardown(r.Config)
	if err != nil {
		return failure(types.ErrInvalidNetworkConfig, "read network configuration", err)
	}
	// CNI_ARGS are not needed, and one that cannot be read must not keep the pod's address leased.
	r.Args = ""
	a, err := attachmentOf(r, conf.Name)
	if err != nil {
		return err
	}
	return s.remove(ctx, a)
}

func (s *Server) remove(ctx context.Context, a Attachment) error {
	release, err := s.locks.take(ctx, a.Key)
	if err != nil {
		return failure(types.ErrTryAgainLater, "delete container", err)
	}
	defer release()
	return s.removeLocked(ctx, a)
}

func (s *Server) removeLocked(ctx context.Context, a Attachment) error {
	r, known := s.recordOf(a.Key)
	lease, leased := s.config.Addresses.Lookup(a.Key)
	n, entry := s.approach(a, r, known)
	if n.pod != nil {
		defer n.pod.Close()
	}
	w := r.wiring(lease)
	w.Key = a.Key
	switch {
	case known && !leased:
		w.Lease = Lease{Addrs: r.Addrs, Slot: r.Slot, MAC: r.MAC}
	case leased && !known && lease.Exclusive:
		w.Datapath = Exclusive
	case !leased && !known:
		addrs, err := addressesBehind(s.host, a.HostLink())
		if err != nil {
			return err
		}
		w.Lease.Addrs = addrs
	}
	entry.Addrs = w.Lease.Addrs
	if err := s.dismantle(ctx, n, w, entry); err != nil {
		return err
	}
	if len(entry.Addrs) > 0 {
		s.log.Info("pod deleted", "container", a.ContainerID, "ips", entry.Addrs)
	}
	return nil
}

// recordOf reads the record of a key. One that cannot be read is as none: it says so and is overwritten or removed by the
// next that has to.
func (s *Server) recordOf(k Key) (record, bool) {
	r, known, err := s.records.read(k)
	if err != nil {
		s.log.Error("record of a pod cannot be read, taking it for one of veth", "container", k.ContainerID, "err", err)
	}
	return r, known
}

// approach opens what can still be entered, and says what the datapath may know of the pod. The namespace may be gone: the
// datapath also knows the pod by address.
func (s *Server) approach(a Attachment, r record, known bool) (namespaces, PodEntry) {
	n, entry := namespaces{host: s.host}, PodEntry{HostNSID: -1}
	if known {
		entry = r.entry()
		entry.NetNS = ""
		if r.lives() {
			a.NetNS = r.NetNS
		}
	}
	if a.NetNS == "" {
		return n, entry
	}
	pod, err := openPod(a.NetNS, s.host)
	if err != nil {
		return n, entry // it is gone, or never was the pod's
	}
	inside, inode, err := namespaces{s.host, pod}.identify()
	if err != nil || known && inode != r.Inode {
		pod.Close()
		return n, entry // it is another one by now
	}
	n.pod, entry.NetNS = pod, a.NetNS
	if !known {
		entry.NetNSCookie, entry.HostNSID = inside.NetNSCookie, inside.HostNSID
	}
	return n, entry
}

// dismantle ends the traffic first, then has the datapath forget the pod, and gives the address up only when the kernel no
// longer uses it. The record goes before the lease: with an address that is another's by then it would do harm.
func (s *Server) dismantle(ctx context.Context, n namespaces, w Wiring, entry PodEntry) error {
	s.unlimit(ctx, n, w.Key)
	quiet, rest := Unplan(w)
	if err := n.apply(quiet); err != nil {
		return fmt.Errorf("unwire %s: %w", w.Key, err)
	}
	if len(entry.Addrs) > 0 || entry.NetNSCookie != 0 {
		if err := s.config.Pods.Remove(ctx, entry); err != nil {
			return fmt.Errorf("remove %s from the datapath: %w", w.Key, err)
		}
	}
	if err := n.apply(rest); err != nil {
		return fmt.Errorf("unwire %s: %w", w.Key, err)
	}
	if err := s.records.remove(w.Key); err != nil {
		return fmt.Errorf("remove record of %s: %w", w.Key, err)
	}
	if err := s.config.Addresses.Release(ctx, w.Key); err != nil {
		return fmt.Errorf("release address of %s: %w", w.Key, err)
	}
	return nil
}
