package cni

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"

	"github.com/containernetworking/plugins/pkg/netlinksafe"
	"github.com/containernetworking/plugins/pkg/ns"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/nearpath/nearpath/internal/hostnet"
)

// stacked are the types of links that have the MAC address of another.
var stacked = []string{"ipvlan", "ipvtap", "macvlan", "macvtap", "vlan", "bridge", "bond", "team"}

// isENI goes by the permanent address where the device has one, for a pod may change the other, or make a link that has the
// ENI's. Without one, a link of another index than the ENI is known to have is none; index 0 means that it is not known.
func isENI(l netlink.Link, mac net.HardwareAddr, index int) bool {
	a := l.Attrs()
	if slices.Contains(stacked, l.Type()) {
		return false
	}
	if len(a.PermHWAddr) > 0 {
		return bytes.Equal(a.PermHWAddr, mac)
	}
	return bytes.Equal(a.HardwareAddr, mac) && (index == 0 || a.Index == index)
}

// findENI finds the link of an ENI in the namespace of the calling thread, nil if it is not there.
func findENI(mac net.HardwareAddr, index int) (netlink.Link, error) {
	links, err := netlinksafe.LinkList()
	if err != nil {
		return nil, fmt.Errorf("list links: %w", err)
	}
	return pickENI(links, mac, index), nil
}

// pickENI prefers a link that has the address for good.
func pickENI(links []netlink.Link, mac net.HardwareAddr, index int) (found netlink.Link) {
	for _, l := range links {
		if !isENI(l, mac, index) {
			continue
		}
		if len(l.Attrs().PermHWAddr) > 0 {
			return l
		}
		if found == nil {
			found = l
		}
	}
	return found
}

// addressOfENI is the permanent one, where the device has one.
func addressOfENI(a *netlink.LinkAttrs) net.HardwareAddr {
	if len(a.PermHWAddr) > 0 {
		return a.PermHWAddr
	}
	return a.HardwareAddr
}

// withENI does nothing if the ENI is not in the namespace of the calling thread.
func withENI(mac net.HardwareAddr, index int, f func(netlink.Link) error) error {
	l, err := findENI(mac, index)
	if l == nil || err != nil {
		return err
	}
	return f(l)
}

// awaitENI returns when the link of the ENI is on the host: a device takes its time to appear after it was attached.
func awaitENI(ctx context.Context, host ns.NetNS, mac net.HardwareAddr) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	updates := make(chan netlink.LinkUpdate)
	handle := netns.NsHandle(host.Fd())
	err := netlink.LinkSubscribeWithOptions(updates, ctx.Done(), netlink.LinkSubscribeOptions{Namespace: &handle, ListExisting: true})
	if err != nil {
		return fmt.Errorf("watch links: %w", err)
	}
	defer func() { // the subscription ends only when what it has to tell is taken
		cancel()
		for range updates {
			continue
		}
	}()
	for {
		select {
		case u, ok := <-updates:
			if !ok {
				return errors.New("watch of links ended")
			}
			if u.Header.Type == unix.RTM_NEWLINK && isENI(u.Link, mac, 0) {
				return nil
			}
		case <-ctx.Done():
			return fmt.Errorf("wait for the link of ENI %s: %w", mac, ctx.Err())
		}
	}
}

// addIPVlan runs on the host. The link is made in the pod under a name that nothing on the host has, because a kernel
// before 6.15 refuses a name that is taken there.
func (n namespaces) addIPVlan(o AddIPVlan) error {
	parent, err := netlinksafe.LinkByName(o.Parent)
	if err != nil {
		return fmt.Errorf("find %s: %w", o.Parent, err)
	}
	k, ok := keyOf(o.Alias)
	if !ok {
		return fmt.Errorf("alias %q is not ours", o.Alias)
	}
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MTU, attrs.ParentIndex, attrs.Namespace = k.HostLink(), o.MTU, parent.Attrs().Index, netlink.NsFd(n.pod.Fd())
	if err := netlink.LinkAdd(&netlink.IPVlan{LinkAttrs: attrs, Mode: netlink.IPVLAN_MODE_L2}); err != nil {
		return err
	}
	return n.on(InPod, func() error {
		return withLink(attrs.Name, func(l netlink.Link) error {
			err := netlink.LinkSetAlias(l, o.Alias)
			if err == nil {
				err = netlink.LinkSetName(l, o.Name)
			}
			if err != nil {
				return errors.Join(err, netlink.LinkDel(l))
			}
			return nil
		})
	})
}

