//go:build node

package bpf

import (
	"bytes"
	"errors"
	"net/netip"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// send puts a packet, as it is, onto a link of a namespace.
func (n *netns) send(t *testing.T, link string, to []byte, s segment) {
	t.Helper()
	n.do(t, func() error { return sendBy(link, to, s) })
}

func sendBy(link string, to []byte, s segment) error {
	index, err := netlinkIndex(link)
	if err != nil {
		return err
	}
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	frame := s.frame()
	copy(frame, to)
	return unix.Sendto(fd, frame, 0, &unix.SockaddrLinklayer{Ifindex: index})
}

// TestForgedSource has a second pod that sends with the first one's address. Its resets reach no client, and leave no
// trace in the first one's connections.
func TestForgedSource(t *testing.T) {
	w := newWorld(t, node(t))
	thief := newNetns(t)
	link, _ := w.node.plug(t, "thief", thief, "eth0")
	w.node.do(t, func() error { return w.AttachLink(PodLink, link) })
	if err := w.Pods.Put(Pod{Addrs: addrs([]string{"10.1.0.6", "fd01::6"}), Link: link, Slot: 1}); err != nil {
		t.Fatal(err)
	}
	for i := range nodeAddrs {
		backend := at(podAddrs[i], 8080)
		w.pod.serve(t, backend, "pod")
		b := Block{Cluster: []netip.AddrPort{backend}, Local: []netip.AddrPort{backend}, ExternalLocal: true}
		f := Frontend{Addr: netip.AddrPortFrom(unspecified(backend.Addr()), 30080), Protocol: tcp}
		if err := errors.Join(w.Services.Publish(7, b), w.Services.PutFrontend(f, NodePort, 7)); err != nil {
			t.Fatal(err)
		}
		conn, err := w.client.dial(t, tcp, at(nodeAddrs[i], 30080), patience)
		if err != nil {
			t.Fatal(err)
		}
		client := netip.MustParseAddrPort(conn.LocalAddr().String())
		forged := segment{proto: tcp, from: backend, to: client, flags: rst | ack, hops: 64}
		before := w.replies(t)
		program := w.packet.FromPod
		stats, err := ebpf.EnableStats(unix.BPF_STATS_RUN_TIME)
		if err != nil {
			t.Fatal(err)
		}
		ran := runs(t, program)
		thief.send(t, "eth0", w.node.mac(t, "thief"), forged)
		for deadline := time.Now().Add(patience); runs(t, program) == ran; {
			if time.Now().After(deadline) {
				t.Fatal("the forged packet did not come")
			}
		}
		if err := stats.Close(); err != nil {
			t.Error(err)
		}
		if after := w.replies(t); after != before {
			t.Errorf("the flow's flags were %#x and are %#x", before, after)
		}
		if name, _, err := ask(conn, patience); err != nil || name != "pod" {
			t.Errorf("after a forged reset %s answers, %v", name, err)
		}
		if err := conn.Close(); err != nil {
			t.Error(err)
		}
		if now, err := Clock(); err != nil {
			t.Error(err)
		} else if _, err := w.Flows.Sweep(now + 48*time.Hour); err != nil {
			t.Error(err)
		}
	}
}

// TestForgedByENI has a pod with an ENI of its own send by it with the address of another such pod: nothing leaves, nothing
// begins, and the other one's connections are as they were.
func TestForgedByENI(t *testing.T) {
	c := newCluster(t)
	for n, link := range map[*netns]int{c.pod: c.podLink, c.neighbour: c.neighbourLink} {
		vpc, of := "vpc", podAddrs
		if n == c.neighbour {
			vpc, of = "another", neighbourAddrs
		}
		eni, _ := n.plug(t, "eni", c.remote, vpc)
		var side int
		var cookie uint64
		n.do(t, func() (err error) {
			if cookie, err = NetNSCookie(); err == nil {
				side, err = netlinkIndex("eth0")
			}
			pod := Pod{Addrs: addrs(of), NetNSCookie: cookie, Link: link, Side: side, Slot: 1}
			return errors.Join(err, c.Pods.Put(pod), c.AttachLink(ExclusiveENI, eni, pod.Addrs...))
		})
		n.moveDefault(t, "eth0", "eni")
	}
	for i := range nodeAddrs {
		vip := at(vips[i], 80)
		// The pod's ENI and the other node are in one network, the gateway of which is the other node.
		c.pod.neighbour(t, "eni", gateways[i], c.remote.mac(t, "vpc"))
		c.remote.route(t, "vpc", podAddrs[i]+[]string{"/32", "/128"}[i], "", c.pod.mac(t, "eni"))
		c.remote.serve(t, at(remoteAddrs[i], 8080), "remote")
		c.offer(t, Frontend{Addr: vip, Protocol: tcp}, ClusterIP, sticky(one(remoteAddrs[i])))
		conn, err := c.pod.dial(t, tcp, vip, patience)
		if err != nil {
			t.Fatal(err)
		}
		before, entries := c.flags(t, false), c.entries(t)
		all, err := c.Flows.List()
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range all {
			if f.Reply || f.Source.Addr() != netip.MustParseAddr(podAddrs[i]) {
				continue
			}
			for name, forged := range map[string]segment{
				"a reset":                  {proto: tcp, from: f.Source, to: f.Destination, flags: rst | ack, hops: 64},
				"an opening":               {proto: tcp, from: at(podAddrs[i], 40000), to: vip, flags: syn, hops: 64},
				"an opening of the node's": {proto: tcp, from: at(nodeAddrs[i], 40000), to: vip, flags: syn, hops: 64},
			} {
				c.neighbour.do(t, func() error {
					// What a program drops there the sender is told.
					if err := sendBy("eni", nil, forged); !errors.Is(err, unix.ENOBUFS) {
						t.Errorf("%s left: %v", name, err)
					}
					return nil
				})
				if after := c.flags(t, false); after != before || c.entries(t) != entries {
					t.Errorf("%s: the flows' flags were %#x and are %#x, entries %d and %d", name, before, after, entries, c.entries(t))
				}
			}
		}
		if name, _, err := ask(conn, patience); err != nil || name != "remote" {
			t.Errorf("after forged packets %s answers, %v", name, err)
		}
		if after := c.entries(t); after != entries {
			t.Errorf("%d flows and clients, want %d", after, entries)
		}
	}
}

// entries is how many flows and remembered clients there are.
func (w *world) entries(t *testing.T) int {
	t.Helper()
	all, err := w.Flows.List()
	clients, affinityErr := w.Affinity.List()
	if err := errors.Join(err, affinityErr); err != nil {
		t.Fatal(err)
	}
	return len(all) + len(clients)
}

// replies are the flags of all backends' entries.
func (w *world) replies(t *testing.T) uint32 {
	t.Helper()
	return w.flags(t, true)
}

// flags are those of all entries of a side.
func (w *world) flags(t *testing.T, reply bool) (flags uint32) {
	t.Helper()
	err := w.Flows.each(func(_ packetFlowKey, v packetFlow) error {
		if isReply(v) == reply {
			flags |= v.Flags
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return flags
}

// TestForgedFrames gives programs packets with the address of a pod that is behind another link.
func TestForgedFrames(t *testing.T) {
	each(t, func(t *testing.T, family int, proto uint8) {
		t.Helper()
		g := newGate(t, node(t), family, proto, local(Block{}, at(podAddrs[family], 8080)))
		if _, ok := g.enter(t, g.client, syn); !ok {
			t.Fatal("the first packet was not translated")
		}
		for name, to := range map[string]netip.AddrPort{
			"a client": g.client, "the node": g.frontend, "outside": at([]string{"198.51.100.1", "2001:db8::1"}[family], 443),
		} {
			frame := segment{proto: proto, from: g.backend, to: to, flags: rst, hops: 64}.frame()
			for _, tt := range []struct {
				name    string
				program *ebpf.Program
				pod     Pod
			}{
				{"from_pod", g.packet.FromPod, Pod{Link: podLink + 1, Parent: podLink}},
				{"to_vpc, another ENI", g.packet.ToVpc, Pod{Link: podLink, Parent: podLink + 1}},
			} {
				tt.pod.Addrs, tt.pod.Slot = addrs(podAddrs), 1
				if err := g.Pods.Put(tt.pod); err != nil {
					t.Fatal(err)
				}
				if verdict, out := runFrame(t, tt.program, frame); verdict != drop || !bytes.Equal(frame, out) {
					t.Errorf("%s, to %s: verdict %d", tt.name, name, verdict)
				}
			}
		}
		neighbour := netip.MustParseAddr([]string{"10.1.0.6", "fd01::6"}[family])
		for _, of := range [][]netip.Addr{addrs(podAddrs), {neighbour}} {
			if err := g.Pods.Put(Pod{Addrs: of, Link: podLink, Parent: podLink, Slot: 1}); err != nil {
				t.Fatal(err)
			}
		}
		// Nor does an error that is said to be about another pod's packet look like one from the node.
		about := segment{proto: proto, from: g.client, to: g.backend, flags: syn, hops: 64}
		for name, p := range map[string]*ebpf.Program{"from_pod": g.packet.FromPod, "to_vpc": g.packet.ToVpc} {
			frame := icmpError(neighbour, g.client.Addr(), about)
			if verdict, out := runFrame(t, p, frame); verdict != pass || !bytes.Equal(frame, out) {
				t.Errorf("%s, an error of another pod: verdict %d", name, verdict)
			}
		}
		for name, p := range map[string]*ebpf.Program{"from_pod": g.packet.FromPod, "to_vpc": g.packet.ToVpc} {
			frame := segment{proto: proto, from: g.backend, to: g.client, flags: syn | ack, hops: 64}.frame()
			if verdict, _ := runFrame(t, p, frame); verdict != redirect {
				t.Errorf("%s, the pod's own: verdict %d", name, verdict)
			}
		}
	})
}

// TestReusedAddress: a pod that gets the address of a deleted one gets none of its connections, whatever its link.
func TestReusedAddress(t *testing.T) {
	for name, tt := range map[string]struct {
		link  int
		after func(g *gate, p Pod) error
		flows int
	}{
		"put at once, same link": {podLink, func(g *gate, p Pod) error { return errors.Join(g.Pods.Delete(p.Addrs), g.Pods.Put(p)) }, 0},
		"swept":                  {podLink, func(g *gate, p Pod) error { g.sweep(t, 0); return g.Pods.Delete(p.Addrs) }, 2},
		"deleted, then swept":    {podLink, func(g *gate, p Pod) error { err := g.Pods.Delete(p.Addrs); g.sweep(t, 0); return err }, 0},
		"put again, not deleted": {podLink, func(g *gate, p Pod) error { return g.Pods.Put(p) }, 2},
		"another pod's is deleted": {podLink, func(g *gate, p Pod) error {
			other := Pod{Addrs: addrs([]string{"10.1.0.6"}), Link: podLink, Slot: 1}
			err := errors.Join(g.Pods.Put(other), g.Pods.Delete(other.Addrs))
			g.sweep(t, 0)
			return err
		}, 2},
	} {
		t.Run(name, func(t *testing.T) {
			g := newGate(t, node(t), 0, tcp, Block{})
			first, ok := g.enter(t, g.client, syn)
			if _, answered := g.answer(t, first, syn|ack); !ok || !answered {
				t.Fatal("the connection was not translated")
			}
			if err := tt.after(g, Pod{Addrs: addrs(podAddrs), Link: tt.link, Slot: 1}); err != nil {
				t.Fatal(err)
			}
			if n := g.count(t); n != tt.flows {
				t.Errorf("%d flows, want %d", n, tt.flows)
			}
		})
	}
}

// TestGonePodLink: connections of a pod that has another link, or that nobody has told to be gone, are forgotten by a
// sweep; those to other nodes, and to the node itself, stay.
func TestGonePodLink(t *testing.T) {
	w := newWorld(t, node(t))
	pod, remote, own := at(podAddrs[0], 8080), at(remoteAddrs[0], 8080), at(nodeAddrs[0], 8080)
	w.pod.serve(t, pod, "pod")
	w.remote.serve(t, remote, "remote")
	w.node.serve(t, own, "own")
	for i, backend := range []netip.AddrPort{pod, remote, own} {
		port := uint16(30080 + i)
		f := Frontend{Addr: at("0.0.0.0", port), Protocol: tcp}
		record := uint32(7 + i)
		if err := errors.Join(w.Services.Publish(record, Block{Cluster: []netip.AddrPort{backend}}), w.Services.PutFrontend(f, NodePort, record)); err != nil {
			t.Fatal(err)
		}
		if _, err := w.client.dial(t, tcp, at(nodeAddrs[0], port), patience); err != nil {
			t.Fatal(err)
		}
	}
	left := func() (backends map[netip.AddrPort]int) {
		t.Helper()
		now, err := Clock()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := w.Flows.Sweep(now); err != nil {
			t.Fatal(err)
		}
		all, err := w.Flows.List()
		if err != nil {
			t.Fatal(err)
		}
		backends = map[netip.AddrPort]int{}
		for _, f := range all {
			if f.Reply {
				backends[f.Source]++
			} else {
				backends[f.NewDestination]++
			}
		}
		return backends
	}
	if got := left(); got[pod] != 2 || got[remote] != 2 || got[own] != 2 {
		t.Errorf("with the pod, entries by backend: %v", got)
	}
	if err := w.Pods.Put(Pod{Addrs: addrs(podAddrs), Link: w.podLink + 100, Slot: 1}); err != nil {
		t.Fatal(err)
	}
	if got := left(); got[pod] != 0 || got[remote] != 2 || got[own] != 2 {
		t.Errorf("with another link of the pod, entries by backend: %v", got)
	}
}

// TestUnansweredPort: connections that nobody answers hold all ports to a backend for three seconds only.
func TestUnansweredPort(t *testing.T) {
	g := newGate(t, node(t), 0, udp, Block{})
	refused := 0
	for i := range uint16(6000) {
		if _, ok := g.enter(t, netip.AddrPortFrom(g.client.Addr(), 2000+i), 0); !ok {
			refused++
		}
	}
	if refused == 0 {
		t.Fatal("there are more ports than this test knows")
	}
	// Some are answered, and have theirs for good.
	answered := map[netip.AddrPort]netip.AddrPort{}
	for i := range uint16(100) {
		client := netip.AddrPortFrom(g.client.Addr(), 2000+i)
		if s, ok := g.enter(t, client, 0); ok {
			g.answer(t, s, 0)
			answered[client] = s.from
		}
	}
	if err := g.age(4 * time.Second); err != nil {
		t.Fatal(err)
	}
	admitted := 0
	for i := range uint16(500) {
		if _, ok := g.enter(t, netip.AddrPortFrom(g.client.Addr(), 10000+i), 0); ok {
			admitted++
		}
	}
	if admitted < 400 {
		t.Errorf("%d of 500 connections after a flood got a port", admitted)
	}
	for client, port := range answered {
		if s, ok := g.enter(t, client, 0); !ok || s.from != port {
			t.Errorf("%s had port %d and has %d (%v)", client, port.Port(), s.from.Port(), ok)
		}
	}
}

// age makes all entries look older.
func (g *gate) age(by time.Duration) error {
	old := map[packetFlowKey]packetFlow{}
	err := g.Flows.each(func(k packetFlowKey, v packetFlow) error {
		v.LastSeen -= uint64(by)
		old[k] = v
		return nil
	})
	for k, v := range old {
		err = errors.Join(err, g.Flows.flows.Update(k, v, ebpf.UpdateExist))
	}
	return err
}
