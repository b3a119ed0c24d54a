package cni

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"

	"github.com/nearpath/nearpath/internal/agentapi"
)

// defaultMTU is used until the uplink's is known.
const defaultMTU = 1500

// add wires a container. When it fails, nothing of what it did is left.
func (s *Server) add(ctx context.Context, r agentapi.CNIRequest) (json.RawMessage, error) {
	conf, err := ParseNetConf(r.Config)
	if err != nil {
		return nil, failure(types.ErrInvalidNetworkConfig, "read network configuration", err)
	}
	if len(conf.PrevResult) > 0 {
		return nil, failure(types.ErrInvalidNetworkConfig, "read network configuration",
			&configError{"prevResult", "is set", "the plugin must be the first of its list"})
	}
	a, err := attachmentOf(r, conf.Name)
	if err != nil {
		return nil, err
	}
	release, err := s.locks.take(ctx, a.Key)
	if err != nil {
		return nil, failure(types.ErrTryAgainLater, "add container", err)
	}
	defer release()
	pod, err := openPod(a.NetNS, s.host)
	if err != nil {
		return nil, failure(types.ErrInvalidNetNS, "add container", err)
	}
	defer pod.Close()
	return s.wire(ctx, a, namespaces{s.host, pod}, s.mtu(conf))
}

func (s *Server) mtu(conf *NetConf) int {
	uplink := 0
	if s.config.MTU != nil {
		uplink = s.config.MTU()
	}
	return cmp.Or(conf.MTU, uplink, defaultMTU)
}

func (s *Server) wire(ctx context.Context, a Attachment, n namespaces, mtu int) (json.RawMessage, error) {
	entry, err := n.prepare(a.IfName)
	if errors.Is(err, errInterfaceExists) {
		return nil, failure(types.ErrInvalidEnvironmentVariables, "read CNI_IFNAME "+a.IfName, err)
	}
	if err != nil {
		return nil, err
	}
	lease, err := s.config.Addresses.Acquire(ctx, a, false)
	if err != nil {
		return nil, failure(types.ErrTryAgainLater, "take an address", err)
	}
	entry.Addrs = lease.Addrs
	if err := s.connect(ctx, n, Plan(a.Key, lease, mtu), entry); err != nil {
		undo, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoTimeout)
		defer cancel()
		return nil, errors.Join(err, s.dismantle(undo, a.Key, entry))
	}
	s.log.Info("pod added", "namespace", a.Pod.Namespace, "pod", a.Pod.Name, "ips", lease.Addrs, "slot", lease.Slot)
	return json.Marshal(result(a, lease, mtu))
}

// connect makes the links and tells the datapath, which must know the pod before the pod may talk.
func (s *Server) connect(ctx context.Context, n namespaces, ops []Op, entry PodEntry) error {
	if err := n.apply(ops); err != nil {
		return fmt.Errorf("wire pod: %w", err)
	}
	if err := s.config.Pods.Add(ctx, entry); err != nil {
		return fmt.Errorf("tell the datapath of the pod: %w", err)
	}
	return ctx.Err() // nobody would hear of a success
}

// result is what ADD answers, in version 1.1.0.
func result(a Attachment, lease Lease, mtu int) *types100.Result {
	hostMAC, podMAC := a.macs()
	inPod := 1 // index of the pod's end in Interfaces
	r := &types100.Result{
		CNIVersion: types100.ImplementedSpecVersion,
		Interfaces: []*types100.Interface{
			{Name: a.HostLink(), Mac: hostMAC.String(), Mtu: mtu},
			{Name: a.IfName, Mac: podMAC.String(), Mtu: mtu, Sandbox: a.NetNS},
		},
	}
	for _, addr := range lease.Addrs {
		via := gateway(addr).AsSlice()
		r.IPs = append(r.IPs, &types100.IPConfig{Interface: &inPod, Address: *ipNet(alone(addr)), Gateway: via})
		r.Routes = append(r.Routes, &types.Route{Dst: *ipNet(everywhere(addr)), GW: via})
	}
	return r
}
