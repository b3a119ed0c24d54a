//go:build node && vm

package bpf

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// errSilence says that nobody answered.
var errSilence = errors.New("no answer")

func sctpAddress(a netip.AddrPort) (family int, sa unix.Sockaddr) {
	if a.Addr().Is4() {
		return unix.AF_INET, &unix.SockaddrInet4{Port: int(a.Port()), Addr: a.Addr().As4()}
	}
	return unix.AF_INET6, &unix.SockaddrInet6{Port: int(a.Port()), Addr: a.Addr().As16()}
}

// stream makes an SCTP socket that has one address and no other to tell its peer of, does not block, and hears of ICMP
// errors.
func (n *netns) stream(t *testing.T, from netip.AddrPort) (f *os.File) {
	t.Helper()
	n.do(t, func() error {
		family, sa := sctpAddress(from)
		fd, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, sctp)
		if err != nil {
			return fmt.Errorf("make an SCTP socket: %w", err)
		}
		f = os.NewFile(uintptr(fd), "sctp "+from.String())
		if family == unix.AF_INET6 {
			err = errors.Join(unix.SetsockoptInt(fd, unix.SOL_IPV6, unix.IPV6_V6ONLY, 1), unix.SetsockoptInt(fd, unix.SOL_IPV6, unix.IPV6_RECVERR, 1))
		} else {
			err = unix.SetsockoptInt(fd, unix.SOL_IP, unix.IP_RECVERR, 1)
		}
		return errors.Join(err, unix.Bind(fd, sa))
	})
	t.Cleanup(func() { f.Close() })
	return f
}

// listenSCTP tells each association its name and whose address it sees.
func (n *netns) listenSCTP(t *testing.T, at netip.AddrPort, name string) {
	t.Helper()
	f := n.stream(t, at)
	raw, err := f.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var listenErr error
	if err := raw.Control(func(fd uintptr) { listenErr = unix.Listen(int(fd), 8) }); errors.Join(err, listenErr) != nil {
		t.Fatal(err, listenErr)
	}
	go func() {
		for {
			var conn int
			var from unix.Sockaddr
			var err error
			closed := raw.Read(func(fd uintptr) bool {
				conn, from, err = unix.Accept4(int(fd), unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK)
				// SCTP says EINTR, also to sockets that do not wait, when a signal is pending: the runtime sends them.
				return !errors.Is(err, unix.EAGAIN) && !errors.Is(err, unix.EINTR)
			})
			if errors.Join(closed, err) != nil {
				return
			}
			// A few bytes fit at once. What did not go out is an answer that is missed.
			_, _ = unix.Write(conn, fmt.Appendf(nil, "%s %s", name, ipOf(from)))
			unix.Close(conn)
		}
	}()
}

func ipOf(sa unix.Sockaddr) netip.Addr {
	switch a := sa.(type) {
	case *unix.SockaddrInet4:
		return netip.AddrFrom4(a.Addr)
	case *unix.SockaddrInet6:
		return netip.AddrFrom16(a.Addr)
	}
	return netip.Addr{}
}

// askSCTP makes an association and returns who answers and whom that one sees.
func (n *netns) askSCTP(t *testing.T, from netip.Addr, to netip.AddrPort, within time.Duration) (string, error) {
	t.Helper()
	f := n.stream(t, netip.AddrPortFrom(from, 0))
	defer f.Close()
	raw, err := f.SyscallConn()
	if err != nil {
		return "", err
	}
	_, sa := sctpAddress(to)
	var answer string
	controlErr := raw.Control(func(fd uintptr) {
		if err = unix.Connect(int(fd), sa); err == nil || errors.Is(err, unix.EINPROGRESS) {
			answer, err = readSCTP(int(fd), within)
		}
	})
	return answer, errors.Join(err, controlErr)
}

func readSCTP(fd int, within time.Duration) (string, error) {
	events := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
	for end := time.Now().Add(within); ; {
		n, err := unix.Poll(events, int(max(0, time.Until(end)).Milliseconds()))
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case err != nil:
			return "", err
		case n == 0:
			return "", errSilence
		}
		if code, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ERROR); err != nil || code != 0 {
			return "", errors.Join(err, unix.Errno(code))
		}
		buf := make([]byte, 128)
		n, err = unix.Read(fd, buf)
		return string(buf[:max(n, 0)]), err
	}
}

