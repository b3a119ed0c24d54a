package cni

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"

	"github.com/containernetworking/plugins/pkg/netlinksafe"
	"github.com/vishvananda/netlink"
)

// errAbsent says that the kernel does not have what an Op made.
var errAbsent = errors.New("is no longer so")

// verify checks that every change is still in effect and names the first that is not.
func (n namespaces) verify(ops []Op) error { return n.each(ops, n.verifyOne) }

func (n namespaces) verifyOne(op Op) error {
	switch o := op.(type) {
	case AddVeth:
		return n.verifyVeth(o)
	case AddIPVlan:
		return n.verifyIPVlan(o)
	case MoveLink:
		return n.verifyMoved(o)
	case SetSysctl:
		return o.verify()
	case SetUp:
		return withLink(o.Link, func(l netlink.Link) error { return present(l.Attrs().Flags&net.FlagUp != 0) })
	case AddAddress:
		return withLink(o.Link, o.verify)
	case AddNeighbour:
		return withLink(o.Link, o.verify)
	case AddRoute:
		return withLink(o.Link, o.verify)
	default:
		return fmt.Errorf("op %T cannot be verified", op)
	}
}

func present(ok bool) error {
	if ok {
		return nil
	}
	return errAbsent
}

// verifyVeth runs on the host and looks at the pod's end too.
func (n namespaces) verifyVeth(o AddVeth) error {
	var peer int
	err := withLink(o.Host, func(l netlink.Link) error {
		a := l.Attrs()
		peer = a.ParentIndex
		return present(l.Type() == "veth" && a.Alias == o.Alias && bytes.Equal(a.HardwareAddr, o.HostMAC) && (o.MTU == 0 || a.MTU == o.MTU))
	})
	if err != nil {
		return err
	}
	return n.on(InPod, func() error {
		return withLink(o.Pod, func(l netlink.Link) error {
			a := l.Attrs()
			return present(a.Index == peer && bytes.Equal(a.HardwareAddr, o.PodMAC) && (o.MTU == 0 || a.MTU == o.MTU))
		})
	})
}

// verifyIPVlan runs on the host. The mode is the parent's: who makes a link of another mode on it changes that of all.
func (n namespaces) verifyIPVlan(o AddIPVlan) error {
	var parent int
	if err := withLink(o.Parent, func(l netlink.Link) error { parent = l.Attrs().Index; return nil }); err != nil {
		return err
	}
	return n.on(InPod, func() error {
		return withLink(o.Name, func(l netlink.Link) error {
			a := l.Attrs()
			slave, ok := l.(*netlink.IPVlan)
			return present(ok && slave.Mode == netlink.IPVLAN_MODE_L2 && a.ParentIndex == parent && a.Alias == o.Alias && (o.MTU == 0 || a.MTU == o.MTU))
		})
	})
}

func (n namespaces) verifyMoved(o MoveLink) error {
	return n.on(InPod, func() error {
		return withLink(o.Name, func(l netlink.Link) error {
			return present(isENI(l, o.MAC, 0) && bytes.Equal(l.Attrs().HardwareAddr, o.MAC) && l.Attrs().Alias == o.Alias && (o.MTU == 0 || l.Attrs().MTU == o.MTU))
		})
	})
}

func (o SetSysctl) verify() error {
	raw, err := os.ReadFile(filepath.Join("/proc/sys", o.Key))
	if o.Optional && errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if have := string(bytes.TrimSpace(raw)); have != o.Value {
		return fmt.Errorf("%w: it is %s", errAbsent, have)
	}
	return nil
}

func (o AddAddress) verify(l netlink.Link) error {
	addrs, err := netlinksafe.AddrList(l, family(o.Addr.Addr()))
	if err != nil {
		return err
	}
	return present(slices.ContainsFunc(addrs, func(a netlink.Addr) bool { return prefixOf(a.IPNet) == o.Addr }))
}

func (o AddNeighbour) verify(l netlink.Link) error {
	// NeighList has no variant that repeats an interrupted dump; the table of one link is a few entries.
	entries, err := netlink.NeighList(l.Attrs().Index, family(o.Addr))
	if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) {
		return err
	}
	return present(slices.ContainsFunc(entries, func(e netlink.Neigh) bool {
		addr, _ := netip.AddrFromSlice(e.IP)
		return addr.Unmap() == o.Addr && bytes.Equal(e.HardwareAddr, o.MAC) && e.State&netlink.NUD_PERMANENT != 0
	}))
}

func (o AddRoute) verify(l netlink.Link) error {
	routes, err := netlinksafe.RouteList(l, family(o.Dst.Addr()))
	if err != nil {
		return err
	}
	return present(slices.ContainsFunc(routes, func(r netlink.Route) bool {
		gateway, _ := netip.AddrFromSlice(r.Gw)
		src, _ := netip.AddrFromSlice(r.Src)
		return prefixOf(r.Dst) == o.Dst && gateway.Unmap() == o.Gateway && (!o.Src.IsValid() || src.Unmap() == o.Src)
	}))
}
