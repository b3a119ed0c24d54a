package cni

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"

	"github.com/containernetworking/plugins/pkg/ns"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/nearpath/nearpath/internal/hostnet"
	"github.com/nearpath/nearpath/internal/sysctl"
)

// namespaces are the two that an attachment spans; pod is nil when there is none.
type namespaces struct{ host, pod ns.NetNS }

// on runs f in the namespace of a side.
func (n namespaces) on(side Side, f func() error) error {
	netns := n.host
	if side == InPod {
		netns = n.pod
	}
	return netns.Do(func(ns.NetNS) error { return f() })
}

// sideOf says where an Op is done. One that spans both is begun there.
func sideOf(op Op) Side {
	switch o := op.(type) {
	case SetSysctl:
		return o.Side
	case SetUp:
		return o.Side
	case AddAddress:
		return o.Side
	case AddNeighbour:
		return o.Side
	case AddRoute:
		return o.Side
	case DeleteLink:
		return o.Side
	case DeleteRoute:
		return o.Side
	case DeleteNeighbour:
		return o.Side
	case SetDown, ReturnLink:
		return InPod
	default:
		return OnHost
	}
}

// each calls f for every Op in order, entering a namespace once per run of Ops on the same side: a change of namespace
// costs a thread. Without a pod, what would be done in it is left out: it went with its namespace.
func (n namespaces) each(ops []Op, f func(Op) error) error {
	for len(ops) > 0 {
		side, run := sideOf(ops[0]), 1
		for run < len(ops) && sideOf(ops[run]) == side {
			run++
		}
		if side == OnHost || n.pod != nil {
			if err := n.on(side, func() error { return all(ops[:run], f) }); err != nil {
				return err
			}
		}
		ops = ops[run:]
	}
	return nil
}

func all(ops []Op, f func(Op) error) error {
	for _, op := range ops {
		if err := f(op); err != nil {
			return fmt.Errorf("%s: %w", op, err)
		}
	}
	return nil
}

// apply makes the changes and stops at the first that fails.
func (n namespaces) apply(ops []Op) error { return n.each(ops, n.applyOne) }

func (n namespaces) applyOne(op Op) error {
	switch o := op.(type) {
	case AddVeth:
		return n.addVeth(o)
	case AddIPVlan:
		return n.addIPVlan(o)
	case MoveLink:
		return n.moveLink(o)
	case SetSysctl:
		return o.write()
	case SetUp:
		return withLink(o.Link, netlink.LinkSetUp)
	case AddAddress:
		return withLink(o.Link, func(l netlink.Link) error {
			return netlink.AddrReplace(l, o.address())
		})
	case AddNeighbour:
		return withLink(o.Link, func(l netlink.Link) error { return netlink.NeighSet(o.neighbour(l)) })
	case AddRoute:
		return withLink(o.Link, func(l netlink.Link) error { return netlink.RouteReplace(o.route(l)) })
	default:
		return n.undoOne(op)
	}
}

func (n namespaces) undoOne(op Op) error {
	switch o := op.(type) {
	case DeleteLink:
		return o.delete()
	case DeleteRoutes:
		return o.delete()
	case DeleteRoute:
		return withLinkIfThere(o.Link, func(l netlink.Link) error {
			return gone(netlink.RouteDel(&netlink.Route{LinkIndex: l.Attrs().Index, Dst: ipNet(o.Dst), Scope: netlink.SCOPE_NOWHERE}))
		})
	case DeleteNeighbour:
		return withLinkIfThere(o.Link, func(l netlink.Link) error {
			return gone(netlink.NeighDel(AddNeighbour{Addr: o.Addr}.neighbour(l)))
		})
	case SetDown:
		return withENI(o.MAC, o.Index, netlink.LinkSetDown)
	case ReturnLink:
		return n.returnLink(o)
	case TidyLink:
		return o.tidy()
	default:
		panic(fmt.Sprintf("unknown op %T", op))
	}
}

// addVeth runs on the host. A link of the same name is debris of an attempt whose pod is gone: ADD has made sure that the
// pod has no such interface.
func (n namespaces) addVeth(o AddVeth) error {
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MTU, attrs.HardwareAddr = o.Host, o.MTU, o.HostMAC
	veth := netlink.NewVeth(attrs)
	veth.PeerName, veth.PeerHardwareAddr, veth.PeerNamespace = o.Pod, o.PodMAC, netlink.NsFd(n.pod.Fd())
	err := netlink.LinkAdd(veth)
	if errors.Is(err, unix.EEXIST) {
		if err := (DeleteLink{OnHost, o.Host, o.Alias}).delete(); err != nil {
			return err
		}
		err = netlink.LinkAdd(veth)
	}
	if err != nil {
		return err
	}
	return withLink(o.Host, func(l netlink.Link) error { return netlink.LinkSetAlias(l, o.Alias) })
}

func (o SetSysctl) write() error {
	err := sysctl.Write(o.Key, o.Value)
	if o.Optional && errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// address skips the search for duplicates: nobody else can have the address, and until the search is over, which not even
// accept_dad=0 makes at once, the pod could not bind to it.
func (o AddAddress) address() *netlink.Addr {
	a := &netlink.Addr{IPNet: ipNet(o.Addr)}
	if o.Addr.Addr().Is6() {
		a.Flags = unix.IFA_F_NODAD
	}
	return a
}

func (o AddNeighbour) neighbour(l netlink.Link) *netlink.Neigh {
	return &netlink.Neigh{
		LinkIndex: l.Attrs().Index, Family: family(o.Addr), State: netlink.NUD_PERMANENT, IP: o.Addr.AsSlice(), HardwareAddr: o.MAC,
	}
}

func (o AddRoute) route(l netlink.Link) *netlink.Route {
	r := &netlink.Route{LinkIndex: l.Attrs().Index, Dst: ipNet(o.Dst)}
	if o.Src.IsValid() {
		r.Src = o.Src.AsSlice()
	}
	if o.Gateway.IsValid() {
		r.Gw, r.Flags = o.Gateway.AsSlice(), int(netlink.FLAG_ONLINK)
		return r
	}
	r.Scope, r.Protocol = netlink.SCOPE_LINK, hostnet.Protocol
	return r
}

func isNoLink(err error) bool {
	var missing netlink.LinkNotFoundError
	return errors.As(err, &missing)
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

// prefixOf is the inverse of ipNet; nil is the default route of IPv4.
func prefixOf(n *net.IPNet) netip.Prefix {
	if n == nil {
		return netip.PrefixFrom(netip.IPv4Unspecified(), 0)
	}
	addr, _ := netip.AddrFromSlice(n.IP)
	bits, _ := n.Mask.Size()
	return netip.PrefixFrom(addr.Unmap(), bits)
}

func addressOf(n *net.IPNet) netip.Addr { return prefixOf(n).Addr() }

func family(addr netip.Addr) int {
	if addr.Is4() {
		return netlink.FAMILY_V4
	}
	return netlink.FAMILY_V6
}
