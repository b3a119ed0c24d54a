//go:build node

package bpf

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"testing"
	"time"
	"unsafe"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// unconnected is a UDP socket of a family that is not connected.
func unconnected(t *testing.T, listen string) *net.UDPConn {
	t.Helper()
	c, err := net.ListenPacket("udp", listen)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c.(*net.UDPConn)
}

// pinsOf reads what a socket remembers.
func pinsOf(t *testing.T, d *Datapath, c *net.UDPConn, change func(*sockPins)) {
	t.Helper()
	raw, err := c.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var inner error
	err = raw.Control(func(fd uintptr) {
		var p sockPins
		if inner = d.objs.SocketPins.Lookup(uint32(fd), &p); inner == nil {
			change(&p)
			inner = d.objs.SocketPins.Update(uint32(fd), p, ebpf.UpdateExist)
		}
	})
	if err := errors.Join(err, inner); err != nil {
		t.Fatal(err)
	}
}

// TestPins is K2: where the datagrams of an unconnected socket go.
func TestPins(t *testing.T) {
	d := start(t, node(t))
	for family, a := range map[string]struct{ listen, vip, far string }{
		"v4": {"127.0.0.1:0", "10.96.4.1:53", "198.18.0.0"},
		"v6": {"[::1]:0", "[fd00:96::41]:53", "2001:db8::"},
	} {
		var backends []netip.AddrPort
		for i := range 10 {
			backends = append(backends, echo(t, a.listen, fmt.Sprint(i)))
		}
		f := frontend(a.vip, udp)
		c := unconnected(t, a.listen)
		ask := func() string { t.Helper(); return exchange(t, c, &f.Addr, f.Addr) }
		publish(t, d, 1, f, Block{Cluster: backends})
		first := ask()
		var one netip.AddrPort
		for i, b := range backends {
			if fmt.Sprint(i) == first {
				one = b
			}
		}
		var far []netip.AddrPort
		addr := netip.MustParseAddr(a.far)
		for range 5000 {
			far = append(far, netip.AddrPortFrom(addr, 53))
			addr = addr.Next()
		}
		for name, b := range map[string]Block{
			"the cluster's list":            {Cluster: rest(backends, netip.AddrPort{})},
			"both lists":                    {Cluster: backends, Local: []netip.AddrPort{one}},
			"the local list only":           {Cluster: rest(backends, one), Local: []netip.AddrPort{one}},
			"the list it cannot choose now": {Cluster: []netip.AddrPort{one}, Local: rest(backends, one), InternalLocal: true},
			"those that drain":              {Cluster: rest(backends, one), Draining: []netip.AddrPort{one}},
			"nothing but what drains":       {Draining: []netip.AddrPort{one}},
			"a list of thousands":           {Cluster: append([]netip.AddrPort{one}, far...)},
			"thousands that drain":          {Cluster: rest(backends, one), Draining: append([]netip.AddrPort{one}, far...)},
		} {
			publish(t, d, 1, f, b)
			if got := ask(); got != first {
				t.Errorf("K2, G2 %s: the backend is in %s, but %s answers, not %s", family, name, got, first)
			}
		}
		publish(t, d, 1, f, Block{Cluster: rest(backends, one)})
		if got := ask(); got == first {
			t.Errorf("K2 %s: the backend serves no more, but gets datagrams", family)
		}
		publish(t, d, 1, f, Block{Cluster: backends})
		pinned, moved := ask(), false
		for range 12 {
			pinsOf(t, d, c, func(p *sockPins) { p.Pin[0].LastSent -= uint64(121 * time.Second) })
			moved = moved || ask() != pinned
		}
		if !moved {
			t.Errorf("K2 %s: after two silent minutes the choice is not free", family)
		}
		pinned = ask()
		pinsOf(t, d, c, func(p *sockPins) { p.Pin[0].LastSent -= uint64(119 * time.Second) })
		if got := ask(); got != pinned {
			t.Errorf("K2 %s: within two minutes %s answers, not %s", family, got, pinned)
		}
	}
}

// TestPinAffinity: a socket's first datagram to a frontend is its client's new connection, and the others are not.
func TestPinAffinity(t *testing.T) {
	cfg := node(t)
	d := start(t, cfg)
	var backends []netip.AddrPort
	for i := range 10 {
		backends = append(backends, echo(t, "127.0.0.1:0", fmt.Sprint(i)))
	}
	f := frontend("10.96.4.2:53", udp)
	publish(t, d, 1, f, Block{Cluster: backends, Affinity: time.Hour})
	if err := d.Pods.PutHost(cfg.HostNetNSCookie, netip.MustParseAddr(host), netip.Addr{}); err != nil {
		t.Fatal(err)
	}
	first := exchange(t, unconnected(t, "127.0.0.1:0"), &f.Addr, f.Addr)
	for range 8 {
		if got := exchange(t, unconnected(t, "127.0.0.1:0"), &f.Addr, f.Addr); got != first {
			t.Fatalf("F1 two sockets of a client go to %s and %s", first, got)
		}
	}
	c := unconnected(t, "127.0.0.1:0")
	exchange(t, c, &f.Addr, f.Addr)
	a := affine{Datapath: d}
	before := a.entry(t, host).LastUsed
	exchange(t, c, &f.Addr, f.Addr)
	if after := a.entry(t, host).LastUsed; after != before {
		t.Error("F1 a datagram of a flow that is there counts as a connection")
	}
}

