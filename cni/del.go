package cni

import (
	"context"
	"errors"
	"fmt"

	"github.com/containernetworking/cni/pkg/types"
	"github.com/containernetworking/plugins/pkg/ns"

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
	n, entry, err := s.approach(a, r, known)
	if err != nil {
		return err
	}
	if n.pod != nil {
		defer n.pod.Close()
	}
	w := combine(a.Key, lease, leased, r, known).wiring
	if !leased && !known {
		if w.Lease.Addrs, err = addressesBehind(s.host, a.HostLink()); err != nil {
			return err
		}
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
// datapath also knows the pod by address. Only what is surely gone is left out; a DEL that fails is asked for again.
func (s *Server) approach(a Attachment, r record, known bool) (namespaces, PodEntry, error) {
	n, entry, path := namespaces{host: s.host}, PodEntry{}, a.NetNS
	if known {
		entry = r.entry()
		entry.NetNS = ""
		if r.lives() {
			path = r.NetNS
		}
	}
	if path == "" {
		return n, entry, nil
	}
	pod, err := s.enter(path, r.Inode)
	if pod == nil || err != nil {
		return n, entry, err
	}
	n.pod, entry.NetNS = pod, path
	if known {
		return n, entry, nil
	}
	now, err := n.identify()
	if err != nil {
		return n, entry, errors.Join(err, pod.Close())
	}
	entry.NetNSCookie = now.NetNSCookie
	return n, entry, nil
}

// enter returns nil without an error if there is no namespace any more, or another one, which never was the pod's. Inode 0
// stands for any.
func (s *Server) enter(path string, inode uint64) (ns.NetNS, error) {
	found, there, err := namespaceAt(path)
	if err != nil || !there || inode != 0 && found != inode {
		return nil, err
	}
	pod, err := openPod(path, s.host)
	if errors.Is(err, errNodesOwn) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	found, err = inodeOf(pod.Fd())
	if err != nil || inode != 0 && found != inode { // since just now
		return nil, errors.Join(err, pod.Close())
	}
	return pod, nil
}

// dismantle ends the traffic first, then has the datapath forget the pod, and gives the address up only when the kernel no
// longer uses it. The record goes before the lease: with an address that is another's by then it would do harm.
func (s *Server) dismantle(ctx context.Context, n namespaces, w Wiring, entry PodEntry) error {
	s.unlimit(ctx, n, w.Key)
	quiet, rest := Unplan(w)
	if w.Datapath != IPVlan && entry.Link != 0 { // an ENI's companion stays
		s.podLinks.set(entry.Link, false)
	}
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
	if kept, err := s.keepWithENI(n, w); kept || err != nil {
		return err
	}
	if err := s.records.remove(w.Key); err != nil {
		return fmt.Errorf("remove record of %s: %w", w.Key, err)
	}
	if err := s.config.Addresses.Release(ctx, w.Key); err != nil {
		return fmt.Errorf("release address of %s: %w", w.Key, err)
	}
	return nil
}
