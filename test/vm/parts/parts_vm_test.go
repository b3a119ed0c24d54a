//go:build vm

package parts

import (
	"encoding/binary"
	"io"
	"net"
	"os"
	"strings"
	"testing"
	"unsafe"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// dummy makes a link that ends with the test.
func dummy(t *testing.T, addr string) netlink.Link {
	t.Helper()
	attrs := netlink.NewLinkAttrs()
	attrs.Name = "parts0"
	if err := netlink.LinkAdd(&netlink.Dummy{LinkAttrs: attrs}); err != nil {
		t.Fatal("dummy:", err)
	}
	link, err := netlink.LinkByName(attrs.Name)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := netlink.LinkDel(link); err != nil {
			t.Error(err)
		}
	})
	if err := netlink.LinkSetUp(link); err != nil {
		t.Fatal(err)
	}
	ip, err := netlink.ParseAddr(addr)
	if err != nil {
		t.Fatal(err)
	}
	if err := netlink.AddrAdd(link, ip); err != nil {
		t.Fatal(err)
	}
	return link
}

func TestIPVlan(t *testing.T) {
	parent := dummy(t, "10.77.0.1/24")
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.ParentIndex = "parts1", parent.Attrs().Index
	if err := netlink.LinkAdd(&netlink.IPVlan{LinkAttrs: attrs, Mode: netlink.IPVLAN_MODE_L2}); err != nil {
		t.Fatal(err)
	}
	slave, err := netlink.LinkByName("parts1")
	if err != nil {
		t.Fatal(err)
	}
	if slave.Type() != "ipvlan" || slave.Attrs().HardwareAddr.String() != parent.Attrs().HardwareAddr.String() {
		t.Errorf("the slave is a %s with address %s, its parent has %s", slave.Type(), slave.Attrs().HardwareAddr, parent.Attrs().HardwareAddr)
	}
}

func TestFQ(t *testing.T) {
	link := dummy(t, "10.77.0.1/24")
	want := netlink.NewFq(netlink.QdiscAttrs{LinkIndex: link.Attrs().Index, Handle: netlink.MakeHandle(1, 0), Parent: netlink.HANDLE_ROOT})
	if err := netlink.QdiscAdd(want); err != nil {
		t.Fatal(err)
	}
	have, err := netlink.QdiscList(link)
	if err != nil || len(have) != 1 || have[0].Type() != "fq" {
		t.Errorf("queueing of the link is %v (%v)", have, err)
	}
}

func sockaddr(ip string, port int) *unix.SockaddrInet4 {
	return &unix.SockaddrInet4{Port: port, Addr: [4]byte(net.ParseIP(ip).To4())}
}

func socket(t *testing.T, protocol int) int {
	t.Helper()
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, protocol)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	return fd
}

func TestSCTP(t *testing.T) {
	server, client := socket(t, unix.IPPROTO_SCTP), socket(t, unix.IPPROTO_SCTP)
	if err := unix.Bind(server, sockaddr("127.0.0.1", 7700)); err != nil {
		t.Fatal(err)
	}
	if err := unix.Listen(server, 1); err != nil {
		t.Fatal(err)
	}
	if err := unix.Connect(client, sockaddr("127.0.0.1", 7700)); err != nil {
		t.Fatal(err)
	}
	conn, _, err := unix.Accept(server)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(conn)
	if _, err := unix.Write(client, []byte("hello")); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, 16)
	if n, err := unix.Read(conn, got); err != nil || string(got[:n]) != "hello" {
		t.Errorf("received %q, %v", got[:max(n, 0)], err)
	}
}

// The kernel's structures for IPVS, include/uapi/linux/ip_vs.h. Addresses and ports are in network order, and padding is
// spelled out.
type (
	ipvsService struct {
		protocol  uint16
		_         uint16
		addr      [4]byte
		port      [2]byte
		_         [2]byte
		_         uint32 // fwmark
		scheduler [16]byte
		_         [2]uint32 // flags, timeout
		netmask   [4]byte
	}
	ipvsDest struct {
		addr   [4]byte
		port   [2]byte
		_      [2]byte
		flags  uint32
		weight int32
		_      [2]uint32 // thresholds of connections
	}
	ipvsDestOf struct {
		service ipvsService
		dest    ipvsDest
	}
)

const (
	ipvsSetAdd     = 64 + 1024 + 64 + 2
	ipvsSetAddDest = 64 + 1024 + 64 + 7
	ipvsMasquerade = 0
)

func set[T any](t *testing.T, option int, value *T) {
	t.Helper()
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_RAW)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	if err := unix.SetsockoptString(fd, unix.IPPROTO_IP, option, string(unsafe.Slice((*byte)(unsafe.Pointer(value)), unsafe.Sizeof(*value)))); err != nil {
		t.Fatalf("IPVS option %d: %v", option, err)
	}
}

// A connection to a virtual address arrives at the real one.
func TestIPVS(t *testing.T) {
	dummy(t, "10.77.0.1/24")
	l, err := net.Listen("tcp4", "10.77.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		_, _ = io.WriteString(conn, "from the real server")
		_ = conn.Close()
	}()
	var port [2]byte
	binary.BigEndian.PutUint16(port[:], uint16(l.Addr().(*net.TCPAddr).Port))
	service := ipvsService{protocol: unix.IPPROTO_TCP, addr: [4]byte{10, 77, 0, 2}, port: [2]byte{0, 80}, netmask: [4]byte{255, 255, 255, 255}}
	copy(service.scheduler[:], "rr")
	vip, err := netlink.ParseAddr("10.77.0.2/32")
	if err != nil {
		t.Fatal(err)
	}
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		t.Fatal(err)
	}
	if err := netlink.AddrAdd(lo, vip); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := netlink.AddrDel(lo, vip); err != nil {
			t.Error(err)
		}
	})
	set(t, ipvsSetAdd, &service)
	set(t, ipvsSetAddDest, &ipvsDestOf{service: service, dest: ipvsDest{addr: [4]byte{10, 77, 0, 1}, port: port, flags: ipvsMasquerade, weight: 1}})
	table, err := os.ReadFile("/proc/net/ip_vs")
	if err != nil || !strings.Contains(string(table), "0A4D0002:0050 rr") {
		t.Errorf("IPVS has %s (%v)", table, err)
	}
	conn, err := net.Dial("tcp4", "10.77.0.2:80")
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if got, err := io.ReadAll(conn); err != nil || string(got) != "from the real server" {
		t.Errorf("received %q, %v", got, err)
	}
}

// Since 5.14 a process can ask for the cookie that programs see of a network namespace.
func TestNetNSCookie(t *testing.T) {
	fd := socket(t, 0)
	cookie, err := unix.GetsockoptUint64(fd, unix.SOL_SOCKET, unix.SO_NETNS_COOKIE)
	switch {
	case err == unix.ENOPROTOOPT:
		t.Log("vm: fallback")
	case err != nil || cookie == 0:
		t.Errorf("cookie %d, %v", cookie, err)
	default:
		t.Log("vm: real")
	}
}
