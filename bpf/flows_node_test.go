//go:build node

package bpf

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"pgregory.net/rapid"
)

// A gate is a datapath whose programs are run on frames: client -> frontend -> backend, in one family.
type gate struct {
	*Datapath
	client, frontend, backend netip.AddrPort
	proto                     uint8
}

const podLink = 1 // the loopback's index: redirects are not carried out

func newGate(t *testing.T, cfg Config, family int, proto uint8, b Block) *gate {
	t.Helper()
	d, err := Load(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := d.Close(); err != nil {
			t.Error(err)
		}
	})
	g := &gate{d, at(clientAddrs[family], 40000), at(nodeAddrs[family], 30080), at(podAddrs[family], 8080), proto}
	if b.Cluster == nil {
		b.Cluster = []netip.AddrPort{g.backend}
	}
	f := Frontend{Addr: netip.AddrPortFrom(unspecified(g.frontend.Addr()), 30080), Protocol: proto}
	err = errors.Join(
		d.SetNodeAddresses(addrs(nodeAddrs)), d.Services.Publish(1, b), d.Services.PutFrontend(f, NodePort, 1),
		d.Pods.Put(Pod{Addrs: addrs(podAddrs), Link: podLink, Slot: 1}),
	)
	if err != nil {
		t.Fatal(err)
	}
	return g
}

func local(b Block, a netip.AddrPort) Block {
	b.Local, b.ExternalLocal = []netip.AddrPort{a}, true
	return b
}

// enter lets a packet come from outside and returns what leaves, or false if it does not go to a backend.
func (g *gate) enter(t *testing.T, client netip.AddrPort, flags uint8) (segment, bool) {
	t.Helper()
	verdict, out := runFrame(t, g.packet.FromOutside, segment{
		proto: g.proto, from: client, to: g.frontend, flags: flags, hops: 64, payload: []byte("hello"),
	}.frame())
	return parseFrame(t, out), verdict == redirect
}

// answer turns a packet around at the backend and returns what leaves the node.
func (g *gate) answer(t *testing.T, request segment, flags uint8) (segment, bool) {
	t.Helper()
	request.from, request.to, request.flags = request.to, request.from, flags
	verdict, out := runFrame(t, g.packet.FromPod, request.frame())
	return parseFrame(t, out), verdict == redirect
}

func (g *gate) count(t *testing.T) int {
	t.Helper()
	all, err := g.Flows.List()
	if err != nil {
		t.Fatal(err)
	}
	return len(all)
}

