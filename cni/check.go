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

// check verifies that the container is wired as ADD left it: links, addresses, neighbours, routes, sysctls, limits,
// and what the datapath knows and has attached. It repairs nothing.
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

// setUpAs is the record of an attachment, or what it would be without one.
func (s *Server) setUpAs(a Attachment, lease Lease, mtu int) record {
	if r, known := s.recordOf(a.Key); known {
		r.NetNS = a.NetNS
		return r
	}
	// Without a configured MTU the uplink's was taken, which may have changed since.
	return record{Key: a.Key, NetNS: a.NetNS, Datapath: Veth, Addrs: lease.Addrs, Slot: lease.Slot, MTU: mtu}
}

func (s *Server) verify(ctx context.Context, a Attachment, lease Lease, mtu int) error {
	pod, err := openPod(a.NetNS, s.host)
	if err != nil {
		return failure(types.ErrInvalidNetNS, "check container", err)
	}
	defer pod.Close()
	n := namespaces{s.host, pod}
	r := s.setUpAs(a, lease, mtu)
	w := r.wiring(lease)
	if err := w.check(); err != nil {
		return failure(codeBroken, "check container", err)
	}
	if err := n.verify(Plan(w)); err != nil {
		return failure(codeBroken, "check container", err)
	}
	entry, err := n.identify()
	if err != nil {
		return err
	}
	r.Cookie = entry.NetNSCookie
	if err := n.index(&r); err != nil {
		return failure(codeBroken, "check container", err)
	}
	if r.Limits != (Limits{}) && s.config.Shaper != nil {
		if err := s.config.Shaper.Verify(ctx, r.shaped()); err != nil {
			return failure(codeBroken, "check container", err)
		}
	}
	known, err := s.config.Pods.Has(ctx, r.entry())
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
	switch err := s.config.Status(); {
	case errors.Is(err, ErrLimited):
		return failure(codeLimited, "nearpath cannot add pods, and those that are there may lack connectivity", err)
	case err != nil:
		return failure(codeNotAvailable, "nearpath cannot add pods yet", err)
	}
	return nil
}
