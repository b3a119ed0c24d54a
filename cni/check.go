package cni

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"
	"github.com/containernetworking/cni/pkg/types/create"

	"github.com/nearpath/nearpath/internal/agentapi"
)

// check verifies that the container is wired as ADD left it: links, addresses, routes, rule, sysctls, and the
// datapath's entry. It repairs nothing.
func (s *Server) check(ctx context.Context, r agentapi.CNIRequest) error {
	conf, err := ParseNetConf(r.Config)
	if err != nil {
		return failure(types.ErrInvalidNetworkConfig, "read network configuration", err)
	}
	a, err := attachmentOf(r, conf.Name)
	if err != nil {
		return err
	}
	release, err := s.locks.take(ctx, a.Key)
	if err != nil {
		return failure(types.ErrTryAgainLater, "check container", err)
	}
	defer release()
	lease, ok := s.config.Addresses.Lookup(a.Key)
	if !ok {
		return failure(types.ErrUnknownContainer, "check container", fmt.Errorf("%s has no address", a.Key))
	}
	if err := agrees(conf, lease); err != nil {
		return failure(types.ErrInvalidNetworkConfig, "compare previous result", err)
	}
	return s.verify(ctx, a, lease, conf.MTU)
}

func (s *Server) verify(ctx context.Context, a Attachment, lease Lease, mtu int) error {
	pod, err := openPod(a.NetNS, s.host)
	if err != nil {
		return failure(types.ErrInvalidNetNS, "check container", err)
	}
	defer pod.Close()
	n := namespaces{s.host, pod}
	// Without a configured MTU the uplink's was taken, which may have changed since.
	if err := n.verify(Plan(a.Key, lease, mtu)); err != nil {
		return failure(codeBroken, "check container", err)
	}
	entry, err := n.identify()
	if err != nil {
		return err
	}
	entry.Addrs = lease.Addrs
	known, err := s.config.Pods.Has(ctx, entry)
	if err != nil {
		return fmt.Errorf("ask the datapath for %v: %w", lease.Addrs, err)
	}
	if !known {
		return failure(codeBroken, "check container", fmt.Errorf("the datapath does not know %v", lease.Addrs))
	}
	return nil
}

// agrees says whether the previous result, which CHECK must be given, has the leased addresses.
func agrees(conf *NetConf, lease Lease) error {
	if len(conf.PrevResult) == 0 {
		return &configError{"prevResult", "is missing", "CHECK needs the result of ADD"}
	}
	previous, err := create.Create(conf.CNIVersion, conf.PrevResult)
	if err != nil {
		return &configError{"prevResult", "cannot be read: " + err.Error(), ""}
	}
	result, err := types100.NewResultFromResult(previous)
	if err != nil {
		return &configError{"prevResult", "cannot be converted: " + err.Error(), ""}
	}
	for _, addr := range lease.Addrs {
		if !slices.ContainsFunc(result.IPs, func(ip *types100.IPConfig) bool { return addressOf(&ip.Address) == addr }) {
			return &configError{"prevResult", fmt.Sprintf("does not have the address %s that the container leases", addr), ""}
		}
	}
	return nil
}

// status says whether ADD can be served (CNI specification 1.1.0, section 2, STATUS).
func (s *Server) status(r agentapi.CNIRequest) error {
	if _, err := ParseNetConf(r.Config); err != nil {
		return failure(types.ErrInvalidNetworkConfig, "read network configuration", err)
	}
	if s.config.Status == nil {
		return nil
	}
	if err := s.config.Status(); err != nil {
		return failure(codeNotAvailable, "nearpath cannot add pods yet", err)
	}
	return nil
}

// gc deletes every attachment of the network that the runtime does not name. It tries all of them.
func (s *Server) gc(ctx context.Context, r agentapi.CNIRequest) error {
	conf, err := parseForTeardown(r.Config)
	if err != nil {
		return failure(types.ErrInvalidNetworkConfig, "read network configuration", err)
	}
	if conf.Valid == nil {
		return failure(types.ErrInvalidNetworkConfig, "read network configuration",
			&configError{keyValidAttachments, "is missing", "without it every pod would be deleted"})
	}
	var errs []error
	for _, leased := range s.config.Addresses.List() {
		k := leased.Attachment.Key
		if k.Network != conf.Name || slices.Contains(conf.Valid, types.GCAttachment{ContainerID: k.ContainerID, IfName: k.IfName}) {
			continue
		}
		s.log.Info("pod unknown to the runtime, deleting it", "container", k.ContainerID, "ips", leased.Lease.Addrs)
		errs = append(errs, s.remove(ctx, Attachment{Key: k}))
	}
	return errors.Join(errs...)
}
