//go:build node

package bpf

import (
	"errors"
	"net"
	"net/netip"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestHandBack: H8, back again. Connections that the packet path translates go on, new ones are somebody else's, and so
// are the calls of sockets. What has no end is somebody else's at once.
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
	echo := func(when string, goOn ...uint8) {
		t.Helper()
		for _, o := range talks {
			name, _, err := ask(o.conn, patience)
			if !slices.Contains(goOn, o.proto) {
				if !errors.Is(err, unix.ECONNREFUSED) { // by the node's stack: in truth by whoever serves now
					t.Errorf("%s, %s %s: %q, %v, want a refusal", when, network(o.proto), o.to, name, err)
				}
			} else if err != nil || name != "pod" {
				t.Errorf("%s, %s %s: %q, %v", when, network(o.proto), o.to, name, err)
			}
		}
	}
	echo("before", tcp, udp)
	if err := w.SetHostNetworks([]HostNetwork{{netip.MustParsePrefix("10.96.0.0/16"), WayService}, {netip.MustParsePrefix("10.97.0.0/16"), WayNode}}); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := HandBack(cfg.PinDir); err != nil {
			t.Fatal(err)
		}
		echo("after", tcp)
	}
	for _, o := range talks {
		w.expect(t, o.proto, o.to, "refusal", "")
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
	if n, err := ActiveFlows(cfg.PinDir, now, 10*time.Second); n != len(talks)/2 || err != nil {
		t.Errorf("%d connections are active, %v; want %d", n, err, len(talks)/2)
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

// TestHandBackRefusesNothing: on the way back no port of a Service is refused that somebody else serves: as soon as the port
// is not ours, the address refuses nothing (A11, H8).
func TestHandBackRefusesNothing(t *testing.T) {
	cfg := node(t)
	d := start(t, cfg)
	backend := greeter(t, "127.0.0.1:0", "a")
	const some = 64
	port, address := func(i int) string { return netip.AddrPortFrom(clusterIP(i), 80).String() }, func(i int) Frontend {
		return Frontend{Addr: netip.AddrPortFrom(clusterIP(i), 0)}
	}
	for i := range some {
		publish(t, d, uint32(1+i), frontend(port(i), tcp), Block{Cluster: []netip.AddrPort{backend}})
		if err := d.Services.PutFrontend(address(i), ServiceAddress, 0); err != nil {
			t.Fatal(err)
		}
	}
	wantDial(t, "A11 another port", "", netip.AddrPortFrom(clusterIP(0), 81).String(), unix.ECONNREFUSED)
	left := error(unix.ENETUNREACH) // to who serves, whom there is not
	for pass, want := range []error{nil, left} {
		if err := deleteAll(d.objs.Frontends, frontendPasses[pass]); err != nil {
			t.Fatal(err)
		}
		for i := range some {
			wantDial(t, "a port", "", port(i), want)
			wantDial(t, "another port", "", netip.AddrPortFrom(clusterIP(i), 81).String(), left)
		}
	}
}

func clusterIP(i int) netip.Addr { return netip.AddrFrom4([4]byte{10, 96, 7, byte(i)}) }
