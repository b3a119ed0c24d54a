package cni

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
)

// An Attached is an attachment as its record tells of it.
type Attached struct {
	Key      Key
	Pod      PodRef
	Datapath Datapath
	Addrs    []netip.Addr
	Limits   Limits
	// ByPackets is as in Wish.
	ByPackets bool
	// Scope is how the container's resolver completes names; the zero value if the runtime did not say.
	Scope DNSScope
}

// Attached lists the attachments that have a record. With an error, it is those whose record can be read.
func (s *Server) Attached() ([]Attached, error) {
	records, err := s.records.list()
	all := make([]Attached, 0, len(records))
	for _, r := range records {
		all = append(all, Attached{r.Key, r.Pod, r.Datapath, r.Addrs, r.Limits, r.ByPackets, r.Scope})
	}
	return all, err
}

// SetLimits changes the limits of a pod that is attached, or puts back what is missing of those it has. One that is not
// attached, any more, is no error.
func (s *Server) SetLimits(ctx context.Context, k Key, limits Limits) error {
	release, err := s.locks.take(ctx, k)
	if err != nil {
		return err
	}
	defer release()
	r, known, err := s.records.read(k)
	if err != nil || !known || r.Limits == limits && limits == (Limits{}) {
		return err
	}
	if s.config.Shaper == nil {
		return errors.New("limits on bandwidth are not available on this node")
	}
	if r.Limits == limits {
		return s.keepLimits(ctx, r)
	}
	last := r
	r.Limits = limits
	// The record first: whoever reads it puts right what this leaves undone.
	if err := s.records.write(r); err != nil {
		return err
	}
	if err := s.config.Shaper.Shape(ctx, r.shaped()); err != nil {
		return errors.Join(fmt.Errorf("change limits of %s: %w", k, err), s.records.write(last))
	}
	s.log.Info("limits changed", "container", k.ContainerID, "ingress", limits.Ingress, "egress", limits.Egress)
	return nil
}

// keepLimits puts back what is missing.
func (s *Server) keepLimits(ctx context.Context, r record) error {
	missing := s.config.Shaper.Verify(ctx, r.shaped())
	if missing == nil || !r.lives() {
		return nil
	}
	if err := s.config.Shaper.Shape(ctx, r.shaped()); err != nil {
		return fmt.Errorf("put back limits of %s: %w", r.Key, err)
	}
	s.log.Warn("limits put back", "container", r.Key.ContainerID, "missing", missing)
	return nil
}

// unlimit takes limits off a pod that is taken apart: its namespace may live on, and with it what is not on the pod's
// links. It is no reason to keep a pod.
func (s *Server) unlimit(ctx context.Context, n namespaces, k Key) {
	r, known := s.recordOf(k)
	if !known || n.pod == nil || s.config.Shaper == nil || r.Limits == (Limits{}) {
		return
	}
	r.Limits = Limits{}
	if err := s.config.Shaper.Shape(ctx, r.shaped()); err != nil {
		s.log.Warn("limits of a deleted pod are left", "container", k.ContainerID, "err", err)
	}
}
