//go:build node

package bpf

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// listenerAddrs are those of the node's DNS listener, clusterDNS those of the Service.
var (
	listenerAddrs = []string{"169.254.20.10", "fd6e::53"}
	clusterDNS    = []string{"10.96.0.10", "fd00:96::10"}
)

// A dnsWorld is a cluster whose DNS is on another node, and whose node has a listener.
type dnsWorld struct{ *cluster }

func newDNSWorld(t *testing.T) dnsWorld {
	t.Helper()
	cfg := node(t)
	cfg.NodeDNS = addrs(listenerAddrs)
	w := dnsWorld{newClusterOf(t, cfg)}
	w.serviceNetworks(t)
	networks := make([]HostNetwork, 0, 2*len(listenerAddrs))
	for i, a := range addrs(listenerAddrs) {
		networks = append(networks, HostNetwork{netip.PrefixFrom(a, a.BitLen()), WayNode}, HostNetwork{netip.MustParsePrefix(vipNetworks[i]), WayService})
		w.node.address(t, "lo", netip.PrefixFrom(a, a.BitLen()).String())
		w.remote.serve(t, at(remoteAddrs[i], 53), "cluster")
		record := uint32(20 + i)
		err := w.Services.Publish(record, Block{Cluster: []netip.AddrPort{at(remoteAddrs[i], 53)}, NodeDNS: true})
		for _, proto := range []uint8{tcp, udp} {
			err = errors.Join(err, w.Services.PutFrontend(Frontend{Addr: at(clusterDNS[i], 53), Protocol: proto}, ClusterIP, record),
				w.Services.PutFrontend(Frontend{Addr: at(listenerAddrs[i], 53), Protocol: proto}, NodeDNS, record))
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := w.SetHostNetworks(networks); err != nil {
		t.Fatal(err)
	}
	return w
}

// live says that an agent serves, as the kernel sees it. Nobody else holds the lifeline.
func (w dnsWorld) live(alive bool) {
	var holder uint64
	if alive {
		holder = 1
	}
	atomic.StoreUint64(&w.lifeline[0], holder)
}

// answers asks by a connection, and fails unless the named one answers.
func answers(t *testing.T, what string, conn net.Conn, want string) {
	t.Helper()
	if name, err := tell(conn, opcodeQuery, patience); err != nil || name != want {
		t.Errorf("%s: %q answered, want %q, %v", what, name, want, err)
	}
}

// Opcodes of DNS: RFC 1035, 4.1.1, and RFC 2136, 1.3.
const opcodeQuery, opcodeUpdate = 0, 5

// tell sends the header of a DNS message and returns who answered.
func tell(conn net.Conn, opcode byte, within time.Duration) (name string, err error) {
	buf := make([]byte, 100)
	if err := conn.SetDeadline(time.Now().Add(within)); err != nil {
		return "", err
	}
	if _, err := conn.Write([]byte{2: opcode << 3, 11: 0}); err != nil {
		return "", err
	}
	n, err := conn.Read(buf)
	name, _, _ = strings.Cut(string(buf[:n]), " ")
	return name, err
}

// steering asks from a pod, at the Service's address as its packets have it where no hook translates, and at the listener's,
// as they have it where one does, by sockets that stay. No datagram is refused, though the listener's socket be gone.
func (w dnsWorld) steering(t *testing.T) {
	t.Helper()
	for i := range nodeAddrs {
		for _, to := range []netip.AddrPort{at(clusterDNS[i], 53), at(listenerAddrs[i], 53)} {
			t.Run(to.String(), func(t *testing.T) { w.steer(t, i, to) })
		}
	}
	w.noLoss(t)
}

func (w dnsWorld) steer(t *testing.T, i int, to netip.AddrPort) {
	t.Helper()
	stop := w.listen(t, i)
	w.live(true)
	socket, err := w.pod.dial(t, udp, to, patience)
	if err != nil {
		t.Fatal(err)
	}
	connect := func() net.Conn {
		conn, err := w.pod.dial(t, tcp, to, patience)
		if err != nil {
			t.Fatal(err)
		}
		return conn
	}
	answers(t, "datagram, with a listener", socket, "node")
	if name, err := tell(socket, opcodeUpdate, patience); err != nil || name != "cluster" {
		t.Errorf("an update: %q answered, want the cluster's DNS, %v", name, err)
	}
	answers(t, "datagram after an update", socket, "node")
	atListener := connect()
	answers(t, "connection, with a listener", atListener, "node")
	// The agent is dead, and its socket not closed yet.
	w.live(false)
	answers(t, "datagram, with the agent dead", socket, "cluster")
	stop()
	answers(t, "datagram, with the listener gone", socket, "cluster")
	atCluster := connect()
	answers(t, "connection, with the listener gone", atCluster, "cluster")
	stop = w.listen(t, i)
	w.live(true)
	defer stop()
	answers(t, "datagram, with a new listener", socket, "node")
	answers(t, "connection of before", atCluster, "cluster")
	answers(t, "connection, with a new listener", connect(), "node")
}

// listen starts the node's listener of a family, and returns what stops it.
func (w dnsWorld) listen(t *testing.T, i int) (stop func()) {
	t.Helper()
	w.node.do(t, func() error {
		l, err := net.Listen("tcp", at(listenerAddrs[i], 53).String())
		if err != nil {
			return err
		}
		c, err := net.ListenPacket("udp", at(listenerAddrs[i], 53).String())
		if err != nil {
			return errors.Join(err, l.Close())
		}
		stop = func() { _, _ = l.Close(), c.Close() }
		t.Cleanup(stop)
		go acceptAll(l, func(conn net.Conn, _ []byte) { _, _ = conn.Write([]byte("node " + conn.RemoteAddr().String() + "\n")) })
		go receiveAll(c, func(from net.Addr, _ []byte) { _, _ = c.WriteTo([]byte("node "+from.String()+"\n"), from) })
		return nil
	})
	return stop
}

// TestOwnDNS: a socket of the node that asked the listener hears nothing while nobody serves, and no refusal either.
func TestOwnDNS(t *testing.T) {
	w := newDNSWorld(t)
	w.node.do(t, func() error { return w.AttachLink(Loopback, 1) })
	for i := range nodeAddrs {
		stop := w.listen(t, i)
		w.live(true)
		socket, err := w.node.dial(t, udp, at(listenerAddrs[i], 53), patience)
		if err != nil {
			t.Fatal(err)
		}
		answers(t, "with a listener", socket, "node")
		w.live(false)
		stop()
		if _, err := tell(socket, opcodeQuery, silence); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("without a listener: %v, want silence", err)
		}
		stop = w.listen(t, i)
		w.live(true)
		answers(t, "with a new listener", socket, "node")
		stop()
	}
}

// TestPodsDNS holds for a pod on veth.
func TestPodsDNS(t *testing.T) { newDNSWorld(t).steering(t) }

// TestPodsDNSExclusive holds for one with an ENI of its own, which only reaches the listener by its node.
func TestPodsDNSExclusive(t *testing.T) {
	w := newDNSWorld(t)
	w.giveENI(t)
	w.steering(t)
}
