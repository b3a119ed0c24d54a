//go:build node

package bpf

import (
	"errors"
	"net"
	"net/netip"
	"testing"
	"time"
)

// TestHandBack: H8, back again. Connections that the packet path translates go on, new ones are somebody else's, and so
// are the calls of sockets.
func TestHandBack(t *testing.T) {
	cfg := node(t)
	w := newWorld(t, cfg)
	const backendPort, nodePort = 8080, 30080
	type open struct {
		proto uint8
		to    netip.AddrPort
		conn  net.Conn
	}
	var talks []open
	for i := range nodeAddrs {
		pod, exact := at(podAddrs[i], backendPort), at(nodeAddrs[i], nodePort)
		w.pod.serve(t, pod, "pod")
		for _, proto := range []uint8{tcp, udp} {
			record := uint32(7 + 2*i)
			if proto == udp {
				record++
			}
			f := Frontend{Addr: netip.AddrPortFrom(unspecified(pod.Addr()), nodePort), Protocol: proto}
			publish(t, w.Datapath, record, f, Block{Cluster: []netip.AddrPort{pod}})
			if err := w.Services.PutFrontend(f, NodePort, record); err != nil {
				t.Fatal(err)
			}
			conn, err := w.client.dial(t, proto, exact, patience)
			if err != nil {
				t.Fatal(err)
			}
			talks = append(talks, open{proto, exact, conn})
		}
	}
	echo := func(when string) {
		t.Helper()
		for _, o := range talks {
			if name, _, err := ask(o.conn, patience); err != nil || name != "pod" {
				t.Errorf("%s, %s %s: %q, %v", when, network(o.proto), o.to, name, err)
			}
		}
	}
	echo("before")
	if err := w.SetHostNetworks([]HostNetwork{{netip.MustParsePrefix("10.96.0.0/16"), WayService}, {netip.MustParsePrefix("10.97.0.0/16"), WayNode}}); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := HandBack(cfg.PinDir); err != nil {
			t.Fatal(err)
		}
		echo("after")
	}
	for _, o := range talks {
		if o.proto == tcp {
			w.expect(t, o.proto, o.to, "refusal", "") // by the node's stack: in truth by whoever serves now
		}
	}
	ways := 0
	it := w.objs.HostNetworks.Iterate()
	for key, way := (packetNetwork{}), uint8(0); it.Next(&key, &way); ways++ {
		if Way(way) == WayService {
			t.Error("a network of Services is left: what is in it is dropped")
		}
	}
	if ways != 1 || it.Err() != nil {
		t.Errorf("%d networks are left, want 1: %v", ways, it.Err())
	}
	now, err := Clock()
	if err != nil {
		t.Fatal(err)
	}
	if n, err := ActiveFlows(cfg.PinDir, now, 10*time.Second); n != len(talks) || err != nil {
		t.Errorf("%d connections are active, %v; want %d", n, err, len(talks))
	}
	if n, err := ActiveFlows(cfg.PinDir, now+time.Minute, 10*time.Second); n != 0 || err != nil {
		t.Errorf("a minute later %d connections are active: %v", n, err)
	}
	// With nothing there, nothing happens.
	n, err := ActiveFlows(cfg.PinDir+"-none", now, time.Second)
	if err := errors.Join(err, HandBack(cfg.PinDir+"-none")); err != nil || n != 0 {
		t.Errorf("without pins: %d, %v", n, err)
	}
}
