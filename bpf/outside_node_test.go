//go:build node

package bpf

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"
	"unsafe"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// The addresses of the world, IPv4 and IPv6.
var (
	nodeAddrs   = []string{"192.0.2.1", "fd02::1"}
	clientAddrs = []string{"192.0.2.2", "fd02::2"}
	remoteAddrs = []string{"192.0.2.3", "fd02::3"}
	podAddrs    = []string{"10.1.0.5", "fd01::5"}
)

// A world is a node with a pod, and a client and another node's backend in the same network. None of its sockets are
// translated by the socket hooks.
type world struct {
	*Datapath
	node, pod, client, remote *netns
	uplink, podLink           int
}

func newWorld(tb testing.TB, cfg Config) *world {
	tb.Helper()
	d, err := Load(cfg)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := d.Close(); err != nil {
			tb.Error(err)
		}
	})
	w := &world{Datapath: d, node: newNetns(tb), pod: newNetns(tb), client: newNetns(tb), remote: newNetns(tb)}
	wire := newNetns(tb)
	wire.do(tb, func() error {
		br := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "br"}}
		return errors.Join(netlink.LinkAdd(br), netlink.LinkSetUp(br))
	})
	for name, n := range map[string]*netns{"node": w.node, "client": w.client, "remote": w.remote} {
		_, index := wire.plug(tb, name, n, "eth0")
		if n == w.node {
			w.uplink = index
		}
	}
	wire.do(tb, func() error {
		br, err := netlink.LinkByName("br")
		if err != nil {
			return err
		}
		for _, name := range []string{"node", "client", "remote"} {
			port, err := netlink.LinkByName(name)
			if err != nil {
				return err
			}
			if err := netlink.LinkSetMasterByIndex(port, br.Attrs().Index); err != nil {
				return err
			}
		}
		return nil
	})
	w.client.address(tb, "eth0", clientAddrs[0]+"/24", clientAddrs[1]+"/64")
	w.remote.address(tb, "eth0", remoteAddrs[0]+"/24", remoteAddrs[1]+"/64")
	w.node.address(tb, "eth0", nodeAddrs[0]+"/24", nodeAddrs[1]+"/64")
	// Nobody has to ask for a MAC. What waits for an answer is lost when it is late.
	for _, n := range []*netns{w.client, w.remote, w.node} {
		for i := range nodeAddrs {
			for a, peer := range map[string]*netns{clientAddrs[i]: w.client, remoteAddrs[i]: w.remote, nodeAddrs[i]: w.node} {
				if peer != n {
					n.neighbour(tb, "eth0", a, peer.mac(tb, "eth0"))
				}
			}
		}
	}
	w.node.sysctl(tb, "ipv4/ip_forward=1", "ipv6/conf/all/forwarding=1")
	w.podLink, _ = w.node.plug(tb, "pod", w.pod, "eth0")
	w.pod.address(tb, "eth0", podAddrs[0]+"/32", podAddrs[1]+"/128")
	w.pod.route(tb, "eth0", "0.0.0.0/0", "169.254.1.1", w.node.mac(tb, "pod"))
	w.pod.route(tb, "eth0", "::/0", "fe80::1:1", w.node.mac(tb, "pod"))
	for _, a := range []string{podAddrs[0] + "/32", podAddrs[1] + "/128"} {
		w.node.route(tb, "pod", a, "", w.pod.mac(tb, "eth0"))
	}
	for _, link := range []string{"eth0", "pod"} {
		w.node.do(tb, func() error { return sumBySoftware(link) })
	}
	w.node.do(tb, func() error {
		return errors.Join(w.AttachLink(Uplink, w.uplink), w.AttachLink(PodLink, w.podLink), w.SetNodeAddresses(addrs(nodeAddrs)))
	})
	if err := w.Pods.Put(Pod{Addrs: addrs(podAddrs), Link: w.podLink, Slot: 1}); err != nil {
		tb.Fatal(err)
	}
	return w
}

// sumBySoftware makes the kernel finish checksums when packets leave by a link, as they would on their way to a wire.
// Between veths nobody does, or looks.
func sumBySoftware(link string) error {
	const setTxSum = 0x17 // ETHTOOL_STXCSUM
	value := struct{ command, data uint32 }{setTxSum, 0}
	request := struct {
		name [unix.IFNAMSIZ]byte
		data unsafe.Pointer
		_    [16]byte
	}{data: unsafe.Pointer(&value)}
	copy(request.name[:], link)
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SIOCETHTOOL, uintptr(unsafe.Pointer(&request))); errno != 0 {
		return fmt.Errorf("switch off the checksums of %s: %w", link, errno)
	}
	return nil
}

