//go:build node

package bpf

import (
	"context"
	"errors"
	"net/netip"
	"testing"
	"time"

	"github.com/cilium/ebpf"
)

// all is the list of a verdict that allows everything.
var all = PolicyInterval{Hi: MaxPoint}

// A polStep is a packet, and whether it must pass.
type polStep struct {
	what   string
	packet polPacket
	pass   bool
}

func (l *polLab) steps(t *testing.T, steps []polStep) {
	t.Helper()
	for _, s := range steps {
		if got := l.try(t, s.packet); got != s.pass {
			t.Errorf("%s: passes: %t, want %t", s.what, got, s.pass)
		}
	}
	l.compare(t)
}

// The packets of a connection between the pod's port and a peer's.
func sends(proto uint8, pod, peer netip.AddrPort, flags uint8) polPacket {
	return polPacket{proto: proto, pod: pod, peer: peer, flags: flags}
}

func gets(proto uint8, pod, peer netip.AddrPort, flags uint8) polPacket {
	return polPacket{in: true, stranger: true, proto: proto, pod: pod, peer: peer, flags: flags}
}

// eachFamily runs a test with the addresses of each family, and nothing known.
func eachFamily(t *testing.T, test func(t *testing.T, l *polLab, f polAddrs)) {
	t.Helper()
	l := newPolLab(t, node(t))
	for i, name := range []string{"v4", "v6"} {
		t.Run(name, func(t *testing.T) {
			l.forgetAll(t)
			test(t, l, l.families[i])
		})
	}
}

// TestPolicyDirections: S1, S2, S29. Each direction of a pod is isolated by itself, and answers pass.
func TestPolicyDirections(t *testing.T) {
	eachFamily(t, func(t *testing.T, l *polLab, f polAddrs) {
		t.Helper()
		pod, web := netip.AddrPortFrom(f.pod, 40000), netip.AddrPortFrom(f.peers[0], 80)
		server, client := netip.AddrPortFrom(f.pod, 8080), netip.AddrPortFrom(f.peers[1], 50000)
		l.steps(t, []polStep{
			{"out, not isolated", sends(tcp, pod, web, syn), true},
			{"in, not isolated", gets(tcp, server, client, syn), true},
		})
		l.putPeer(t, f.peers[0], 1)
		l.putVerdict(t, PolicyKey{1, 1}, PolicyInterval{Lo: tcp<<16 | 80, Hi: tcp<<16 | 80})
		l.putSets(t, PolicySets{0, 1})
		l.bump(t)
		elsewhere := netip.AddrPortFrom(f.peers[1], 80)
		l.steps(t, []polStep{
			{"an allowed connection goes on", sends(tcp, pod, web, ack), true},
			{"its answers come", gets(tcp, pod, web, ack), true},
			{"to another address", sends(tcp, pod, elsewhere, syn), false},
			{"to another port", sends(tcp, pod, netip.AddrPortFrom(f.peers[0], 81), syn), false},
			{"by another protocol", sends(udp, pod, web, 0), false},
			{"ingress is not isolated", gets(udp, server, client, 0), true},
			{"an answer to what was let in", sends(udp, server, client, 0), true},
			{"an answer to what was let in before", sends(tcp, server, client, syn|ack), true},
			{"in the middle of nothing", sends(tcp, pod, elsewhere, ack), false},
		})
		l.putSets(t, PolicySets{1, 0})
		l.bump(t)
		l.steps(t, []polStep{
			{"egress is not isolated", sends(tcp, pod, elsewhere, syn), true},
			{"and answers come", gets(tcp, pod, elsewhere, syn|ack), true},
			{"ingress is", gets(udp, server, client, 0), false},
			{"ingress is, for one who could go on", gets(tcp, server, client, ack), false},
			{"an answer cannot be a beginning", gets(tcp, pod, elsewhere, syn), false},
		})
	})
}

// TestPolicyCutsFlows: S28. What is denied ends both ways at once, and stays so whatever the other direction allows.
func TestPolicyCutsFlows(t *testing.T) {
	eachFamily(t, func(t *testing.T, l *polLab, f polAddrs) {
		t.Helper()
		server, client := netip.AddrPortFrom(f.pod, 8080), netip.AddrPortFrom(f.peers[1], 50000)
		l.putSets(t, PolicySets{1, 0})
		l.putVerdict(t, PolicyKey{1, 0}, all)
		l.bump(t)
		for _, proto := range []uint8{tcp, udp, sctp} {
			l.steps(t, []polStep{{"begins", gets(proto, server, client, syn), true}, {"answers", sends(proto, server, client, syn|ack), true}})
		}
		l.putVerdict(t, PolicyKey{1, 0})
		l.steps(t, []polStep{{"the generation is the same", gets(tcp, server, client, ack), true}})
		l.bump(t)
		for _, proto := range []uint8{tcp, udp, sctp} {
			l.steps(t, []polStep{
				{"the answer is cut, though egress is open", sends(proto, server, client, ack), false},
				{"the request is cut", gets(proto, server, client, ack), false},
				{"and stays so", sends(proto, server, client, ack), false},
			})
		}
		l.putVerdict(t, PolicyKey{1, 0}, all)
		l.bump(t)
		for _, proto := range []uint8{tcp, udp, sctp} {
			l.steps(t, []polStep{{"allowed again", gets(proto, server, client, ack), true}, {"both ways", sends(proto, server, client, ack), true}})
		}
		if _, err := l.Tracked.Sweep(0); err != nil {
			t.Fatal(err)
		}
	})
}

