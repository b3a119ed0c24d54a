//go:build node

package bpf

import (
	"bytes"
	"encoding/binary"
	"errors"
	"net/netip"
	"testing"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// vips are addresses of Services that are on no link.
var vips = []string{"10.96.0.30", "fd00:96::30"}

// TestRefusalFrames: reference rows D1 and A11 as bytes. Every program that sees a connection begin answers for a Service
// without endpoints, and for a port that no Service has, back by the link that the packet came by.
func TestRefusalFrames(t *testing.T) {
	each(t, func(t *testing.T, family int, proto uint8) {
		t.Helper()
		g := newGate(t, node(t), family, proto, Block{Cluster: []netip.AddrPort{}})
		vip := at(vips[family], 80)
		pod := Pod{Addrs: addrs(podAddrs), Link: podLink, Side: podLink, Slot: 1}
		unused := Frontend{Addr: netip.AddrPortFrom(vip.Addr(), 0)}
		err := errors.Join(g.Pods.Put(pod), g.Services.PutFrontend(unused, ServiceAddress, 0),
			g.Services.PutFrontend(Frontend{Addr: vip, Protocol: proto}, ClusterIP, 1))
		if err != nil {
			t.Fatal(err)
		}
		inside := netip.AddrPortFrom(netip.MustParseAddr(podAddrs[family]), 40000)
		host := at(nodeAddrs[family], 40000)
		for name, tt := range map[string]struct {
			program  *ebpf.Program
			from, to netip.AddrPort
		}{
			"D1 NodePort, from outside":       {g.packet.FromOutside, g.client, g.frontend},
			"D1 ClusterIP, from outside":      {g.packet.FromOutside, g.client, vip},
			"D1 ClusterIP, of a pod":          {g.packet.FromPod, inside, vip},
			"D1 ClusterIP, of an ipvlan pod":  {g.packet.ToVpc, inside, vip},
			"D1 ClusterIP, of a pod with ENI": {g.packet.LeavePod, inside, vip},
			"D1 ClusterIP, of the node":       {g.packet.ToOutside, host, vip},
			"A11 another port, of a pod":      {g.packet.FromPod, inside, netip.AddrPortFrom(vip.Addr(), 81)},
			"A11 another port, of the node":   {g.packet.ToOutside, host, netip.AddrPortFrom(vip.Addr(), 81)},
		} {
			for _, payload := range []int{0, 5, 1000} {
				s := segment{proto: proto, from: tt.from, to: tt.to, flags: syn, hops: 64, payload: make([]byte, payload)}
				frame := s.frame()
				copy(frame[6:], []byte{2, 0, 0, 0, 0, 9})
				verdict, out := runFrame(t, tt.program, frame)
				if verdict != redirect || out[5] != 9 || out[11] != 0 {
					t.Errorf("%s: verdict %d, MAC addresses %x", name, verdict, out[:12])
					continue
				}
				refusal(t, name, s, out)
			}
		}
		if n := g.count(t); n != 0 {
			t.Errorf("%d flows", n)
		}
	})
}

// refusal holds an answer to what it refuses, also when a device "finishes" the sum that the packet's sender left open.
func refusal(t *testing.T, name string, of segment, out []byte) {
	t.Helper()
	at := 34
	if of.from.Addr().Is6() {
		at = 54
	}
	open := at + 6
	if of.proto == tcp {
		open = at + 16
		got := parseFrame(t, out)
		if got.from != of.to || got.to != of.from || got.flags != rst|ack || binary.BigEndian.Uint32(out[at+8:]) != 1 {
			t.Errorf("%s: answered with %s, flags %#x", name, got, got.flags)
		}
	} else {
		from, to, about := parseError(t, out)
		if from != of.to.Addr() || to != of.from.Addr() || about.from != of.from || about.to != of.to {
			t.Errorf("%s: answered by %s to %s about %s", name, from, to, about)
		}
		if code := out[at : at+2]; code[0] != 3 && code[0] != 1 || code[1] != 3+code[0]&1-code[0]>>1 && code[1] != 4 {
			t.Errorf("%s: answered with type and code %v", name, code)
		}
		// SCTP does not believe an error that does not show its INIT's tag (RFC 9260, section 10).
		if quote := out[2*at-14+8:]; of.proto == sctp && (len(quote) != 20 || !bytes.Equal(quote, of.transport()[:20])) {
			t.Errorf("%s: quoted %x of %x", name, quote, of.transport())
		}
	}
	if of.proto == sctp {
		return // of which nobody leaves the sum to a device that cannot make it
	}
	is := binary.BigEndian.Uint16(out[open:])
	if finished := ^sum(0, out[at:]); finished != is && finished^is != 0xffff {
		t.Errorf("%s: a device would make %#x of %#x", name, finished, is)
	}
}

// TestRefusedNodePort has a process of the node listen on a node port: it does not get the Service's clients.
func TestRefusedNodePort(t *testing.T) {
	w := newWorld(t, node(t))
	for i := range nodeAddrs {
		w.node.serve(t, at(nodeAddrs[i], 30080), "stranger")
		for _, proto := range []uint8{tcp, udp} {
			f := Frontend{Addr: netip.AddrPortFrom(unspecified(netip.MustParseAddr(nodeAddrs[i])), 30080), Protocol: proto}
			if err := errors.Join(w.Services.Publish(7, Block{}), w.Services.PutFrontend(f, NodePort, 7)); err != nil {
				t.Fatal(err)
			}
			conn, err := w.client.dial(t, proto, at(nodeAddrs[i], 30080), patience)
			if err == nil {
				_, _, err = ask(conn, patience)
			}
			if !errors.Is(err, unix.ECONNREFUSED) {
				t.Errorf("D1 %s %s: %v, want connection refused", nodeAddrs[i], network(proto), err)
			}
		}
	}
}