func addrs(texts []string) (out []netip.Addr) {
	for _, a := range texts {
		out = append(out, netip.MustParseAddr(a))
	}
	return out
}

func at(addr string, port uint16) netip.AddrPort {
	return netip.AddrPortFrom(netip.MustParseAddr(addr), port)
}

// serve answers TCP connections and datagrams with a name and the client's address as the server sees it.
func (n *netns) serve(tb testing.TB, addr netip.AddrPort, name string) {
	tb.Helper()
	n.do(tb, func() error {
		l, err := net.Listen("tcp", addr.String())
		if err != nil {
			return err
		}
		c, err := net.ListenPacket("udp", addr.String())
		if err != nil {
			return errors.Join(err, l.Close())
		}
		tb.Cleanup(func() { l.Close(); c.Close() })
		go acceptAll(l, func(conn net.Conn, b []byte) { _, _ = fmt.Fprintf(conn, "%s %s\n", name, conn.RemoteAddr()) })
		go receiveAll(c, func(from net.Addr, b []byte) { _, _ = c.WriteTo(fmt.Appendf(nil, "%s %s\n", name, from), from) })
		return nil
	})
}

func acceptAll(l net.Listener, each func(net.Conn, []byte)) {
	for {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		go func() {
			defer conn.Close()
			buf := make([]byte, 1<<16)
			for {
				n, err := conn.Read(buf)
				if err != nil {
					return
				}
				each(conn, buf[:n])
			}
		}()
	}
}

func receiveAll(c net.PacketConn, each func(net.Addr, []byte)) {
	buf := make([]byte, 1<<16)
	for {
		n, from, err := c.ReadFrom(buf)
		if err != nil {
			return
		}
		each(from, buf[:n])
	}
}

func network(proto uint8) string {
	return map[uint8]string{tcp: "tcp", udp: "udp", sctp: "sctp"}[proto]
}

// dial connects from a namespace; within is how long it may take.
func (n *netns) dial(tb testing.TB, proto uint8, to netip.AddrPort, within time.Duration) (conn net.Conn, err error) {
	tb.Helper()
	n.do(tb, func() error {
		conn, err = net.DialTimeout(network(proto), to.String(), within)
		return nil
	})
	if err == nil {
		tb.Cleanup(func() { conn.Close() })
	}
	return conn, err
}

// ask says something and returns who answered, and which client's address that one saw.
func ask(conn net.Conn, within time.Duration) (name string, seen netip.AddrPort, err error) {
	if err := conn.SetDeadline(time.Now().Add(within)); err != nil {
		return "", seen, err
	}
	if _, err := io.WriteString(conn, "hello"); err != nil {
		return "", seen, err
	}
	buf := make([]byte, 1500)
	n, err := conn.Read(buf)
	if err != nil {
		return "", seen, err
	}
	var text string
	if _, err := fmt.Sscan(string(buf[:n]), &name, &text); err != nil {
		return "", seen, err
	}
	seen, err = netip.ParseAddrPort(text)
	return name, netip.AddrPortFrom(seen.Addr().Unmap(), seen.Port()), err
}

// patience bounds the wait for what must come, silence for what must not. The former is paid by tests that fail only.
const (
	patience = 30 * time.Second
	silence  = 300 * time.Millisecond
)

