//go:build node

package bpf

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// byInode opens the namespaces of a test by their numbers, as the agent does.
func byInode(t *testing.T, all ...*os.File) func(uint64) (*os.File, error) {
	t.Helper()
	return func(inode uint64) (*os.File, error) {
		for _, f := range all {
			var stat unix.Stat_t
			if err := unix.Fstat(int(f.Fd()), &stat); err != nil {
				return nil, err
			}
			if stat.Ino == inode {
				return os.Open("/proc/self/fd/" + strconv.Itoa(int(f.Fd())))
			}
		}
		return nil, os.ErrNotExist
	}
}

func newReaper(t *testing.T, d *Datapath, others ...*netns) *Reaper {
	t.Helper()
	own, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { own.Close() })
	all := []*os.File{own}
	for _, n := range others {
		all = append(all, n.file)
	}
	r, err := d.NewReaper(byInode(t, all...))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	})
	return r
}

// A dialed is a connected UDP socket.
type dialed int

// dial connects a socket of a family to an address, which may be IPv4 for an IPv6 socket.
func dial(t *testing.T, family int, to netip.AddrPort) dialed {
	t.Helper()
	fd, err := unix.Socket(family, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	var sa unix.Sockaddr = &unix.SockaddrInet6{Addr: to.Addr().As16(), Port: int(to.Port())}
	if family == unix.AF_INET {
		sa = &unix.SockaddrInet4{Addr: to.Addr().As4(), Port: int(to.Port())}
	}
	if err := unix.Connect(fd, sa); err != nil {
		t.Fatalf("connect to %s: %v", to, err)
	}
	return dialed(fd)
}

// pending is the error that the next call gets.
func (d dialed) pending(t *testing.T) error {
	t.Helper()
	errno, err := unix.GetsockoptInt(int(d), unix.SOL_SOCKET, unix.SO_ERROR)
	if err != nil {
		t.Fatal(err)
	}
	if errno == 0 {
		return nil
	}
	return unix.Errno(errno)
}

// wantReaped ends stranded sockets and expects so many.
func wantReaped(t *testing.T, r *Reaper, ended int) {
	t.Helper()
	got, err := r.Reap()
	if err != nil {
		t.Fatal(err)
	}
	if got.Ended != ended || len(got.Left) != 0 {
		t.Errorf("reaped %+v, want %d ended and nothing left", got, ended)
	}
}

// TestReaper ends exactly the connected sockets whose backend serves their frontend no more (K1, G2).
func TestReaper(t *testing.T) {
	d := start(t, node(t))
	other := newNetns(t)
	r := newReaper(t, d, other)
	for _, c := range []struct {
		name       string
		family     int
		gone, stay string
		vip        string
	}{
		{"v4", unix.AF_INET, "127.0.0.1:7001", "127.0.0.2:7001", "10.96.0.13:53"},
		{"v6", unix.AF_INET6, "[::1]:7001", "[::1]:7002", "[fd00:96::13]:53"},
		{"v4-mapped", unix.AF_INET6, "127.0.0.1:7003", "127.0.0.2:7003", "10.96.0.14:53"},
	} {
		t.Run("K1 connected UDP recovers from a dead backend, "+c.name, func(t *testing.T) {
			gone, stay := netip.MustParseAddrPort(c.gone), netip.MustParseAddrPort(c.stay)
			f := frontend(c.vip, udp)
			connect := func(to netip.AddrPort) dialed {
				if c.family == unix.AF_INET6 {
					to = netip.AddrPortFrom(netip.AddrFrom16(to.Addr().As16()), to.Port())
				}
				return dial(t, c.family, to)
			}
			publish(t, d, 1, f, Block{Cluster: []netip.AddrPort{gone}})
			lost := connect(f.Addr)
			var lostElsewhere dialed
			other.do(t, func() error { lostElsewhere = connect(f.Addr); return nil })
			direct := connect(gone)
			rewritten := connect(f.Addr)
			publish(t, d, 1, f, Block{Cluster: []netip.AddrPort{stay}})
			kept := connect(f.Addr)
			if err := unix.Connect(int(rewritten), peerOf(t, int(kept))); err != nil {
				t.Fatal(err)
			}
			wantReaped(t, r, 2)
			for name, s := range map[string]dialed{"in the node's": lost, "in another": lostElsewhere} {
				if err := s.pending(t); !errors.Is(err, unix.ECONNABORTED) {
					t.Errorf("socket of the backend that is gone, %s namespace: %v, want ECONNABORTED", name, err)
				}
			}
			for name, s := range map[string]dialed{
				"of a backend that serves": kept, "that is connected to a pod itself": direct, "that was connected anew": rewritten,
			} {
				if err := s.pending(t); err != nil {
					t.Errorf("socket %s: %v", name, err)
				}
				if _, err := unix.Getpeername(int(s)); err != nil {
					t.Errorf("socket %s: %v", name, err)
				}
			}
			wantReaped(t, r, 0)
		})
	}
}

func peerOf(t *testing.T, fd int) unix.Sockaddr {
	t.Helper()
	sa, err := unix.Getpeername(fd)
	if err != nil {
		t.Fatal(err)
	}
	return sa
}

// TestReaperSpares holds what is no reason to end a socket, and what is.
func TestReaperSpares(t *testing.T) {
	d := start(t, node(t))
	r := newReaper(t, d)
	at := func(i int) netip.AddrPort {
		return netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 1, byte(i >> 8), byte(i)}), 7000)
	}
	var many []netip.AddrPort
	for i := range 1000 {
		many = append(many, at(i))
	}
	f := frontend("10.96.0.20:53", udp)
	t.Run("a backend far down a long list serves", func(t *testing.T) {
		publish(t, d, 1, f, Block{Cluster: many[999:]})
		s := dial(t, unix.AF_INET, f.Addr)
		publish(t, d, 1, f, Block{Cluster: many})
		wantReaped(t, r, 0)
		publish(t, d, 1, f, Block{Cluster: many[:1], Local: many[999:]})
		wantReaped(t, r, 0)
		publish(t, d, 1, f, Block{Cluster: many[:999]})
		wantReaped(t, r, 1)
		if err := s.pending(t); !errors.Is(err, unix.ECONNABORTED) {
			t.Errorf("after its backend left: %v", err)
		}
	})
	t.Run("G2 flows of a Service that is deleted end", func(t *testing.T) {
		publish(t, d, 1, f, Block{Cluster: many[:1]})
		dial(t, unix.AF_INET, f.Addr)
		if err := d.Services.DeleteFrontend(f); err != nil {
			t.Fatal(err)
		}
		d.Services.Retire(1)
		wantReaped(t, r, 1)
	})
	t.Run("another frontend has the backend", func(t *testing.T) {
		g := frontend("10.96.0.21:53", udp)
		publish(t, d, 1, f, Block{Cluster: many[:1]})
		publish(t, d, 2, g, Block{Cluster: many[:1]})
		s := dial(t, unix.AF_INET, f.Addr)
		if err := unix.Connect(int(s), &unix.SockaddrInet4{Addr: g.Addr.Addr().As4(), Port: 53}); err != nil {
			t.Fatal(err)
		}
		publish(t, d, 1, f, Block{Cluster: many[1:2]})
		wantReaped(t, r, 0)
		publish(t, d, 2, g, Block{})
		wantReaped(t, r, 1)
	})
	t.Run("G3 TCP connections go on", func(t *testing.T) {
		h := frontend("10.96.0.22:80", tcp)
		publish(t, d, 3, h, Block{Cluster: []netip.AddrPort{greeter(t, "127.0.0.1:0", "a")}})
		c, err := net.Dial("tcp", h.Addr.String())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		publish(t, d, 3, h, Block{})
		wantReaped(t, r, 0)
		if _, err := c.Read(make([]byte, 1)); err != nil {
			t.Error(err)
		}
	})
	t.Run("K2 unconnected sockets pick anew by themselves", func(t *testing.T) {
		publish(t, d, 1, f, Block{Cluster: []netip.AddrPort{echo(t, "127.0.0.1:0", "a")}})
		c, err := net.ListenPacket("udp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		exchange(t, c.(*net.UDPConn), &f.Addr, f.Addr)
		publish(t, d, 1, f, Block{Cluster: []netip.AddrPort{echo(t, "127.0.0.1:0", "b")}})
		wantReaped(t, r, 0)
		if got := exchange(t, c.(*net.UDPConn), &f.Addr, f.Addr); got != "b" {
			t.Errorf("answer of %s", got)
		}
	})
	t.Run("a namespace that cannot be entered", func(t *testing.T) {
		publish(t, d, 1, f, Block{Cluster: many[:1]})
		s := dial(t, unix.AF_INET, f.Addr)
		publish(t, d, 1, f, Block{})
		blind, err := d.NewReaper(func(uint64) (*os.File, error) { return nil, os.ErrNotExist })
		if err != nil {
			t.Fatal(err)
		}
		defer blind.Close()
		got, err := blind.Reap()
		if !errors.Is(err, os.ErrNotExist) || got.Ended != 0 || len(got.Left) != 1 || got.Left[0] != many[0] {
			t.Errorf("reaped %+v, %v; want one left", got, err)
		}
		if err := s.pending(t); err != nil {
			t.Error(err)
		}
		wantReaped(t, r, 1)
	})
}

