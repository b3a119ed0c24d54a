//go:build node

package bpf

import (
	"errors"
	"net"
	"net/netip"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// ownAddress gives this namespace's loopback link an address.
func ownAddress(t *testing.T, prefix string) {
	t.Helper()
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		t.Fatal(err)
	}
	addr, err := netlink.ParseAddr(prefix)
	if err != nil {
		t.Fatal(err)
	}
	addr.Flags = unix.IFA_F_NODAD
	if err := netlink.AddrAdd(lo, addr); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = netlink.AddrDel(lo, addr) })
	if err := awaitOwn(addr.IP); err != nil {
		t.Fatal(err)
	}
}

// TestPortlessAddress is B3: an address that is left out of those for node ports refuses them, and no host port.
func TestPortlessAddress(t *testing.T) {
	d := start(t, node(t))
	ownAddress(t, "192.0.2.7/32")
	ownAddress(t, "fd02::7/128")
	for _, at := range []string{"192.0.2.7:30080", "[fd02::7]:30080"} {
		self := netip.MustParseAddrPort(at)
		listen := "127.0.0.1:0"
		if self.Addr().Is6() {
			listen = "[::1]:0"
		}
		wild := Frontend{Addr: netip.AddrPortFrom(unspecified(self.Addr()), self.Port()), Protocol: tcp}
		if err := d.Services.Publish(9, Block{Cluster: []netip.AddrPort{greeter(t, listen, "a")}}); err != nil {
			t.Fatal(err)
		}
		for _, kind := range []FrontendKind{NodePort, HostPort} {
			if err := errors.Join(d.Services.PutFrontend(wild, kind, 9), d.SetNodeAddresses(nil, self.Addr())); err != nil {
				t.Fatal(err)
			}
			if kind == NodePort {
				refused(t, at, "a node port")
			} else if name, err := greet(t, at); err != nil || name != "a" {
				t.Errorf("host port: %q, %v", name, err)
			}
			if err := d.SetNodeAddresses([]netip.Addr{self.Addr()}); err != nil {
				t.Fatal(err)
			}
			if name, err := greet(t, at); err != nil || name != "a" {
				t.Errorf("%s: %q, %v", kind, name, err)
			}
		}
	}
}

// TestWildcardSocket asks at addresses of the node from the node's namespace and from another one.
func TestWildcardSocket(t *testing.T) {
	d := start(t, node(t))
	pod := newNetns(t)
	ownAddress(t, "192.0.2.7/32")
	ownAddress(t, "fd02::7/128")
	for _, family := range []struct {
		listen, own, loopback, other, none string
	}{
		{"127.0.0.1:0", "192.0.2.7:30080", "127.0.0.1:30080", "192.0.2.8:30080", "0.0.0.0:30080"},
		{"[::1]:0", "[fd02::7]:30080", "[::1]:30080", "[fd02::8]:30080", "[::]:30080"},
	} {
		backend, self := greeter(t, family.listen, "a"), netip.MustParseAddrPort(family.own)
		wild := Frontend{Addr: netip.AddrPortFrom(unspecified(self.Addr()), self.Port()), Protocol: tcp}
		// The policies are about others: whoever is inside has the cluster's list (reference rows E3, E4).
		b := Block{Cluster: []netip.AddrPort{backend}, InternalLocal: true, InternalDrop: true, ExternalLocal: true, ExternalDrop: true}
		if err := errors.Join(d.Services.Publish(9, b), d.Services.PutFrontend(wild, NodePort, 9), d.SetNodeAddresses(nil)); err != nil {
			t.Fatal(err)
		}
		refused(t, family.own, "an address that is not the node's")
		node := []netip.Addr{self.Addr(), netip.MustParseAddrPort(family.loopback).Addr()}
		if err := d.SetNodeAddresses(node); err != nil {
			t.Fatal(err)
		}
		for _, to := range []string{family.own, family.loopback} {
			if name, err := greet(t, to); err != nil || name != "a" {
				t.Errorf("%s: %q, %v", to, name, err)
			}
		}
		refused(t, family.none, "the unspecified address")
		// An exact frontend comes first.
		exact := Frontend{Addr: self, Protocol: tcp}
		publish(t, d, 10, exact, Block{})
		refused(t, family.own, "an exact frontend without backends")
		if err := d.Services.DeleteFrontend(exact); err != nil {
			t.Fatal(err)
		}
		// The backend cannot be reached from the other namespace: a translated connect is refused by its loopback, where
		// nobody listens, and others go nowhere.
		for to, want := range map[string]error{family.own: unix.ECONNREFUSED, family.other: unix.ENETUNREACH} {
			pod.do(t, func() error {
				if c, err := net.Dial("tcp", to); !errors.Is(err, want) {
					if err == nil {
						c.Close()
					}
					t.Errorf("from a pod to %s: %v, want %v", to, err, want)
				}
				return nil
			})
		}
		loopbackOfPod(t, pod, family.loopback)
		if err := d.Services.DeleteFrontend(wild); err != nil {
			t.Fatal(err)
		}
	}
}

func refused(t *testing.T, to, what string) {
	t.Helper()
	if c, err := net.Dial("tcp", to); err == nil {
		c.Close()
		t.Errorf("%s answers", what)
	}
}

// loopbackOfPod: what a pod runs on its loopback is what it reaches there, whatever the node has on that port.
func loopbackOfPod(t *testing.T, pod *netns, addr string) {
	t.Helper()
	pod.do(t, func() error {
		l, err := net.Listen("tcp", addr)
		if err != nil {
			return err
		}
		defer l.Close()
		c, err := net.Dial("tcp", addr)
		if err != nil {
			return err
		}
		return c.Close()
	})
}

// TestHostPortAddress: the address of a host port is what a pod's manifest says, and answers only if the node has it.
func TestHostPortAddress(t *testing.T) {
	d := start(t, node(t))
	backend := greeter(t, "127.0.0.1:0", "a")
	ownAddress(t, "192.0.2.7/32")
	publish(t, d, 9, frontend("192.0.2.7:30080", tcp), Block{Cluster: []netip.AddrPort{backend}})
	if err := d.Services.PutFrontend(frontend("192.0.2.7:30080", tcp), HostPort, 9); err != nil {
		t.Fatal(err)
	}
	refused(t, "192.0.2.7:30080", "a host port at an address of others")
	if err := d.SetNodeAddresses(addrs([]string{"192.0.2.7"})); err != nil {
		t.Fatal(err)
	}
	if name, err := greet(t, "192.0.2.7:30080"); err != nil || name != "a" {
		t.Errorf("a host port at the node's address: %q, %v", name, err)
	}
}

// TestWildcardUDP: replies come from the address of the node that was asked.
func TestWildcardUDP(t *testing.T) {
	d := start(t, node(t))
	if err := d.SetNodeAddresses(addrs([]string{"192.0.2.7", "192.0.2.8"})); err != nil {
		t.Fatal(err)
	}
	f := Frontend{Addr: netip.AddrPortFrom(netip.IPv4Unspecified(), 30053), Protocol: udp}
	if err := errors.Join(
		d.Services.Publish(1, Block{Cluster: []netip.AddrPort{echo(t, "127.0.0.1:0", "a")}}), d.Services.PutFrontend(f, NodePort, 1),
	); err != nil {
		t.Fatal(err)
	}
	c, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	for _, to := range []netip.AddrPort{at("192.0.2.7", 30053), at("192.0.2.8", 30053)} {
		exchange(t, c.(*net.UDPConn), &to, to)
	}
}
