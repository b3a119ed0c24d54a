//go:build node

package bpf

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// icmpError builds an error from one address to another about a packet. Its type is that of an unreachable port.
func icmpError(from, to netip.Addr, about segment) []byte {
	quote := about.frame()[14:]
	quote = quote[:min(len(quote), 68)]
	proto, message := uint8(unix.IPPROTO_ICMP), []byte{3, 3, 0, 0, 0, 0, 0, 0}
	start := uint32(0)
	if from.Is6() {
		proto, message = unix.IPPROTO_ICMPV6, []byte{1, 4, 0, 0, 0, 0, 0, 0}
		start = pseudo(from, to, proto, len(message)+len(quote))
	}
	message = append(message, quote...)
	binary.BigEndian.PutUint16(message[2:], ^sum(start, message))
	outer := segment{proto: proto, from: netip.AddrPortFrom(from, 0), to: netip.AddrPortFrom(to, 0), hops: 64, noSum: true}
	outer.raw = message
	return outer.frame()
}

// parseError is the inverse of icmpError; it fails when a checksum is wrong, but for the quoted transport header's.
func parseError(t *testing.T, b []byte) (from, to netip.Addr, about segment) {
	t.Helper()
	n, start := 34, uint32(0)
	from, to = netip.AddrFrom4([4]byte(b[26:])), netip.AddrFrom4([4]byte(b[30:]))
	if b[12] == 0x86 {
		n, from, to = 54, netip.AddrFrom16([16]byte(b[22:])), netip.AddrFrom16([16]byte(b[38:]))
		start = pseudo(from, to, unix.IPPROTO_ICMPV6, len(b)-n)
	} else if got := sum(0, b[14:34]); got != 0xffff {
		t.Errorf("the IP header's checksum is wrong: %#x", got)
	}
	if got := sum(start, b[n:]); got != 0xffff {
		t.Errorf("the ICMP checksum is wrong: %#x", got)
	}
	quote := b[n+8:]
	if b[12] == 0x86 {
		about.from = netip.AddrPortFrom(netip.AddrFrom16([16]byte(quote[8:])), binary.BigEndian.Uint16(quote[40:]))
		about.to = netip.AddrPortFrom(netip.AddrFrom16([16]byte(quote[24:])), binary.BigEndian.Uint16(quote[42:]))
		return from, to, about
	}
	if got := sum(0, quote[:20]); got != 0xffff {
		t.Errorf("the quoted IP header's checksum is wrong: %#x", got)
	}
	about.from = netip.AddrPortFrom(netip.AddrFrom4([4]byte(quote[12:])), binary.BigEndian.Uint16(quote[20:]))
	about.to = netip.AddrPortFrom(netip.AddrFrom4([4]byte(quote[16:])), binary.BigEndian.Uint16(quote[22:]))
	return from, to, about
}

// TestErrors sends errors about both directions of a connection: each reaches the one that sent the packet it quotes,
// and quotes what that one sent.
func TestErrors(t *testing.T) {
	each(t, func(t *testing.T, family int, proto uint8) {
		t.Helper()
		g := newGate(t, node(t), family, proto, Block{})
		atBackend, ok := g.enter(t, g.client, syn)
		if !ok {
			t.Fatal("the first packet was not translated")
		}
		router := netip.MustParseAddr(remoteAddrs[family])
		host := g.frontend.Addr()
		answer := segment{proto: proto, from: g.frontend, to: g.client, hops: 60}
		toPod := segment{proto: proto, from: atBackend.from, to: g.backend, hops: 60}
		check := func(name string, verdict int32, out []byte, to netip.Addr, quotedFrom, quotedTo netip.AddrPort) {
			t.Helper()
			from, dst, about := parseError(t, out)
			if verdict != redirect || from != host || dst != to || about.from != quotedFrom || about.to != quotedTo {
				t.Errorf("%s: verdict %d, %s -> %s about %s -> %s", name, verdict, from, dst, about.from, about.to)
			}
		}
		verdict, out := runFrame(t, g.packet.FromOutside, icmpError(router, host, toPod))
		check("of a router, about a request", verdict, out, g.client.Addr(), g.client, g.frontend)
		verdict, out = runFrame(t, g.packet.FromPod, icmpError(g.backend.Addr(), host, toPod))
		check("of the pod, about a request", verdict, out, g.client.Addr(), g.client, g.frontend)
		verdict, out = runFrame(t, g.packet.FromOutside, icmpError(router, host, answer))
		check("of a router, about an answer", verdict, out, g.backend.Addr(), g.backend, atBackend.from)

		stranger := answer
		stranger.to = netip.AddrPortFrom(answer.to.Addr(), 9)
		for name, frame := range map[string][]byte{
			"about a stranger's packet":    icmpError(router, host, stranger),
			"to one who did not send it":   icmpError(router, netip.MustParseAddr(podAddrs[family]), answer),
			"that is none, but an inquiry": inquiry(icmpError(router, host, answer)),
		} {
			if verdict, out := runFrame(t, g.packet.FromOutside, frame); verdict != pass || !bytes.Equal(out, frame) {
				t.Errorf("an error %s: verdict %d", name, verdict)
			}
		}
	})
}