// TestReaperSameAddresses: the kernel tells sockets of one address and one peer apart by the cookie only (SO_REUSEPORT). All of
// them end in one Reap (K1).
func TestReaperSameAddresses(t *testing.T) {
	d := start(t, node(t))
	r := newReaper(t, d)
	f, gone := frontend("10.96.0.40:53", udp), addrPorts("127.0.0.1:7004")
	publish(t, d, 1, f, Block{Cluster: gone})
	var same []dialed
	for range 40 {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { unix.Close(fd) })
		if err := errors.Join(
			unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEPORT, 1),
			unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}, Port: 7104}),
			unix.Connect(fd, &unix.SockaddrInet4{Addr: f.Addr.Addr().As4(), Port: int(f.Addr.Port())}),
		); err != nil {
			t.Fatal(err)
		}
		same = append(same, dialed(fd))
	}
	publish(t, d, 1, f, Block{Cluster: addrPorts("127.0.0.2:7004")})
	wantReaped(t, r, len(same))
	for _, s := range same {
		if err := s.pending(t); !errors.Is(err, unix.ECONNABORTED) {
			t.Errorf("%v, want ECONNABORTED", err)
		}
	}
}

// TestReaperGoesOn: a socket that cannot be ended keeps no other of its namespace from its end (K1).
func TestReaperGoesOn(t *testing.T) {
	sockets := make([]strandedSocket, 4)
	for i := range sockets {
		sockets[i].Cookie = uint64(i)
	}
	ended, err := endEach(sockets, func(s strandedSocket) error {
		return []error{unix.EPERM, nil, unix.ENOENT, nil}[s.Cookie]
	})
	if ended != 2 || !errors.Is(err, unix.EPERM) || errors.Is(err, unix.ENOENT) {
		t.Errorf("%d ended, %v; want 2 and %v", ended, err, unix.EPERM)
	}
	ended, err = endEach(sockets, func(strandedSocket) error { return unix.EOPNOTSUPP })
	if ended != 0 || err == nil || strings.Count(err.Error(), "\n") != 0 {
		t.Errorf("%d ended, %v; want the failure once", ended, err)
	}
}

// TestReaperApp is what an application sees: its read fails at once, and when it connects again it is served.
func TestReaperApp(t *testing.T) {
	d := start(t, node(t))
	r := newReaper(t, d)
	f := frontend("10.96.0.30:53", udp)
	publish(t, d, 1, f, Block{Cluster: []netip.AddrPort{echo(t, "127.0.0.1:0", "a")}})
	c, err := net.Dial("udp", f.Addr.String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	exchange(t, c.(*net.UDPConn), nil, f.Addr)
	publish(t, d, 1, f, Block{Cluster: []netip.AddrPort{echo(t, "127.0.0.1:0", "b")}})
	failed := make(chan error, 1)
	go func() {
		_, err := c.Read(make([]byte, 100))
		failed <- err
	}()
	if err := c.SetReadDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	wantReaped(t, r, 1)
	if err := <-failed; !errors.Is(err, unix.ECONNABORTED) {
		t.Errorf("read: %v, want ECONNABORTED", err)
	}
	again, err := net.Dial("udp", f.Addr.String())
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	if got := exchange(t, again.(*net.UDPConn), nil, f.Addr); got != "b" {
		t.Errorf("answer of %s, want b", got)
	}
}
