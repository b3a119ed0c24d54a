//go:build node

package bpf

import (
	"net"
	"net/netip"
	"os"
	"runtime"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// TestSourceGuard sends crafted frames into a guarded veth and reads which of them were dropped.
func TestSourceGuard(t *testing.T) {
	g, err := NewSourceGuard()
	if err != nil {
		t.Fatal(err)
	}
	defer g.Close()
	left, right := "guard0", "guard1"
	if err := netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: left}, PeerName: right}); err != nil {
		t.Fatal(err)
	}
	// The kernel's own IPv6 chatter would be counted, too.
	for _, name := range []string{left, right} {
		if err := os.WriteFile("/proc/sys/net/ipv6/conf/"+name+"/disable_ipv6", []byte("1"), 0); err != nil {
			t.Fatal(err)
		}
	}
	port := linkUp(t, right)
	defer netlink.LinkDel(port)
	if err := g.Attach(port.Attrs().Index); err != nil {
		t.Fatal(err)
	}
	for _, a := range []string{"10.9.0.1", "fd09::1"} {
		if err := g.Allow(port.Attrs().Index, netip.MustParseAddr(a)); err != nil {
			t.Fatal(err)
		}
	}
	sender := linkUp(t, left)
	dropped := func() uint64 {
		n, err := g.Dropped(port.Attrs().Index)
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	for _, tt := range []struct {
		name  string
		frame []byte
		drop  bool
	}{
		{"allowed IPv4", ipv4Frame("10.9.0.1"), false},
		{"foreign IPv4", ipv4Frame("10.9.0.2"), true},
		{"allowed IPv6", ipv6Frame("fd09::1"), false},
		{"foreign IPv6", ipv6Frame("fd09::2"), true},
		{"cut short", ipv4Frame("10.9.0.1")[:20], true},
		{"ARP", append(ethernet(0x0806), make([]byte, 28)...), false},
	} {
		// A frame that is always dropped follows: when it is counted, the one before it has been decided.
		before := dropped()
		sendFrame(t, sender.Attrs().Index, tt.frame)
		sendFrame(t, sender.Attrs().Index, ipv4Frame("10.9.0.99"))
		want := before + 1
		if tt.drop {
			want++
		}
		for deadline := time.Now().Add(patience); dropped() < want && time.Now().Before(deadline); {
			runtime.Gosched()
		}
		if got := dropped(); got != want {
			t.Errorf("%s: %d frames were dropped, want %d", tt.name, got-before, want-before)
		}
	}
	if err := g.Deny(port.Attrs().Index, netip.MustParseAddr("10.9.0.1")); err != nil {
		t.Fatal(err)
	}
	before := dropped()
	sendFrame(t, sender.Attrs().Index, ipv4Frame("10.9.0.1"))
	for deadline := time.Now().Add(patience); dropped() == before; runtime.Gosched() {
		if time.Now().After(deadline) {
			t.Fatal("a denied address still passes")
		}
	}
}

func linkUp(t *testing.T, name string) netlink.Link {
	t.Helper()
	l, err := netlink.LinkByName(name)
	if err == nil {
		err = netlink.LinkSetUp(l)
	}
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func ethernet(protocol uint16) []byte {
	frame := make([]byte, 12, 14)
	copy(frame, net.HardwareAddr{0xff, 0xff, 0xff, 0xff, 0xff, 0xff})
	return append(frame, byte(protocol>>8), byte(protocol))
}

func ipv4Frame(source string) []byte {
	header := make([]byte, 20)
	header[0], header[3], header[8], header[9] = 0x45, 20, 64, 253
	a := netip.MustParseAddr(source).As4()
	copy(header[12:], a[:])
	return append(ethernet(0x0800), header...)
}

func ipv6Frame(source string) []byte {
	header := make([]byte, 40)
	header[0], header[6], header[7] = 0x60, 59, 64
	a := netip.MustParseAddr(source).As16()
	copy(header[8:], a[:])
	return append(ethernet(0x86dd), header...)
}

// sendFrame puts a frame on the wire as it is. A veth hands it to its peer's ingress hook before it returns.
func sendFrame(t *testing.T, ifindex int, frame []byte) {
	t.Helper()
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	if err := unix.Sendto(fd, frame, 0, &unix.SockaddrLinklayer{Ifindex: ifindex}); err != nil {
		t.Fatal(err)
	}
}