// inquiry makes an echo request of an error.
func inquiry(frame []byte) []byte {
	if frame[12] == 0x86 {
		frame[54] = 128
	} else {
		frame[34] = 8
	}
	return frame
}

// TestErrorsOutside asks where nobody listens: the client hears so from the backend's stack, by way of the node.
func TestErrorsOutside(t *testing.T) {
	w := newWorld(t, node(t))
	for i := range nodeAddrs {
		for name, b := range map[string]Block{
			"pod":      {Cluster: []netip.AddrPort{at(podAddrs[i], 9)}},
			"pod, own": local(Block{Cluster: []netip.AddrPort{at(podAddrs[i], 9)}}, at(podAddrs[i], 9)),
			"remote":   {Cluster: []netip.AddrPort{at(remoteAddrs[i], 9)}},
			"own":      {Cluster: []netip.AddrPort{at(nodeAddrs[i], 9)}},
		} {
			f := Frontend{Addr: netip.AddrPortFrom(unspecified(netip.MustParseAddr(nodeAddrs[i])), 30080), Protocol: udp}
			if err := errors.Join(w.Services.Publish(7, b), w.Services.PutFrontend(f, NodePort, 7)); err != nil {
				t.Fatal(err)
			}
			conn, err := w.client.dial(t, udp, at(nodeAddrs[i], 30080), patience)
			if err != nil {
				t.Fatal(err)
			}
			if _, _, err := ask(conn, patience); !errors.Is(err, unix.ECONNREFUSED) {
				t.Errorf("%s, %s: %v, want connection refused", nodeAddrs[i], name, err)
			}
		}
	}
}

// TestBulk moves what does not fit a packet, both ways: datagrams in fragments, and streams in segments larger than
// the link's MTU, whose checksums the device would have to finish.
func TestBulk(t *testing.T) {
	w := newWorld(t, node(t))
	for i := range nodeAddrs {
		for name, n := range map[string]*netns{podAddrs[i]: w.pod, remoteAddrs[i]: w.remote} {
			n.mirror(t, at(name, 7000))
			for _, policy := range []bool{false, true} {
				b := Block{Cluster: []netip.AddrPort{at(name, 7000)}}
				if policy && n == w.remote {
					continue
				}
				if policy {
					b = local(b, at(name, 7000))
				}
				w.bulk(t, fmt.Sprintf("%s, local %v", name, policy), at(nodeAddrs[i], 30070), b)
			}
		}
	}
	w.noLoss(t)
}

func (w *world) bulk(t *testing.T, name string, to netip.AddrPort, b Block) {
	t.Helper()
	for _, proto := range []uint8{tcp, udp} {
		f := Frontend{Addr: netip.AddrPortFrom(unspecified(to.Addr()), to.Port()), Protocol: proto}
		if err := errors.Join(w.Services.Publish(7, b), w.Services.PutFrontend(f, NodePort, 7)); err != nil {
			t.Fatal(err)
		}
		conn, err := w.client.dial(t, proto, to, patience)
		if err != nil {
			t.Fatal(err)
		}
		size, rounds := 1<<20, 4
		if proto == udp {
			size, rounds = 9000, 3
		}
		for range rounds {
			if err := roundTrip(conn, size); err != nil {
				t.Errorf("%s, %s: %v", name, network(proto), err)
			}
		}
	}
}

func roundTrip(conn net.Conn, size int) error {
	sent, got := bytes.Repeat([]byte("0123456789abcdefg"), size/17+1)[:size], make([]byte, size)
	if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
		return err
	}
	written := make(chan error, 1)
	go func() {
		_, err := conn.Write(sent)
		written <- err
	}()
	for have := 0; have < size; {
		n, err := conn.Read(got[have:])
		if err != nil {
			return fmt.Errorf("after %d bytes: %w", have, err)
		}
		have += n
	}
	if !bytes.Equal(sent, got) {
		return errors.New("what came back is not what was sent")
	}
	return <-written
}

// mirror sends everything back.
func (n *netns) mirror(t *testing.T, addr netip.AddrPort) {
	t.Helper()
	n.do(t, func() error {
		l, err := net.Listen("tcp", addr.String())
		if err != nil {
			return err
		}
		c, err := net.ListenPacket("udp", addr.String())
		if err != nil {
			return errors.Join(err, l.Close())
		}
		t.Cleanup(func() { l.Close(); c.Close() })
		go acceptAll(l, func(conn net.Conn, b []byte) { _, _ = conn.Write(b) })
		go receiveAll(c, func(from net.Addr, b []byte) { _, _ = c.WriteTo(b, from) })
		return nil
	})
}