// TestReplies is K3: who a reply is from, by every way to read it.
func TestReplies(t *testing.T) {
	d := start(t, node(t))
	backend := echo(t, "127.0.0.1:0", "a")
	f := frontend("10.96.4.3:53", udp)
	publish(t, d, 1, f, Block{Cluster: []netip.AddrPort{backend}})
	for name, c := range map[string]*net.UDPConn{"IPv4": unconnected(t, "127.0.0.1:0"), "v4-mapped": unconnected(t, "[::]:0")} {
		if _, err := c.WriteToUDPAddrPort([]byte("x"), f.Addr); err != nil {
			t.Fatal(err)
		}
		raw, err := c.SyscallConn()
		if err != nil {
			t.Fatal(err)
		}
		for what, flags := range map[string]int{"a look": unix.MSG_PEEK, "and another": unix.MSG_PEEK} {
			var from unix.Sockaddr
			var inner error
			err := raw.Read(func(fd uintptr) bool {
				_, from, inner = unix.Recvfrom(int(fd), make([]byte, 10), flags|unix.MSG_DONTWAIT)
				return !errors.Is(inner, unix.EAGAIN)
			})
			if err := errors.Join(err, inner); err != nil {
				t.Fatal(err)
			}
			if got := sockaddr(from); got != f.Addr {
				t.Errorf("K3 %s, %s at the reply: it is from %s", name, what, got)
			}
		}
		if _, from, err := c.ReadFromUDPAddrPort(make([]byte, 10)); err != nil || netip.AddrPortFrom(from.Addr().Unmap(), from.Port()) != f.Addr {
			t.Errorf("K3 %s: the reply is from %s, %v", name, from, err)
		}
	}
}

// sockaddr is an address in Go's words, IPv4 as such.
func sockaddr(sa unix.Sockaddr) netip.AddrPort {
	switch sa := sa.(type) {
	case *unix.SockaddrInet4:
		return netip.AddrPortFrom(netip.AddrFrom4(sa.Addr), uint16(sa.Port))
	case *unix.SockaddrInet6:
		return netip.AddrPortFrom(netip.AddrFrom16(sa.Addr).Unmap(), uint16(sa.Port))
	}
	return netip.AddrPort{}
}

// TestReconnect is K18: a socket that connects to another peer is that one's, whatever it was before, and one that sends
// elsewhere in between stays connected to its peer.
func TestReconnect(t *testing.T) {
	d := start(t, node(t))
	backend := echo(t, "127.0.0.1:0", "a")
	first, second := frontend("10.96.4.4:53", udp), frontend("10.96.4.5:53", udp)
	publish(t, d, 1, first, Block{Cluster: []netip.AddrPort{backend}})
	publish(t, d, 2, second, Block{Cluster: []netip.AddrPort{backend}})
	fd := int(dial(t, unix.AF_INET, first.Addr))
	wantPeer := func(what string, want netip.AddrPort) {
		t.Helper()
		if got := sockaddr(peerOf(t, fd)); got != want {
			t.Errorf("K18 %s: the peer is %s, want %s", what, got, want)
		}
		if err := unix.Send(fd, []byte("x"), 0); err != nil {
			t.Fatal(err)
		}
		if _, from, err := unix.Recvfrom(fd, make([]byte, 10), 0); err != nil || sockaddr(from) != want {
			t.Errorf("K18 %s: the reply is from %v, %v, want %s", what, from, err, want)
		}
	}
	connect := func(to netip.AddrPort) {
		t.Helper()
		if err := unix.Connect(fd, &unix.SockaddrInet4{Addr: to.Addr().As4(), Port: int(to.Port())}); err != nil {
			t.Fatal(err)
		}
	}
	wantPeer("connected", first.Addr)
	connect(second.Addr)
	wantPeer("connected again", second.Addr)
	disconnect(t, fd)
	connect(first.Addr)
	wantPeer("connected after AF_UNSPEC", first.Addr)
	if err := unix.Sendto(fd, []byte("x"), 0, &unix.SockaddrInet4{Addr: second.Addr.Addr().As4(), Port: 53}); err != nil {
		t.Fatal(err)
	}
	if _, from, err := unix.Recvfrom(fd, make([]byte, 10), 0); err != nil || sockaddr(from) != second.Addr {
		t.Errorf("K3 the reply to what was sent last is from %v, %v, want %s", from, err, second.Addr)
	}
	if got := sockaddr(peerOf(t, fd)); got != first.Addr {
		t.Errorf("K5 after a datagram to another the peer is %s, want %s", got, first.Addr)
	}
	for i := range len(sockPins{}.Pin) + 1 {
		other := frontend(fmt.Sprintf("10.96.5.%d:53", i), udp)
		publish(t, d, uint32(10+i), other, Block{Cluster: addrPorts("127.0.0.1:9")})
		if err := unix.Sendto(fd, []byte("x"), 0, &unix.SockaddrInet4{Addr: other.Addr.Addr().As4(), Port: 53}); err != nil && !errors.Is(err, unix.ECONNREFUSED) {
			t.Fatal(err)
		}
	}
	if got := sockaddr(peerOf(t, fd)); got != first.Addr {
		t.Errorf("K5 after datagrams to many others the peer is %s, want %s", got, first.Addr)
	}
	connect(backend)
	if got := sockaddr(peerOf(t, fd)); got != backend {
		t.Errorf("K18 connected to a pod itself: the peer is %s, want %s", got, backend)
	}
}

// disconnect is connect() with AF_UNSPEC, for which the system call package has no address.
func disconnect(t *testing.T, fd int) {
	t.Helper()
	var sa unix.RawSockaddr
	if _, _, errno := unix.Syscall(unix.SYS_CONNECT, uintptr(fd), uintptr(unsafe.Pointer(&sa)), unix.SizeofSockaddrInet4); errno != 0 {
		t.Fatal(errno)
	}
}