func (g *gate) sweep(t *testing.T, later time.Duration) FlowStats {
	t.Helper()
	now, err := Clock()
	if err != nil {
		t.Fatal(err)
	}
	s, err := g.Flows.Sweep(now + later)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func each(t *testing.T, f func(t *testing.T, family int, proto uint8)) {
	t.Helper()
	for family, name := range []string{"v4", "v6"} {
		for _, proto := range []uint8{tcp, udp, sctp} {
			t.Run(name+" "+network(proto), func(t *testing.T) { f(t, family, proto) })
		}
	}
}

// TestTranslation sends packets of any shape there and back and compares all that may not change; parseFrame holds the
// checksums to RFC 1071.
func TestTranslation(t *testing.T) {
	each(t, func(t *testing.T, family int, proto uint8) {
		t.Helper()
		g := newGate(t, node(t), family, proto, Block{})
		rapid.Check(t, func(rt *rapid.T) {
			s := segment{
				proto: proto, to: g.frontend, flags: syn, hops: uint8(rapid.IntRange(2, 255).Draw(rt, "hops")),
				from:    netip.AddrPortFrom(g.client.Addr(), rapid.Uint16Range(1, 65535).Draw(rt, "port")),
				payload: rapid.SliceOfN(rapid.Byte(), 0, 300).Draw(rt, "payload"),
				noSum:   (proto == udp && family == 0 || proto == sctp) && rapid.Bool().Draw(rt, "no checksum"),
			}
			if family == 0 {
				s.options = 4 * rapid.IntRange(0, 10).Draw(rt, "options")
			}
			verdict, out := runFrame(t, g.packet.FromOutside, s.frame())
			got := parseFrame(t, out)
			if verdict != redirect || got.to != g.backend || got.from.Addr() != g.frontend.Addr() || got.from.Port() < 61000 {
				t.Fatalf("verdict %d, %s -> %s", verdict, got.from, got.to)
			}
			if got.hops != s.hops-1 || got.options != s.options || got.noSum != s.noSum || !bytes.Equal(got.payload, s.payload) {
				t.Fatalf("%+v became %+v", s, got)
			}
			back := got
			back.from, back.to, back.hops, back.flags = got.to, got.from, 64, syn|ack
			verdict, out = runFrame(t, g.packet.FromPod, back.frame())
			if got := parseFrame(t, out); verdict != redirect || got.from != g.frontend || got.to != s.from || !bytes.Equal(got.payload, s.payload) {
				t.Fatalf("answer: verdict %d, %s -> %s", verdict, got.from, got.to)
			}
			g.sweep(t, 48*time.Hour) // a draw more would find no port
		})
	})
}

// TestLastHop: a packet that may go no further is dropped, not sent on for ever.
func TestLastHop(t *testing.T) {
	each(t, func(t *testing.T, family int, proto uint8) {
		t.Helper()
		g := newGate(t, node(t), family, proto, Block{})
		verdict, _ := runFrame(t, g.packet.FromOutside, segment{proto: proto, from: g.client, to: g.frontend, flags: syn, hops: 1}.frame())
		if verdict != drop {
			t.Errorf("a packet without a hop left: verdict %d", verdict)
		}
	})
}

// TestOnlySYNOpens: other segments of a connection that is not known are the stack's, which resets them.
func TestOnlySYNOpens(t *testing.T) {
	g := newGate(t, node(t), 0, tcp, Block{})
	for _, flags := range []uint8{ack, syn | ack, fin | ack, rst, rst | ack, syn | fin, 0} {
		if s, ok := g.enter(t, g.client, flags); ok || s.to != g.frontend {
			t.Errorf("a segment with flags %#x went to %s", flags, s.to)
		}
	}
	if n := g.count(t); n != 0 {
		t.Errorf("%d flows", n)
	}
}

// TestSweep ages connections in each of their states.
func TestSweep(t *testing.T) {
	type packet struct {
		answer bool
		flags  uint8
	}
	request, reply := func(flags uint8) packet { return packet{false, flags} }, func(flags uint8) packet { return packet{true, flags} }
	for name, tt := range map[string]struct {
		proto   uint8
		packets []packet
		lives   time.Duration
	}{
		"udp, no answer": {udp, nil, 30 * time.Second},
		"udp":            {udp, []packet{reply(0)}, 2 * time.Minute},
		"syn":            {tcp, nil, time.Minute},
		"established":    {tcp, []packet{reply(syn | ack), request(ack)}, 24 * time.Hour},
		"half closed":    {tcp, []packet{reply(syn | ack), request(fin | ack), reply(ack)}, time.Hour},
		"closed":         {tcp, []packet{reply(syn | ack), request(fin | ack), reply(fin | ack), request(ack)}, 30 * time.Second},
		"reset":          {tcp, []packet{reply(rst | ack)}, 10 * time.Second},
		"sctp init":      {sctp, nil, 10 * time.Second},
		"sctp":           {sctp, []packet{reply(syn | ack), request(ack)}, 210 * time.Second},
		"sctp, ending":   {sctp, []packet{reply(syn | ack), request(fin)}, 10 * time.Second},
		"sctp, ended":    {sctp, []packet{reply(syn | ack), request(fin), reply(fin)}, 10 * time.Second},
		"sctp, aborted":  {sctp, []packet{reply(syn | ack), request(rst)}, 10 * time.Second},
		"forged reset":   {tcp, []packet{reply(syn | ack), request(rst), request(ack)}, 24 * time.Hour},
	} {
		t.Run(name, func(t *testing.T) {
			g := newGate(t, node(t), 0, tt.proto, Block{})
			first, _ := g.enter(t, g.client, syn)
			for _, p := range tt.packets {
				var ok bool
				if p.answer {
					_, ok = g.answer(t, first, p.flags)
				} else {
					_, ok = g.enter(t, g.client, p.flags)
				}
				if !ok {
					t.Fatalf("packet %+v was not translated", p)
				}
			}
			if s := g.sweep(t, tt.lives-time.Second); s.Swept != 0 || s.Flows != 2 {
				t.Errorf("a second before its time: %+v", s)
			}
			if s := g.sweep(t, tt.lives+time.Second); s.Swept != 2 || s.Flows != 0 || g.count(t) != 0 {
				t.Errorf("a second after its time: %+v", s)
			}
		})
	}
}

// TestFullTable: what finds no room is refused, and what lives goes on.
func TestFullTable(t *testing.T) {
	each(t, func(t *testing.T, family int, proto uint8) {
		t.Helper()
		cfg := node(t)
		cfg.Flows = 8
		g := newGate(t, cfg, family, proto, Block{})
		admitted := map[netip.AddrPort]segment{}
		for port := uint16(1000); port < 1010; port++ {
			client := netip.AddrPortFrom(g.client.Addr(), port)
			if s, ok := g.enter(t, client, syn); ok {
				admitted[client] = s
			} else if s.to != g.frontend {
				t.Errorf("a refused packet was changed: it goes to %s", s.to)
			}
		}
		if len(admitted) != 4 || g.count(t) != 8 {
			t.Errorf("%d of 10 connections and %d flows in a table of 8", len(admitted), g.count(t))
		}
		for client, first := range admitted {
			if again, ok := g.enter(t, client, syn); !ok || again.from != first.from {
				t.Errorf("%s was translated to %s, and then to %s", client, first.from, again.from)
			}
			if s, ok := g.answer(t, first, ack); !ok || s.to != client {
				t.Errorf("the answer to %s went to %s", client, s.to)
			}
		}
		if s := g.sweep(t, 0); s.Full != 6 || s.Flows != 8 || s.Max != 8 {
			t.Errorf("the sweep says %+v, want 6 refused", s)
		}
		if s := g.sweep(t, 25*time.Hour); s.Swept != 8 {
			t.Errorf("the sweep says %+v, want 8 swept", s)
		}
		if _, ok := g.enter(t, g.client, syn); !ok {
			t.Error("there is no room after a sweep")
		}
	})
}

// TestClaims opens more connections to one backend than there are ports: each port is one connection's, the rest is
// refused, and ports of closed connections are used again without a sweep.
func TestClaims(t *testing.T) {
	g := newGate(t, node(t), 0, tcp, Block{})
	owner := map[netip.AddrPort]netip.AddrPort{}
	refused := 0
	for i := range uint16(6000) {
		client := netip.AddrPortFrom(g.client.Addr(), 2000+i)
		s, ok := g.enter(t, client, syn)
		if !ok {
			refused++
			continue
		}
		if have, taken := owner[s.from]; taken {
			t.Fatalf("%s and %s have port %d", have, client, s.from.Port())
		}
		owner[s.from] = client
	}
	if len(owner) < 4000 || len(owner) > 4536 || g.count(t) != 2*len(owner) {
		t.Errorf("%d connections and %d flows", len(owner), g.count(t))
	}
	if s := g.sweep(t, 0); s.NoPort != uint64(refused) || s.Full != 0 {
		t.Errorf("%d refused, the sweep says %+v", refused, s)
	}
	for port, client := range owner {
		g.answer(t, segment{proto: tcp, from: port, to: g.backend, hops: 64}, rst)
		delete(owner, port)
		if got, ok := g.enter(t, netip.AddrPortFrom(client.Addr(), 1000), syn); ok {
			return // somebody's port was given up and taken again
		} else if got.to != g.frontend {
			t.Fatalf("a refused packet goes to %s", got.to)
		}
	}
	t.Error("no port of a closed connection was used again")
}

// TestKeptPort is a client whose address stays, and that asks at two frontends with one port: its second connection
// must differ from the first at the backend.
func TestKeptPort(t *testing.T) {
	each(t, func(t *testing.T, family int, proto uint8) {
		t.Helper()
		g := newGate(t, node(t), family, proto, local(Block{}, at(podAddrs[family], 8080)))
		second := Frontend{Addr: at(nodeAddrs[family], 30081), Protocol: proto}
		if err := g.Services.PutFrontend(second, NodePort, 1); err != nil {
			t.Fatal(err)
		}
		a, ok := g.enter(t, g.client, syn)
		if !ok || a.from != g.client {
			t.Fatalf("the client became %s, want its own address and port", a.from)
		}
		first := g.frontend
		g.frontend = second.Addr
		b, ok := g.enter(t, g.client, syn)
		if !ok || b.from.Addr() != g.client.Addr() || b.from == a.from {
			t.Errorf("the client became %s and %s", a.from, b.from)
		}
		for request, frontend := range map[netip.AddrPort]netip.AddrPort{a.from: first, b.from: second.Addr} {
			s, ok := g.answer(t, segment{proto: proto, from: request, to: g.backend, hops: 64}, ack)
			if !ok || s.from != frontend || s.to != g.client {
				t.Errorf("the answer to %s is %s -> %s, want it from %s", request, s.from, s.to, frontend)
			}
		}
	})
}

// TestRepick takes backends away from a client: datagrams move on, a TCP connection stays.
func TestRepick(t *testing.T) {
	each(t, func(t *testing.T, family int, proto uint8) {
		t.Helper()
		g := newGate(t, node(t), family, proto, Block{})
		other := at(remoteAddrs[family], 9000)
		goes := func(want netip.AddrPort) {
			t.Helper()
			if s, ok := g.enter(t, g.client, ack); !ok || s.to != want {
				t.Errorf("a packet went to %s (%v), want %s", s.to, ok, want)
			}
		}
		if s, ok := g.enter(t, g.client, syn); !ok || s.to != g.backend {
			t.Fatalf("the first packet went to %s", s.to)
		}
		for _, tt := range []struct {
			offered []netip.AddrPort
			udp     netip.AddrPort
		}{
			{[]netip.AddrPort{other, g.backend}, g.backend},
			{[]netip.AddrPort{other}, other},
			{[]netip.AddrPort{g.backend, other}, other},
		} {
			if err := g.Services.Publish(1, Block{Cluster: tt.offered}); err != nil {
				t.Fatal(err)
			}
			if proto != udp {
				tt.udp = g.backend
			}
			goes(tt.udp)
			if n := g.count(t); n != 2 {
				t.Errorf("%d flows", n)
			}
		}
		if err := g.Services.Publish(1, Block{}); err != nil {
			t.Fatal(err)
		}
		if proto != udp {
			goes(g.backend)
			return
		}
		verdict, out := runFrame(t, g.packet.FromOutside, segment{proto: proto, from: g.client, to: g.frontend, hops: 64}.frame())
		if _, to, about := parseError(t, out); verdict != redirect || to != g.client.Addr() || about.from != g.client {
			t.Errorf("without backends %s is told about %s, verdict %d", to, about, verdict)
		}
	})
}

// TestReopen is a client that uses a port again. It gets a new pick if its connection was closed, or if the backend is
// gone; else its SYN is one that was lost.
func TestReopen(t *testing.T) {
	other := at(remoteAddrs[0], 9000)
	for name, tt := range map[string]struct {
		close   func(g *gate, first segment)
		offered bool
		moves   bool
	}{
		"live":             {func(*gate, segment) {}, true, false},
		"live, not there":  {func(*gate, segment) {}, false, true},
		"half closed":      {func(g *gate, _ segment) { g.enter(t, g.client, fin|ack) }, true, false},
		"closed":           {func(g *gate, s segment) { g.enter(t, g.client, fin|ack); g.answer(t, s, fin|ack) }, true, true},
		"reset":            {func(g *gate, s segment) { g.answer(t, s, rst) }, true, true},
		"reset by client":  {func(g *gate, _ segment) { g.enter(t, g.client, rst) }, true, true},
		"closed, and gone": {func(g *gate, s segment) { g.enter(t, g.client, fin|ack); g.answer(t, s, fin|ack) }, false, true},
	} {
		t.Run(name, func(t *testing.T) {
			g := newGate(t, node(t), 0, tcp, Block{})
			first, _ := g.enter(t, g.client, syn)
			g.answer(t, first, syn|ack)
			tt.close(g, first)
			b := Block{Cluster: []netip.AddrPort{other}}
			if tt.offered { // so that a new pick goes elsewhere all but certainly
				b.Cluster = append(slices.Repeat(b.Cluster, 100), g.backend)
			}
			if err := g.Services.Publish(1, b); err != nil {
				t.Fatal(err)
			}
			// Another port at the backend tells a new connection from the old one, wherever it goes.
			s, ok := g.enter(t, g.client, syn)
			if moved := s.from != first.from || s.to != first.to; !ok || moved != tt.moves || g.count(t) != 2 {
				t.Errorf("the connection was %s -> %s and is %s -> %s (%v), %d flows", first.from, first.to, s.from, s.to, ok, g.count(t))
			}
		})
	}
}

// TestDeletedService: datagrams to a frontend that is gone are the stack's to refuse.
func TestDeletedService(t *testing.T) {
	g := newGate(t, node(t), 1, udp, Block{})
	g.enter(t, g.client, 0)
	f := Frontend{Addr: netip.AddrPortFrom(netip.IPv6Unspecified(), 30080), Protocol: udp}
	if err := g.Services.DeleteFrontend(f); err != nil {
		t.Fatal(err)
	}
	g.Services.Retire(1)
	if s, ok := g.enter(t, g.client, 0); ok || s.to != g.frontend || g.count(t) != 0 {
		t.Errorf("a datagram went to %s, %d flows", s.to, g.count(t))
	}
}

// TestStrangers is what from_outside must leave to others.
func TestStrangers(t *testing.T) {
	g := newGate(t, node(t), 0, tcp, Block{})
	mapped := netip.AddrFrom16(netip.MustParseAddr(nodeAddrs[0]).As16())
	syn4 := segment{proto: tcp, from: g.client, to: g.frontend, flags: syn, hops: 64}
	for name, tt := range map[string]func(s *segment){
		"another port":       func(s *segment) { s.to = netip.AddrPortFrom(s.to.Addr(), 30081) },
		"another address":    func(s *segment) { s.to = at("192.0.2.9", 30080) },
		"another protocol":   func(s *segment) { s.proto = udp },
		"loopback":           func(s *segment) { s.to = at("127.0.0.1", 30080) },
		"IPv4 in IPv6":       func(s *segment) { s.from, s.to = at("fd02::2", 40000), netip.AddrPortFrom(mapped, 30080) },
		"unknown protocol":   func(s *segment) { s.proto = 136 },
		"the wildcard as is": func(s *segment) { s.to = at("0.0.0.0", 30080) },
	} {
		s := syn4
		tt(&s)
		frame := s.frame()
		if verdict, out := runFrame(t, g.packet.FromOutside, frame); verdict != pass || !bytes.Equal(out, frame) {
			t.Errorf("%s: verdict %d", name, verdict)
		}
	}
	if err := g.SetNodeAddresses(append(addrs(nodeAddrs), netip.MustParseAddr("127.0.0.1"))); err != nil {
		t.Fatal(err)
	}
	syn4.to = at("127.0.0.1", 30080)
	if verdict, _ := runFrame(t, g.packet.FromOutside, syn4.frame()); verdict != pass {
		t.Error("the loopback answers somebody outside")
	}
	frame := append([]byte{2, 0, 0, 0, 0, 1}, segment{proto: tcp, from: g.client, to: g.frontend, flags: syn, hops: 64}.frame()[6:]...)
	if verdict, _ := runFrame(t, g.packet.FromOutside, frame); verdict != pass {
		t.Error("a frame for another machine was translated")
	}
	if n := g.count(t); n != 0 {
		t.Errorf("%d flows", n)
	}
}

// TestPassersBy gives the programs packets of any shape, whole or cut short, among them such as a connection has that
// is being translated: what is not of that connection leaves as it came.
func TestPassersBy(t *testing.T) {
	g := newGate(t, node(t), 0, tcp, Block{})
	first, ok := g.enter(t, g.client, syn)
	if !ok {
		t.Fatal("the first packet was not translated")
	}
	addresses := addrs([]string{nodeAddrs[0], clientAddrs[0], "10.9.9.9", nodeAddrs[1], clientAddrs[1], "127.0.0.1"})
	programs := map[string]*ebpf.Program{
		"from_outside": g.packet.FromOutside, "to_outside": g.packet.ToOutside, "from_pod": g.packet.FromPod,
		"to_vpc": g.packet.ToVpc, "leave_pod": g.packet.LeavePod, "from_vpc": g.packet.FromVpc, "to_pod": g.packet.ToPod,
	}
	rapid.Check(t, func(rt *rapid.T) {
		port := rapid.SampledFrom([]uint16{30081, 40000, first.from.Port(), 8080, 1})
		family := rapid.IntRange(0, 1).Draw(rt, "family")
		address := rapid.SampledFrom(addresses[family*3 : family*3+3-family])
		s := segment{
			proto: rapid.SampledFrom([]uint8{tcp, udp, 1, 44, 50, 58, 132}).Draw(rt, "proto"),
			from:  netip.AddrPortFrom(address.Draw(rt, "source"), port.Draw(rt, "source port")),
			to:    netip.AddrPortFrom(address.Draw(rt, "destination"), port.Draw(rt, "destination port")),
			flags: rapid.Byte().Draw(rt, "flags"), hops: rapid.Byte().Draw(rt, "hops"),
			payload: rapid.SliceOfN(rapid.Byte(), 0, 64).Draw(rt, "payload"),
		}
		frame := s.frame()
		for range rapid.IntRange(0, 3).Draw(rt, "changes") {
			frame[rapid.IntRange(12, len(frame)-1).Draw(rt, "byte")] = rapid.Byte().Draw(rt, "value")
		}
		// The kernel does not run programs on less than an IP header.
		if shortest := 14 + 20 + family*20; rapid.Bool().Draw(rt, "cut") {
			frame = frame[:rapid.IntRange(shortest, len(frame)).Draw(rt, "length")]
		}
		name := rapid.SampledFrom([]string{"from_outside", "to_outside", "from_pod", "to_vpc", "leave_pod", "from_vpc", "to_pod"}).Draw(rt, "program")
		code, out, err := tryFrame(programs[name], frame)
		if err != nil {
			return // not a packet to the kernel either
		}
		if code != pass && (code != drop || name != "from_pod" && name != "leave_pod") || !bytes.Equal(out, frame) {
			rt.Fatalf("%s says %d of %x and makes %x of it", name, code, frame, out)
		}
	})
}

func (s segment) String() string { return fmt.Sprintf("%d %s -> %s", s.proto, s.from, s.to) }
