//go:build node

package bpf

import (
	"errors"
	"fmt"
	"net"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// A netns is a network namespace without a name: it is gone when its last link, socket and user are.
type netns struct{ file *os.File }

// in runs f on a thread of its own, after the thread has been brought to a namespace, and ends the thread.
func in(enter, f func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread does not come back
		err := enter()
		if err == nil {
			err = f()
		}
		done <- err
	}()
	return <-done
}

func newNetns(tb testing.TB) *netns {
	tb.Helper()
	n := &netns{}
	err := in(func() error { return unix.Unshare(unix.CLONE_NEWNET) }, func() (err error) {
		n.file, err = os.Open("/proc/thread-self/ns/net")
		// Else a link asks nobody for a MAC until its own address has been found to be nobody else's, which takes seconds.
		for _, links := range []string{"all", "default"} {
			err = errors.Join(err, os.WriteFile("/proc/sys/net/ipv6/conf/"+links+"/accept_dad", []byte("0"), 0))
		}
		return errors.Join(err, netlink.LinkSetUp(&netlink.Device{LinkAttrs: netlink.LinkAttrs{Name: "lo"}}))
	})
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { n.file.Close() })
	return n
}

func (n *netns) do(tb testing.TB, f func() error) {
	tb.Helper()
	if err := in(func() error { return unix.Setns(int(n.file.Fd()), unix.CLONE_NEWNET) }, f); err != nil {
		tb.Fatal(err)
	}
}

// plug makes a link named name in n, the other end of which is named peer in to. It returns both indexes.
func (n *netns) plug(tb testing.TB, name string, to *netns, peer string) (index, peerIndex int) {
	tb.Helper()
	n.do(tb, func() error {
		v := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: name}, PeerName: peer, PeerNamespace: netlink.NsFd(int(to.file.Fd()))}
		if err := netlink.LinkAdd(v); err != nil {
			return err
		}
		index = v.Index
		return netlink.LinkSetUp(v)
	})
	to.do(tb, func() error {
		other, err := netlink.LinkByName(peer)
		if err != nil {
			return err
		}
		peerIndex = other.Attrs().Index
		return netlink.LinkSetUp(other)
	})
	return index, peerIndex
}

// address gives link addresses, which are usable at once.
func (n *netns) address(tb testing.TB, link string, prefixes ...string) {
	tb.Helper()
	n.do(tb, func() error {
		l, err := netlink.LinkByName(link)
		for _, p := range prefixes {
			addr, parseErr := netlink.ParseAddr(p)
			if err = errors.Join(err, parseErr); err != nil {
				return err
			}
			addr.Flags = unix.IFA_F_NODAD
			err = errors.Join(netlink.AddrAdd(l, addr), awaitOwn(addr.IP))
		}
		return err
	})
}

// awaitOwn waits until packets for an address are the namespace's own. Of an IPv6 address that is a worker's doing, after the address can
// be bound to (addrconf_dad_work in net/ipv6/addrconf.c), and until then they have no route.
func awaitOwn(ip net.IP) error {
	for deadline := time.Now().Add(patience); ; runtime.Gosched() {
		routes, err := netlink.RouteGet(ip)
		if err == nil && len(routes) == 1 && routes[0].Type == unix.RTN_LOCAL {
			return nil
		}
		if time.Now().After(deadline) {
			return errors.Join(fmt.Errorf("%s is not local: %v", ip, routes), err)
		}
	}
}

func (n *netns) sysctl(tb testing.TB, settings ...string) {
	tb.Helper()
	n.do(tb, func() error {
		for _, s := range settings {
			name, value, _ := strings.Cut(s, "=")
			if err := os.WriteFile("/proc/sys/net/"+name, []byte(value), 0); err != nil {
				return err
			}
		}
		return nil
	})
}

// route adds a route by a link, with a permanent neighbour when the destination is one address.
func (n *netns) route(tb testing.TB, link, to, via string, mac net.HardwareAddr) {
	tb.Helper()
	n.do(tb, func() error {
		l, err := netlink.LinkByName(link)
		if err != nil {
			return err
		}
		dst, err := netlink.ParseIPNet(to)
		if err != nil {
			return err
		}
		r := &netlink.Route{LinkIndex: l.Attrs().Index, Dst: dst, Scope: netlink.SCOPE_LINK}
		next := dst.IP
		if via != "" {
			next = net.ParseIP(via)
			r.Gw, r.Scope, r.Flags = next, netlink.SCOPE_UNIVERSE, int(netlink.FLAG_ONLINK)
		}
		return errors.Join(netlink.NeighSet(&netlink.Neigh{
			LinkIndex: l.Attrs().Index, State: netlink.NUD_PERMANENT, IP: next, HardwareAddr: mac,
		}), netlink.RouteAdd(r))
	})
}

func (n *netns) mac(tb testing.TB, link string) (mac net.HardwareAddr) {
	tb.Helper()
	n.do(tb, func() error {
		l, err := netlink.LinkByName(link)
		if err == nil {
			mac = l.Attrs().HardwareAddr
		}
		return err
	})
	return mac
}