// TestPolicyNode: S21, S22, S23. The node is known by the path, and an address of it that stands for a client is that client.
func TestPolicyNode(t *testing.T) {
	eachFamily(t, func(t *testing.T, l *polLab, f polAddrs) {
		t.Helper()
		if l.strange == 0 {
			t.Log("without strangers: this kernel's test run has no ingress_ifindex")
			return
		}
		server := netip.AddrPortFrom(f.pod, 8080)
		kubelet, claimed := netip.AddrPortFrom(f.node, 50000), netip.AddrPortFrom(f.node, 61000)
		good, bad := netip.AddrPortFrom(f.peers[0], 40000), netip.AddrPortFrom(f.peers[1], 40000)
		l.putSets(t, PolicySets{1, 1})
		l.putPeer(t, f.peers[0], 1)
		l.putVerdict(t, PolicyKey{1, 1}, all)
		probe := gets(tcp, server, kubelet, syn)
		probe.stranger = false
		l.steps(t, []polStep{
			{"a probe", probe, true},
			{"its answer", sends(tcp, server, kubelet, syn|ack), true},
			{"the pod asks the node", sends(udp, netip.AddrPortFrom(f.pod, 40000), kubelet, 0), true},
			{"who only says to be the node", gets(tcp, server, kubelet, syn), false},
		})
		key := polKey{tcp, server, claimed}
		l.stand(t, key, standIn{client: good})
		l.steps(t, []polStep{{"a client that may", gets(tcp, server, claimed, syn), true}, {"its answer", sends(tcp, server, claimed, syn|ack), true}})
		l.stand(t, key, standIn{client: bad})
		l.steps(t, []polStep{{"another, by the same port", gets(tcp, server, claimed, syn), false}})
		l.stand(t, key, standIn{client: bad, node: true})
		l.steps(t, []polStep{{"the node, by a Service", gets(tcp, server, claimed, syn), true}})
		itself := polKey{tcp, server, netip.AddrPortFrom(f.node, 61001)}
		l.stand(t, itself, standIn{client: netip.AddrPortFrom(f.pod, 40000)})
		l.steps(t, []polStep{{"S24: itself by a Service", gets(tcp, server, itself.peer, syn), false}, {"itself", sends(tcp, server, server, syn), true}})
		l.putPeer(t, f.pod, 1)
		l.steps(t, []polStep{{"itself by a Service, as it may", gets(tcp, server, itself.peer, syn), true}})
	})
}

// TestPolicyServices: S20. A Service's address is nobody; its backend is judged, each time one is chosen.
func TestPolicyServices(t *testing.T) {
	eachFamily(t, func(t *testing.T, l *polLab, f polAddrs) {
		t.Helper()
		pod, vip, backend := netip.AddrPortFrom(f.pod, 40000), f.vips[0], f.backends[0]
		l.putSets(t, PolicySets{1, 1})
		l.putPeer(t, vip.Addr(), 1)
		l.putVerdict(t, PolicyKey{1, 1}, all)
		l.putPeer(t, backend.Addr(), 2)
		l.putVerdict(t, PolicyKey{1, 2})
		l.steps(t, []polStep{{"the address is allowed, the backend is not", sends(tcp, pod, vip, syn), false}})
		l.putVerdict(t, PolicyKey{1, 2}, PolicyInterval{Lo: tcp<<16 | uint32(backend.Port()), Hi: tcp<<16 | uint32(backend.Port())})
		l.steps(t, []polStep{
			{"the backend is allowed", sends(tcp, pod, vip, syn), true},
			{"it answers", gets(tcp, pod, backend, syn|ack), true},
			{"on", sends(tcp, pod, vip, ack), true},
		})
		other := netip.AddrPortFrom(f.peers[2], backend.Port())
		for record := range uint32(9) {
			if err := l.Services.Publish(record+1, Block{Cluster: []netip.AddrPort{other}}); err != nil {
				t.Fatal(err)
			}
		}
		defer l.addServices(t)
		if pass, err := l.run(sends(udp, pod, vip, 0)); err != nil || pass {
			t.Errorf("a datagram to a backend that is not allowed passes: %t, %v", pass, err)
		}
		for _, flags := range []uint8{fin | ack, rst} {
			if _, err := l.run(sends(tcp, pod, vip, flags)); err != nil {
				t.Fatal(err)
			}
		}
		if pass, err := l.run(sends(tcp, pod, vip, syn)); err != nil || pass {
			t.Errorf("a new connection by the same ports to another backend passes: %t, %v", pass, err)
		}
	})
}

