//go:build node

package bpf

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// dialAs connects from an address that the network namespace need not have, as anybody may (IP_FREEBIND in ip(7)).
func dialAs(local, to string) error {
	addr := netip.MustParseAddr(local)
	d := net.Dialer{Timeout: 2 * time.Second, LocalAddr: net.TCPAddrFromAddrPort(netip.AddrPortFrom(addr, 0))}
	d.Control = func(_, _ string, c syscall.RawConn) error {
		level, option := unix.SOL_IP, unix.IP_FREEBIND
		if addr.Is6() {
			level, option = unix.SOL_IPV6, unix.IPV6_FREEBIND
		}
		var err error
		return errors.Join(c.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), level, option, 1) }), err)
	}
	c, err := d.Dial("tcp", to)
	if err == nil {
		c.Close()
	}
	return err
}

// TestForgedSocketAddress: a socket that is bound to another client's address is no other client (E8, F2).
func TestForgedSocketAddress(t *testing.T) {
	cfg := node(t)
	d := start(t, cfg)
	left, refused := error(unix.ENETUNREACH), error(unix.ECONNREFUSED) // by the client's own loopback
	for i, c := range []struct{ pod, second, victim, node, lb, backend, ranges string }{
		{"10.1.0.16", "10.1.0.6", "10.1.0.5", "192.0.2.7", "203.0.113.1:80", "127.0.0.1:1", "10.1.0.0/28"},
		{"fd01::16", "fd01::1:6", "fd01::1:5", "fd02::7", "[2001:db8::1]:80", "[::1]:1", "fd01::1:0/112"},
	} {
		record, ranges := uint32(2*i+1), []netip.Prefix{netip.MustParsePrefix(c.ranges)}
		sticky := netip.AddrPortFrom(netip.MustParseAddrPort(c.lb).Addr(), 81).String()
		if err := errors.Join(
			d.Services.Publish(record, Block{Cluster: addrPorts(c.backend), SourceRanges: ranges}),
			d.Services.PutFrontend(frontend(c.lb, tcp), LoadBalancer, record),
			d.Services.Publish(record+1, Block{Cluster: addrPorts(c.backend), Affinity: time.Hour}),
			d.Services.PutFrontend(frontend(sticky, tcp), LoadBalancer, record+1),
			d.Pods.PutHost(cfg.HostNetNSCookie, netip.MustParseAddr("192.0.2.7"), netip.MustParseAddr("fd02::7")),
			d.SetNodeAddresses(addrs([]string{"192.0.2.7", "fd02::7"})),
		); err != nil {
			t.Fatal(err)
		}
		newPod(t, d, Pod{Addrs: addrs([]string{c.victim})})
		pod := newPod(t, d, Pod{Addrs: addrs([]string{c.pod, c.second})})
		bits := fmt.Sprint("/", netip.MustParseAddr(c.pod).BitLen())
		pod.address(t, "lo", c.pod+bits, c.second+bits)
		stranger := newNetns(t)
		for _, try := range []struct {
			name  string
			by    *netns
			local string
			want  error
		}{
			{"E8 a pod by its second address, which is in a range", pod, c.second, refused},
			{"E8 a pod by its first address, which is in none", pod, c.pod, left},
			{"E8 a pod by another's address", pod, c.victim, left},
			{"E8 a client nobody knows by a pod's address", stranger, c.victim, left},
		} {
			try.by.do(t, func() error {
				if err := dialAs(try.local, c.lb); !errors.Is(err, try.want) {
					t.Errorf("%s, %s: %v, want %v", try.name, try.local, err, try.want)
				}
				return nil
			})
		}
		if err := dialAs(c.victim, c.lb); !errors.Is(err, left) {
			t.Errorf("E8 the node by a pod's address: %v, want %v", err, left)
		}
		pod.do(t, func() error { _ = dialAs(c.victim, sticky); return nil }) // what comes of it is the kernel's
		all, err := d.Affinity.List()
		if err != nil || len(all) != 1 || all[0].Client.String() != c.pod {
			t.Errorf("F2 a pod by another's address is itself: %+v, %v", all, err)
		}
		d.Services.Retire(record + 1)
		now, err := Clock()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := d.Affinity.Sweep(now); err != nil {
			t.Fatal(err)
		}
	}
}
