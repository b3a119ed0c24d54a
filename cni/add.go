package cni

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"

	"github.com/containernetworking/cni/pkg/types"

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
	return s.wire(ctx, a, namespaces{s.host, pod}, conf)
}

func (s *Server) mtu(conf *NetConf) int {
	uplink := 0
	if s.config.MTU != nil {
		uplink = s.config.MTU()
	}
	return cmp.Or(conf.MTU, uplink, defaultMTU)
}

func (s *Server) wire(ctx context.Context, a Attachment, n namespaces, conf *NetConf) (json.RawMessage, error) {
	entry, inode, err := n.prepare(a.IfName)
	if errors.Is(err, errInterfaceExists) {
		return nil, failure(types.ErrInvalidEnvironmentVariables, "read CNI_IFNAME "+a.IfName, err)
	}
	if err != nil {
		return nil, err
	}
	wish, err := s.wishOf(ctx, a, conf)
	if err != nil {
		return nil, err
	}
	lease, err := s.take(ctx, a, wish)
	if err != nil {
		return nil, err
	}
	r, err := s.decide(ctx, a, wish, lease, conf)
	if err == nil {
		r.Cookie, r.Inode = entry.NetNSCookie, inode
		// What follows must be found by whoever comes after a crash.
		err = s.records.write(r)
	}
	if err == nil {
		err = s.connect(ctx, n, &r, lease)
	}
	if err != nil {
		undo, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoTimeout)
		defer cancel()
		if r.Datapath == "" { // nothing was decided, and so nothing made
			return nil, errors.Join(err, s.config.Addresses.Release(undo, a.Key))
		}
		return nil, errors.Join(err, s.dismantle(undo, n, r.wiring(lease), r.entry()))
	}
	s.log.Info("pod added", "namespace", a.Pod.Namespace, "pod", a.Pod.Name, "ips", lease.Addrs, "slot", lease.Slot, "datapath", r.Datapath)
	return json.Marshal(result(a, r, lease, conf.dns()))
}