// moveLink runs on the host.
func (n namespaces) moveLink(o MoveLink) error {
	l, err := findENI(o.MAC, 0)
	if err != nil {
		return err
	}
	if l == nil {
		return fmt.Errorf("the node has no link with the address %s", o.MAC)
	}
	// A link that is up, or has another's name where it goes, cannot be moved.
	if err := netlink.LinkSetDown(l); err != nil {
		return fmt.Errorf("set %s down: %w", l.Attrs().Name, err)
	}
	if l.Attrs().Name != o.NameOnHost {
		if err := netlink.LinkSetName(l, o.NameOnHost); err != nil {
			return fmt.Errorf("rename %s: %w", l.Attrs().Name, err)
		}
	}
	if err := netlink.LinkSetNsFd(l, int(n.pod.Fd())); err != nil {
		return err
	}
	return n.on(InPod, func() error {
		return withLink(o.NameOnHost, func(l netlink.Link) error {
			err := errors.Join(netlink.LinkSetAlias(l, o.Alias), netlink.LinkSetName(l, o.Name))
			if err == nil && o.MTU != 0 {
				err = netlink.LinkSetMTU(l, o.MTU)
			}
			return err
		})
	})
}

// strip takes from an ENI what was a pod's. Its addresses and what hangs on it go with the namespace. The VPC drops what
// comes from another MAC address than the ENI's.
func strip(l netlink.Link, name string) error {
	err := errors.Join(netlink.LinkSetDown(l), netlink.LinkSetAlias(l, ""))
	if own := addressOfENI(l.Attrs()); err == nil && !bytes.Equal(own, l.Attrs().HardwareAddr) {
		err = netlink.LinkSetHardwareAddr(l, own)
	}
	if err == nil && l.Attrs().Name != name {
		err = netlink.LinkSetName(l, name)
	}
	return err
}

// returnLink runs in the pod.
func (n namespaces) returnLink(o ReturnLink) error {
	return withENI(o.MAC, o.Index, func(l netlink.Link) error {
		if err := strip(l, o.Name); err != nil {
			return err
		}
		return netlink.LinkSetNsFd(l, int(n.host.Fd()))
	})
}

// tidy leaves an ENI alone that has no alias of ours: it came back as new, or is the node's.
func (o TidyLink) tidy() error {
	return withENI(o.MAC, 0, func(l netlink.Link) error {
		if _, ours := keyOf(l.Attrs().Alias); !ours {
			return nil
		}
		return strip(l, o.Name)
	})
}

// delete refuses a link that does not look like ours. In a pod, where anything may have its name, it leaves such a one
// alone.
func (o DeleteLink) delete() error {
	return withLinkIfThere(o.Link, func(l netlink.Link) error {
		alias := l.Attrs().Alias
		if o.Side == InPod {
			if alias != o.Alias || l.Type() != "ipvlan" {
				return nil
			}
		} else if l.Type() != "veth" || alias != "" && !strings.HasPrefix(alias, aliasPrefix) {
			return fmt.Errorf("link %s is a %s with alias %q and not ours", o.Link, l.Type(), alias)
		}
		if err := netlink.LinkDel(l); err != nil && !errors.Is(err, unix.ENODEV) {
			return err
		}
		return nil
	})
}

func (o DeleteRoutes) delete() error {
	routes, err := netlinksafe.RouteListFiltered(family(o.Dst), &netlink.Route{Dst: ipNet(alone(o.Dst)), Protocol: hostnet.Protocol},
		netlink.RT_FILTER_DST|netlink.RT_FILTER_PROTOCOL)
	if err != nil {
		return fmt.Errorf("list routes: %w", err)
	}
	for _, r := range routes {
		if err := gone(netlink.RouteDel(&r)); err != nil {
			return err
		}
		l := &netlink.Device{LinkAttrs: netlink.LinkAttrs{Index: r.LinkIndex}}
		if err := gone(netlink.NeighDel(AddNeighbour{Addr: o.Dst}.neighbour(l))); err != nil {
			return err
		}
	}
	return nil
}

// gone makes nothing of an error that says that something is not there.
func gone(err error) error {
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ESRCH) || errors.Is(err, unix.ENODEV) {
		return nil
	}
	return err
}

func withLink(name string, f func(netlink.Link) error) error {
	l, err := netlinksafe.LinkByName(name)
	if err != nil {
		return err
	}
	return f(l)
}

func withLinkIfThere(name string, f func(netlink.Link) error) error {
	err := withLink(name, f)
	if isNoLink(err) {
		return nil
	}
	return err
}