// TestFromOutside holds what a client outside gets from a frontend to the reference rows: who answers, and whether that
// one sees the client or the node.
func TestFromOutside(t *testing.T) {
	w := newWorld(t, node(t))
	const backendPort, nodePort = 8080, 30080
	for i, family := range []string{"v4", "v6"} {
		pod, remote, own := at(podAddrs[i], backendPort), at(remoteAddrs[i], backendPort), at(nodeAddrs[i], backendPort)
		w.pod.serve(t, pod, "pod")
		w.remote.serve(t, remote, "remote")
		w.node.serve(t, own, "own")
		wild, exact := netip.AddrPortFrom(unspecified(pod.Addr()), nodePort), at(nodeAddrs[i], nodePort)
		for name, tt := range map[string]struct {
			kind     FrontendKind
			frontend netip.AddrPort
			block    Block
			answers  string
			sees     string
		}{
			"Cluster, on the node":    {NodePort, wild, Block{Cluster: []netip.AddrPort{pod}}, "pod", nodeAddrs[i]},
			"Cluster, on another":     {NodePort, wild, Block{Cluster: []netip.AddrPort{remote}}, "remote", nodeAddrs[i]},
			"Cluster, the node's own": {NodePort, wild, Block{Cluster: []netip.AddrPort{own}}, "own", clientAddrs[i]},
			"Local": {NodePort, wild, Block{
				Cluster: []netip.AddrPort{remote, pod}, Local: []netip.AddrPort{pod}, ExternalLocal: true,
			}, "pod", clientAddrs[i]},
			"Local, the node's own": {NodePort, wild, Block{
				Cluster: []netip.AddrPort{remote, own}, Local: []netip.AddrPort{own}, ExternalLocal: true,
			}, "own", clientAddrs[i]},
			"Local, only elsewhere": {NodePort, wild, Block{
				Cluster: []netip.AddrPort{remote}, ExternalLocal: true, ExternalDrop: true,
			}, "silence", ""},
			"nobody":               {NodePort, wild, Block{ExternalLocal: true}, "refusal", ""},
			"internal policy":      {NodePort, wild, Block{Cluster: []netip.AddrPort{remote}, InternalLocal: true, InternalDrop: true}, "remote", nodeAddrs[i]},
			"host port":            {HostPort, wild, Block{Cluster: []netip.AddrPort{pod}, Local: []netip.AddrPort{pod}, ExternalLocal: true}, "pod", clientAddrs[i]},
			"host port at address": {HostPort, exact, Block{Cluster: []netip.AddrPort{pod}, Local: []netip.AddrPort{pod}, ExternalLocal: true}, "pod", clientAddrs[i]},
		} {
			for _, proto := range []uint8{tcp, udp} {
				t.Run(strings.Join([]string{family, network(proto), name}, " "), func(t *testing.T) {
					f := Frontend{Addr: tt.frontend, Protocol: proto}
					if err := errors.Join(w.Services.Publish(7, tt.block), w.Services.PutFrontend(f, tt.kind, 7)); err != nil {
						t.Fatal(err)
					}
					defer func() {
						if err := w.Services.DeleteFrontend(f); err != nil {
							t.Error(err)
						}
					}()
					w.expect(t, proto, exact, tt.answers, tt.sees)
				})
			}
		}
	}
	w.noLoss(t)
}

// expect lets the client ask twice at an address.
func (w *world) expect(t *testing.T, proto uint8, to netip.AddrPort, answers, sees string) {
	t.Helper()
	w.expectOf(t, w.client, proto, to, answers, sees)
}

// expectOf lets somebody ask twice at an address. Without a name anybody may answer.
func (w *world) expectOf(t *testing.T, asks *netns, proto uint8, to netip.AddrPort, answers, sees string) {
	t.Helper()
	within := patience
	if answers == "silence" {
		within = silence
	}
	conn, err := asks.dial(t, proto, to, within)
	for range 2 {
		if err != nil {
			break
		}
		var name string
		var seen netip.AddrPort
		if name, seen, err = ask(conn, within); err == nil && (answers != "" && name != answers || seen.Addr().String() != sees) {
			t.Errorf("%s answered and saw %s, want %s and %s", name, seen, answers, sees)
		}
	}
	switch {
	case answers == "silence" && isTimeout(err):
	case answers == "refusal" && errors.Is(err, unix.ECONNREFUSED):
	case err != nil:
		t.Errorf("%v, want %s", err, answers)
	case answers == "silence" || answers == "refusal":
		t.Errorf("somebody answered, want %s", answers)
	}
}

func isTimeout(err error) bool {
	var timeout net.Error
	return errors.As(err, &timeout) && timeout.Timeout()
}

// noLoss checks that nothing had to be dropped.
func (w *world) noLoss(t *testing.T) {
	t.Helper()
	now, err := Clock()
	if err != nil {
		t.Fatal(err)
	}
	if s, err := w.Flows.Sweep(now); err != nil || s.Full+s.NoPort+s.Lost != 0 {
		t.Errorf("the packet path counts %+v, %v", s, err)
	}
}

func unspecified(a netip.Addr) netip.Addr {
	if a.Is4() {
		return netip.IPv4Unspecified()
	}
	return netip.IPv6Unspecified()
}

func netlinkIndex(name string) (int, error) {
	l, err := netlink.LinkByName(name)
	if err != nil {
		return 0, err
	}
	return l.Attrs().Index, nil
}

// moveDefault makes the default routes go by another link, to a gateway that is never asked for its MAC.
func (n *netns) moveDefault(tb testing.TB, from, to string) {
	tb.Helper()
	n.do(tb, func() error {
		index, err := netlinkIndex(from)
		if err != nil {
			return err
		}
		for _, dst := range []string{"0.0.0.0/0", "::/0"} {
			prefix, err := netlink.ParseIPNet(dst)
			if err != nil {
				return err
			}
			if err := netlink.RouteDel(&netlink.Route{LinkIndex: index, Dst: prefix}); err != nil {
				return err
			}
		}
		return nil
	})
	gateway := net.HardwareAddr{2, 0, 0, 0, 0, 1}
	n.route(tb, to, "0.0.0.0/0", "169.254.1.1", gateway)
	n.route(tb, to, "::/0", "fe80::1:1", gateway)
}
