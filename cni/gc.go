package cni

import (
	"context"
	"errors"
	"slices"

	"github.com/containernetworking/cni/pkg/types"

	"github.com/nearpath/nearpath/internal/agentapi"
)

// gc deletes every attachment of the network that the runtime does not name, whether it has a lease, a record or a link.
// It tries all of them.
func (s *Server) gc(ctx context.Context, r agentapi.CNIRequest) error {
	conf, err := parseForTeardown(r.Config)
	if err != nil {
		return failure(types.ErrInvalidNetworkConfig, "read network configuration", err)
	}
	if conf.Valid == nil {
		return failure(types.ErrInvalidNetworkConfig, "read network configuration",
			&configError{keyValidAttachments, "is missing", "without it every pod would be deleted"})
	}
	known, err := s.everyKey()
	errs := []error{err}
	for _, k := range known {
		if k.Network != conf.Name || slices.Contains(conf.Valid, types.GCAttachment{ContainerID: k.ContainerID, IfName: k.IfName}) {
			continue
		}
		s.log.Info("pod unknown to the runtime, deleting it", "container", k.ContainerID, "interface", k.IfName)
		errs = append(errs, s.remove(ctx, Attachment{Key: k}))
	}
	return errors.Join(errs...)
}

// everyKey lists all attachments that anything on the node knows of, each once. With an error it is those that could be
// found out.
func (s *Server) everyKey() (keys []Key, err error) {
	add := func(k Key) {
		if !slices.Contains(keys, k) {
			keys = append(keys, k)
		}
	}
	for _, l := range s.config.Addresses.List() {
		add(l.Attachment.Key)
	}
	recorded, recordErr := s.records.list()
	for _, r := range recorded {
		add(r.Key)
	}
	linked, linkErr := linkedKeys(s.host)
	for _, k := range linked {
		add(k)
	}
	return keys, errors.Join(recordErr, linkErr)
}
