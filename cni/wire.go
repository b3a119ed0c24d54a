package cni

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"time"

	"github.com/containernetworking/cni/pkg/types"

	"github.com/nearpath/nearpath/internal/agentapi"
	"github.com/nearpath/nearpath/internal/hostnet"
)

// eniPatience bounds how long an ADD waits for the link of an ENI to appear on the node.
const eniPatience = 30 * time.Second

// wishOf is what the pod, and where it has no wish the configuration, asks for.
func (s *Server) wishOf(ctx context.Context, a Attachment, conf *NetConf) (Wish, error) {
	var wish Wish
	if s.config.Wish != nil {
		var err error
		if wish, err = s.config.Wish(ctx, a, conf.Annotations); err != nil {
			var coded *agentapi.CNIError
			if errors.As(err, &coded) {
				return Wish{}, coded
			}
			return Wish{}, failure(types.ErrTryAgainLater, "learn what the pod asks for", err)
		}
	}
	wish.Datapath = cmp.Or(wish.Datapath, conf.Datapath)
	wish.Limits.Ingress = cmp.Or(wish.Limits.Ingress, conf.Limits.Ingress)
	wish.Limits.Egress = cmp.Or(wish.Limits.Egress, conf.Limits.Egress)
	switch {
	case !slices.Contains(datapaths, wish.Datapath):
		return Wish{}, fmt.Errorf("the pod asks for the datapath %q, which is not one of %v", wish.Datapath, datapaths)
	case wish.Datapath != Veth && (s.config.ENIs == nil || s.config.Records == ""):
		return Wish{}, fmt.Errorf("the datapath %q is not available on this node", wish.Datapath)
	case wish.Limits != Limits{} && (s.config.Shaper == nil || s.config.Records == ""):
		return Wish{}, errors.New("limits on bandwidth are not available on this node")
	case wish.ByPackets && s.config.Records == "":
		return Wish{}, errors.New("translation of Services in packets is not available on this node")
	case len(conf.HostPorts) > 0 && s.config.Records == "":
		return Wish{}, errors.New("host ports are not available on this node")
	}
	return wish, nil
}

// take leases what the wish needs. A lease from an earlier attempt may be of the other kind; it is given back, and the next
// attempt gets the right one.
func (s *Server) take(ctx context.Context, a Attachment, wish Wish) (Lease, error) {
	exclusive := wish.Datapath == Exclusive
	lease, err := s.config.Addresses.Acquire(ctx, a, exclusive)
	if err == nil && lease.Exclusive != exclusive {
		err = errors.Join(errors.New("an earlier attempt had another datapath"), s.config.Addresses.Release(ctx, a.Key))
	}
	if err != nil {
		return Lease{}, failure(types.ErrTryAgainLater, "take an address", err)
	}
	return lease, nil
}

// decide makes the record of an attachment that is about to be wired.
func (s *Server) decide(ctx context.Context, a Attachment, wish Wish, lease Lease, conf *NetConf) (record, error) {
	r := record{
		Key: a.Key, Pod: a.Pod, NetNS: a.NetNS, Datapath: wish.Datapath, Addrs: lease.Addrs, Slot: lease.Slot, MAC: lease.MAC,
		MTU: s.mtu(conf), Limits: wish.Limits, ByPackets: wish.ByPackets, HostPorts: conf.HostPorts, Scope: conf.Scope,
	}
	if wish.Datapath == IPVlan {
		companion, err := s.config.ENIs.IPVlan(ctx, lease.MAC)
		switch {
		case errors.Is(err, hostnet.ErrNoIPVlan) || errors.Is(err, hostnet.ErrForeignMaster):
			s.report("DatapathUnavailable", fmt.Sprintf("pod %s/%s asks for ipvlan and gets veth: %v", a.Pod.Namespace, a.Pod.Name, err))
			r.Datapath = Veth
		case err != nil:
			return record{}, failure(types.ErrTryAgainLater, "share ENI "+lease.MAC, err)
		default:
			r.Parent, r.Companion = companion.Parent, companion.Link
		}
	}
	if r.Datapath == Veth {
		return r, nil
	}
	r.Node, r.Networks = s.nodeSide()
	if len(r.Node) == 0 {
		return record{}, failure(types.ErrTryAgainLater, "wire pod", errors.New("the node's own addresses are not known yet"))
	}
	if r.Datapath != Exclusive {
		r.Networks = nil
	}
	return r, nil
}

// nodeSide is what pods reach through the node past their ENI; no addresses while the node's are not known. Those of the node's DNS are not
// among them: a pod asks these by its ENI, whose program has it go to the node while somebody listens there, and else to the
// cluster's DNS.
func (s *Server) nodeSide() (addrs []netip.Addr, networks []netip.Prefix) {
	if s.config.ENIs != nil {
		addrs = slices.Clone(s.config.ENIs.Addrs())
	}
	if s.config.HostNetworks != nil {
		networks = s.config.HostNetworks()
	}
	return addrs, networks
}

// wiring is what the plans of an attachment follow from, for a lease that may since be gone.
func (r record) wiring(lease Lease) Wiring {
	return Wiring{
		Key: r.Key, Datapath: r.Datapath, Lease: lease, MTU: r.MTU, Node: r.Node, Networks: r.Networks,
		Companion: hostnet.Companion{Parent: r.Parent, Link: r.Companion}, ENI: r.ENI,
	}
}

// connect makes the links, tells the datapath, which judges what the pod sends and gets, and only then has the links come up: a pod
// may send as soon as it can.
func (s *Server) connect(ctx context.Context, n namespaces, r *record, lease Lease) error {
	w := r.wiring(lease)
	if err := w.check(); err != nil {
		return err
	}
	if r.Datapath == Exclusive {
		if err := s.awaitENI(ctx, lease); err != nil {
			return err
		}
	}
	s.absent.remove(r.Key)
	down, up := untilUp(Plan(w))
	if err := n.apply(down); err != nil {
		return fmt.Errorf("wire pod: %w", err)
	}
	if err := n.index(r); err != nil {
		return err
	}
	s.podLinks.set(r.Link, true)
	if err := s.records.write(*r); err != nil {
		return err
	}
	if r.Limits != (Limits{}) {
		if err := s.config.Shaper.Shape(ctx, r.shaped()); err != nil {
			return fmt.Errorf("limit bandwidth: %w", err)
		}
	}
	if err := s.config.Pods.Add(ctx, r.entry()); err != nil {
		return fmt.Errorf("tell the datapath of the pod: %w", err)
	}
	if err := n.apply(up); err != nil {
		return fmt.Errorf("wire pod: %w", err)
	}
	return ctx.Err() // nobody would hear of a success
}

func (s *Server) awaitENI(ctx context.Context, lease Lease) error {
	mac, err := net.ParseMAC(lease.MAC)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, eniPatience)
	defer cancel()
	if err := awaitENI(ctx, s.host, mac); err != nil {
		return failure(types.ErrTryAgainLater, "wire pod", err)
	}
	return nil
}

// report tells users and the log of something that was put right or could not be had.
func (s *Server) report(reason, message string) {
	s.log.Warn(message, "reason", reason)
	if s.config.Report != nil {
		s.config.Report(reason, message)
	}
}