// TestServicesOverSCTP: reference row G1, with the kernel's SCTP on both sides. Every backend's port is another one than
// was asked, so sums must be mended: those that senders make, which receivers look at, and those that they leave to a device.
func TestServicesOverSCTP(t *testing.T) {
	c := newCluster(t)
	c.serviceNetworks(t)
	sides := []*netns{c.client, c.pod, c.neighbour, c.remote, c.node}
	for _, n := range sides {
		// An error that comes while its socket is in use is not told. A packet more makes it come again.
		n.sysctl(t, "sctp/rto_initial=200")
	}
	for i := range nodeAddrs {
		c.pod.listenSCTP(t, at(podAddrs[i], 8080), "pod")
		c.neighbour.listenSCTP(t, at(neighbourAddrs[i], 8080), "neighbour")
		c.remote.listenSCTP(t, at(remoteAddrs[i], 8080), "remote")
	}
	for _, sums := range []string{"sums left to devices", "sums made by senders"} {
		t.Run(sums, func(t *testing.T) {
			if sums == "sums made by senders" {
				for _, n := range sides {
					n.do(t, func() error { return sumBySoftware("eth0") })
				}
			}
			for i := range nodeAddrs {
				c.overSCTP(t, i, sums == "sums made by senders")
			}
		})
	}
	c.noLoss(t)
}

// overSCTP asks for Services in one family. Without refusals nobody is refused by a link of the node that makes no sums: it
// would take an answer for the packet that it answers, of which the sum was left to it.
func (c *cluster) overSCTP(t *testing.T, i int, refusals bool) {
	t.Helper()
	vip, wild := at(vips[i], 80), netip.AddrPortFrom(unspecified(netip.MustParseAddr(nodeAddrs[i])), 30080)
	elsewhere := Block{Cluster: []netip.AddrPort{at(remoteAddrs[i], 8080)}, ExternalLocal: true, ExternalDrop: true}
	for name, tt := range map[string]struct {
		asks     *netns
		from     string
		kind     FrontendKind
		frontend netip.AddrPort
		block    Block
		answer   string
		err      error
	}{
		"E1 NodePort, to a pod":          {c.client, clientAddrs[i], NodePort, wild, one(podAddrs[i]), "pod " + nodeAddrs[i], nil},
		"E1 NodePort, to another node":   {c.client, clientAddrs[i], NodePort, wild, one(remoteAddrs[i]), "remote " + nodeAddrs[i], nil},
		"E2 NodePort, Local":             {c.client, clientAddrs[i], NodePort, wild, local(one(remoteAddrs[i]), at(podAddrs[i], 8080)), "pod " + clientAddrs[i], nil},
		"D3 NodePort, only elsewhere":    {c.client, clientAddrs[i], NodePort, wild, elsewhere, "", errSilence},
		"D1 NodePort":                    {c.client, clientAddrs[i], NodePort, wild, Block{}, "", unix.ECONNREFUSED},
		"E2 load balancer's, Local":      {c.client, clientAddrs[i], LoadBalancer, vip, local(one(remoteAddrs[i]), at(podAddrs[i], 8080)), "pod " + clientAddrs[i], nil},
		"ClusterIP, a pod's, neighbour":  {c.pod, podAddrs[i], ClusterIP, vip, one(neighbourAddrs[i]), "neighbour " + podAddrs[i], nil},
		"ClusterIP, a pod's, other node": {c.pod, podAddrs[i], ClusterIP, vip, one(remoteAddrs[i]), "remote " + podAddrs[i], nil},
		"E6 ClusterIP, a pod's, hairpin": {c.pod, podAddrs[i], ClusterIP, vip, one(podAddrs[i]), "pod " + nodeAddrs[i], nil},
		"E4 NodePort, a pod's":           {c.pod, podAddrs[i], NodePort, wild, elsewhere, "remote " + podAddrs[i], nil},
		"D1 ClusterIP, a pod's":          {c.pod, podAddrs[i], ClusterIP, vip, Block{}, "", unix.ECONNREFUSED},
		"ClusterIP, the node's, pod":     {c.node, nodeAddrs[i], ClusterIP, vip, one(podAddrs[i]), "pod " + nodeAddrs[i], nil},
		"ClusterIP, the node's, other":   {c.node, nodeAddrs[i], ClusterIP, vip, one(remoteAddrs[i]), "remote " + nodeAddrs[i], nil},
		"D1 ClusterIP, the node's":       {c.node, nodeAddrs[i], ClusterIP, vip, Block{}, "", unix.ECONNREFUSED},
	} {
		if errors.Is(tt.err, unix.ECONNREFUSED) && tt.asks != c.node && !refusals {
			continue
		}
		t.Run(name+", "+vip.Addr().String(), func(t *testing.T) {
			c.offer(t, Frontend{Addr: tt.frontend, Protocol: sctp}, tt.kind, tt.block)
			to, within := tt.frontend, patience
			if tt.kind == NodePort {
				to = at(nodeAddrs[i], 30080)
			}
			if errors.Is(tt.err, errSilence) {
				within = silence
			}
			if got, err := tt.asks.askSCTP(t, netip.MustParseAddr(tt.from), to, within); got != tt.answer || !errors.Is(err, tt.err) {
				t.Errorf("%q, %v, want %q, %v", got, err, tt.answer, tt.err)
			}
		})
	}
}
