package cni

import (
	"context"
	"errors"
	"fmt"
)

// An Attached is an attachment as its record tells of it.
type Attached struct {
	Key      Key
	Pod      PodRef
	Datapath Datapath
	Limits   Limits
	// Scope is how the container's resolver completes names; the zero value if the runtime did not say.
	Scope DNSScope
}

// Attached lists the attachments that have a record. With an error, it is those whose record can be read.
func (s *Server) Attached() ([]Attached, error) {
	records, err := s.records.list()
	all := make([]Attached, 0, len(records))
	for _, r := range records {
		all = append(all, Attached{r.Key, r.Pod, r.Datapath, r.Limits, r.Scope})
	}
	return all, err
}

// SetLimits changes the limits of a pod that is attached. One that is not, any more, is no error.
func (s *Server) SetLimits(ctx context.Context, k Key, limits Limits) error {
	release, err := s.locks.take(ctx, k)
	if err != nil {
		return err
	}
	defer release()
	r, known, err := s.records.read(k)
	if err != nil || !known || r.Limits == limits {
		return err
	}
	if s.config.Shaper == nil {
		return errors.New("limits on bandwidth are not available on this node")
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
