package cni

import (
	"context"
	"errors"
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
	entry := s.entryOf(a)
	if lease, ok := s.config.Addresses.Lookup(a.Key); ok {
		entry.Addrs = lease.Addrs
	} else {
		addrs, err := addressesBehind(s.host, a.HostLink())
		if err != nil {
			return err
		}
		entry.Addrs = addrs
	}
	if err := s.dismantle(ctx, a.Key, entry); err != nil {
		return err
	}
	if len(entry.Addrs) > 0 {
		s.log.Info("pod deleted", "container", a.ContainerID, "ips", entry.Addrs)
	}
	return nil
}

// entryOf reads what the pod's namespace still tells. It may be gone: the datapath also knows the pod by address.
func (s *Server) entryOf(a Attachment) PodEntry {
	unknown := PodEntry{HostNSID: -1}
	if a.NetNS == "" {
		return unknown
	}
	pod, err := openPod(a.NetNS, s.host)
	if err != nil {
		return unknown
	}
	defer pod.Close()
	entry, err := namespaces{s.host, pod}.identify()
	if err != nil {
		return unknown
	}
	return entry
}

// dismantle removes the links first, so that the address is given up only when the kernel no longer uses it.
func (s *Server) dismantle(ctx context.Context, k Key, entry PodEntry) error {
	if err := (namespaces{host: s.host}).apply(Unplan(k, entry.Addrs)); err != nil {
		return fmt.Errorf("unwire %s: %w", k, err)
	}
	if len(entry.Addrs) > 0 || entry.NetNSCookie != 0 {
		if err := s.config.Pods.Remove(ctx, entry); err != nil {
			return fmt.Errorf("remove %s from the datapath: %w", k, err)
		}
	}
	if err := s.config.Addresses.Release(ctx, k); err != nil {
		return errors.Join(fmt.Errorf("release address of %s", k), err)
	}
	return nil
}
