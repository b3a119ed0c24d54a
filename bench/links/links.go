// Package links wires network namespaces of benchmarks together.
package links

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"

	"github.com/vishvananda/netlink" //nolint:depguard // what is measured is between these links

	"github.com/nearpath/nearpath/test/netlab"
)

// Pair makes two links that are up, one in each namespace.
func Pair(node, pod *netlab.NetNS, there, here string) error {
	target, err := os.Open(pod.Path())
	if err != nil {
		return err
	}
	defer target.Close()
	err = node.Do(func() error {
		attrs := netlink.NewLinkAttrs()
		attrs.Name = there
		veth := netlink.NewVeth(attrs)
		veth.PeerName, veth.PeerNamespace = here, netlink.NsFd(int(target.Fd()))
		if err := netlink.LinkAdd(veth); err != nil {
			return fmt.Errorf("add link %s: %w", there, err)
		}
		return netlink.LinkSetUp(veth)
	})
	if err != nil {
		return err
	}
	return pod.Do(func() error {
		l, err := netlink.LinkByName(here)
		if err != nil {
			return err
		}
		return netlink.LinkSetUp(l)
	})
}

// Address gives a link in the calling goroutine's namespace an address and its network.
func Address(link string, addr netip.Prefix) error {
	l, err := netlink.LinkByName(link)
	if err != nil {
		return err
	}
	if err := netlink.AddrAdd(l, &netlink.Addr{IPNet: ipNet(addr)}); err != nil {
		return fmt.Errorf("add address %s to %s: %w", addr, link, err)
	}
	return nil
}

// Route leads to a network by a gateway, in the calling goroutine's namespace.
func Route(to netip.Prefix, gateway netip.Addr) error {
	if err := netlink.RouteAdd(&netlink.Route{Dst: ipNet(to), Gw: gateway.AsSlice()}); err != nil {
		return fmt.Errorf("add route to %s: %w", to, err)
	}
	return nil
}

// Delete removes links of the calling goroutine's namespace; it is no error if they are not there.
func Delete(names ...string) error {
	var errs []error
	for _, name := range names {
		l, err := netlink.LinkByName(name)
		if errors.As(err, new(netlink.LinkNotFoundError)) {
			continue
		}
		if err == nil {
			err = netlink.LinkDel(l)
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// ForgetConnections has the kernel forget what it tracks of connections of the calling goroutine's namespace.
func ForgetConnections() error { return netlink.ConntrackTableFlush(netlink.ConntrackTable) }

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}