// TestPolicyFull: a full table ends nothing that lives, and refuses what could not be answered.
func TestPolicyFull(t *testing.T) {
	cfg := node(t)
	cfg.Tracked = 64
	l := newPolLab(t, cfg)
	f := l.families[0]
	peer := func(port uint16) netip.AddrPort { return netip.AddrPortFrom(f.peers[0], port) }
	pod := netip.AddrPortFrom(f.pod, 40000)
	send := func(port uint16, want bool) {
		t.Helper()
		if pass, err := l.run(sends(udp, pod, peer(port), 0)); err != nil || pass != want {
			t.Fatalf("the connection to port %d passes: %t, %v, want %t", port, pass, err, want)
		}
	}
	l.putSets(t, PolicySets{1, 0})
	for port := range uint16(16) {
		send(1+port, true)
	}
	send(17, false) // a quarter of the table is the pod's
	send(1, true)
	_, egress, err := l.Policy.Counts(l.number)
	if want := (PolicyCounts{Allowed: 16, Full: 1}); err != nil || egress != want {
		t.Errorf("counts %+v, %v, want %+v", egress, err, want)
	}
	l.putSets(t, PolicySets{0, 0})
	send(17, true) // answers need no entry
	l.putSets(t, PolicySets{1, 0})
	// Others fill the table.
	if err := l.Policy.maps.Shares.Update(uint32(l.number), packetPolicyShare{}, ebpf.UpdateAny); err != nil {
		t.Fatal(err)
	}
	for port := range uint16(48) {
		k := packetFlowKey{Saddr: words(f.peers[1]), Daddr: words(f.peers[2]), Sport: port, Proto: udp}
		if err := l.Tracked.entries.Update(k, packetTracked{Number: 7, LastSeen: 1}, ebpf.UpdateAny); err != nil {
			t.Fatal(err)
		}
	}
	send(18, false)
	send(2, true)
	now, err := Clock()
	if err != nil {
		t.Fatal(err)
	}
	s, err := l.Tracked.Sweep(now)
	if err != nil || s.Swept != 48 || s.Entries != 16 || s.Pods[l.number] != 16 || s.Max != 64 || s.Share != 16 {
		t.Errorf("a sweep found %+v, %v", s, err)
	}
	send(18, false) // the sweep has counted the pod's
	if s, err = l.Tracked.Sweep(now + time.Hour); err != nil || s.Entries != 0 {
		t.Errorf("a sweep an hour later found %+v, %v", s, err)
	}
	send(18, true)
}

// TestPolicyEvents: what is dropped is told, ten times a second, and counted always.
func TestPolicyEvents(t *testing.T) {
	l := newPolLab(t, node(t))
	f := l.families[1]
	events, err := l.Policy.Events()
	if err != nil {
		t.Fatal(err)
	}
	defer events.Close()
	short, end := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer end()
	if _, err := events.Read(short); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a reader that nothing comes for: %v", err)
	}
	next := func() PolicyEvent {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		e, err := events.Read(ctx)
		if err != nil {
			t.Fatal(err)
		}
		return e
	}
	l.putSets(t, PolicySets{5, 6})
	l.putPeer(t, f.peers[0], 3)
	l.putVerdict(t, PolicyKey{6, 3}, PolicyInterval{Lo: tcp << 16, Hi: tcp<<16 | 0xffff, Log: true})
	server, client := netip.AddrPortFrom(f.pod, 8080), netip.AddrPortFrom(f.peers[0], 50000)
	l.steps(t, []polStep{{"denied", gets(tcp, server, client, syn), false}, {"logged", sends(tcp, server, client, syn), true}})
	got := next()
	want := PolicyEvent{
		Time: got.Time, Outcome: PolicyDenied, Ingress: true, Protocol: tcp, Pod: server, Peer: client, Point: tcp<<16 | 8080,
		Number: l.number, Set: 5, Class: 3, Generation: l.generation,
	}
	if got != want || got.Time == 0 {
		t.Errorf("the event is %+v, want %+v", got, want)
	}
	if got := next(); got.Outcome != PolicyLogged || got.Ingress || got.Point != tcp<<16|50000 || got.Set != 6 {
		t.Errorf("the event is %+v, want that of a rule that is logged", got)
	}
	const flood = 1000
	for range flood {
		l.try(t, gets(udp, server, client, 0))
	}
	l.compare(t)
	var share packetPolicyShare
	if err := l.Policy.maps.Shares.Lookup(uint32(l.number), &share); err != nil {
		t.Fatal(err)
	}
	if share.Suppressed == 0 || share.Suppressed >= flood {
		t.Errorf("%d of %d events were not sent", share.Suppressed, flood)
	}
	for range flood - share.Suppressed {
		if got := next(); got.Protocol != udp || got.Outcome != PolicyDenied {
			t.Errorf("the event is %+v, want a datagram's", got)
		}
	}
}
