//go:build node

package bpf

import (
	"bytes"
	"errors"
	"net/netip"
	"testing"

	"github.com/cilium/ebpf"
)

// TestWays holds the programs of ENIs to where a pod's packet must go: out by the ENI, or to the node.
func TestWays(t *testing.T) {
	d, err := Load(node(t))
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	for i, family := range []string{"v4", "v6"} {
		pod, neighbour, host := at(podAddrs[i], 40000), []string{"10.1.0.6", "fd01::6"}[i], nodeAddrs[i]
		networks := []HostNetwork{
			{netip.MustParsePrefix([]string{"0.0.0.0/0", "::/0"}[i]), WayNode},
			{netip.MustParsePrefix([]string{"10.0.0.0/8", "fd00::/8"}[i]), WayENI},
			{netip.MustParsePrefix([]string{"10.7.0.0/16", "fd07::/16"}[i]), WayNode},
		}
		err := errors.Join(
			d.SetNodeAddresses(addrs([]string{host})), d.SetHostNetworks(networks),
			d.Pods.Put(Pod{Addrs: addrs([]string{podAddrs[i]}), Link: 1, Side: 1, Slot: 3}),
			d.Pods.Put(Pod{Addrs: addrs([]string{neighbour}), Link: 1, Slot: 3}),
		)
		if err != nil {
			t.Fatal(err)
		}
		for name, tt := range map[string]struct {
			from, to string
			mark     uint32
			want     int32
		}{
			"inside the VPC":              {podAddrs[i], []string{"10.2.0.1", "fd08::1"}[i], 0, pass},
			"outside":                     {podAddrs[i], []string{"198.51.100.1", "2001:db8::1"}[i], 0, redirect},
			"a network of the node's":     {podAddrs[i], []string{"10.7.0.1", "fd07::1"}[i], 0, redirect},
			"all neighbours":              {podAddrs[i], []string{"224.0.0.1", "ff02::1"}[i], 0, pass},
			"a neighbour on the link":     {podAddrs[i], []string{"255.255.255.255", "fe80::1"}[i], 0, pass},
			"the node":                    {podAddrs[i], host, 0, redirect},
			"a pod of the node":           {podAddrs[i], neighbour, 0, redirect},
			"come through the node's way": {podAddrs[i], []string{"198.51.100.1", "2001:db8::1"}[i], 0x0803, pass},
		} {
			frame := segment{proto: udp, from: at(tt.from, pod.Port()), to: at(tt.to, 53), hops: 64}.frame()
			for program, p := range map[string]*ebpf.Program{"to_vpc": d.packet.ToVpc, "leave_pod": d.packet.LeavePod} {
				if program == "leave_pod" && tt.mark != 0 {
					continue // the node's marks do not reach a pod's namespace
				}
				out := make([]byte, len(frame))
				code, err := p.Run(&ebpf.RunOptions{Data: frame, DataOut: out, Context: skb{Mark: tt.mark}})
				if err != nil || int32(code) != tt.want || !bytes.Equal(frame, out) {
					t.Errorf("%s, %s, %s: %d, %v, want %d", family, program, name, int32(code), err, tt.want)
				}
			}
		}
	}
}

// TestAnswersByENI: what a pod with an ENI under it answers to a client that came by the node goes back by the node,
// translated where the node sees it first. A packet with the node's mark has been seen to.
func TestAnswersByENI(t *testing.T) {
	each(t, func(t *testing.T, family int, proto uint8) {
		t.Helper()
		g := newGate(t, node(t), family, proto, local(Block{}, at(podAddrs[family], 8080)))
		if err := g.Pods.Put(Pod{Addrs: addrs(podAddrs), Link: podLink, Side: podLink, Slot: 1}); err != nil {
			t.Fatal(err)
		}
		if _, ok := g.enter(t, g.client, syn); !ok {
			t.Fatal("the first packet was not translated")
		}
		frame := segment{proto: proto, from: g.backend, to: g.client, flags: syn | ack, hops: 64}.frame()
		verdict, out := runFrame(t, g.packet.ToVpc, frame)
		if s := parseFrame(t, out); verdict != redirect || s.from != g.frontend || s.to != g.client {
			t.Errorf("to_vpc: verdict %d, %s", verdict, s)
		}
		if verdict, out = runFrame(t, g.packet.LeavePod, frame); verdict != redirect || !bytes.Equal(out, frame) {
			t.Errorf("leave_pod: verdict %d", verdict)
		}
		out = make([]byte, len(frame))
		code, err := g.packet.ToVpc.Run(&ebpf.RunOptions{Data: frame, DataOut: out, Context: skb{Mark: 0x0801}})
		if err != nil || int32(code) != pass || !bytes.Equal(out, frame) {
			t.Errorf("to_vpc, marked: verdict %d, %v", int32(code), err)
		}
	})
}

// TestNewAgent replaces the programs under a connection.
func TestNewAgent(t *testing.T) {
	cfg := node(t)
	w := newWorld(t, cfg)
	w.pod.serve(t, at(podAddrs[0], 8080), "pod")
	f := Frontend{Addr: at("0.0.0.0", 30080), Protocol: tcp}
	if err := errors.Join(w.Services.Publish(7, Block{Cluster: []netip.AddrPort{at(podAddrs[0], 8080)}}), w.Services.PutFrontend(f, NodePort, 7)); err != nil {
		t.Fatal(err)
	}
	conn, err := w.client.dial(t, tcp, at(nodeAddrs[0], 30080), patience)
	if err != nil {
		t.Fatal(err)
	}
	var before netip.AddrPort
	for i := range 3 {
		name, seen, err := ask(conn, patience)
		if err != nil || name != "pod" || i > 0 && seen != before {
			t.Fatalf("under agent %d: %s saw %s, %v; before it saw %s", i, name, seen, err, before)
		}
		before = seen
		d, err := Load(cfg)
		if err != nil {
			t.Fatal(err)
		}
		w.node.do(t, func() error {
			return errors.Join(d.AttachLink(Uplink, w.uplink), d.AttachLink(PodLink, w.podLink))
		})
		if err := d.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// eni gives the pod a second link, to nowhere, and returns its index in the pod.
func (w *world) eni(t *testing.T) (index int) {
	t.Helper()
	index, _ = w.pod.plug(t, "eni", w.client, "vpc")
	return index
}

// TestLeavePod gives the pod an ENI of its own, by which all its packets would leave: those of connections that came by
// the node, and those for the node, take the side link; from_pod makes them the node's.
func TestLeavePod(t *testing.T) {
	w := newWorld(t, node(t))
	eni := w.eni(t)
	var side int
	w.pod.do(t, func() error {
		l, err := netlinkIndex("eth0")
		side = l
		return errors.Join(err, w.AttachLink(ExclusiveENI, eni))
	})
	w.pod.moveDefault(t, "eth0", "eni")
	if err := w.Pods.Put(Pod{Addrs: addrs(podAddrs), Link: w.podLink, Side: side, Slot: 1}); err != nil {
		t.Fatal(err)
	}
	for i := range nodeAddrs {
		pod := at(podAddrs[i], 8080)
		w.pod.serve(t, pod, "pod")
		for name, b := range map[string]Block{
			"Local": {Cluster: []netip.AddrPort{pod}, Local: []netip.AddrPort{pod}, ExternalLocal: true}, "Cluster": {Cluster: []netip.AddrPort{pod}},
		} {
			sees := map[string]string{"Local": clientAddrs[i], "Cluster": nodeAddrs[i]}[name]
			for _, proto := range []uint8{tcp, udp} {
				f := Frontend{Addr: netip.AddrPortFrom(unspecified(pod.Addr()), 30080), Protocol: proto}
				if err := errors.Join(w.Services.Publish(7, b), w.Services.PutFrontend(f, NodePort, 7)); err != nil {
					t.Fatal(err)
				}
				w.expect(t, proto, at(nodeAddrs[i], 30080), "pod", sees)
			}
		}
		w.node.serve(t, at(nodeAddrs[i], 9000), "node")
		for _, proto := range []uint8{tcp, udp} {
			conn, err := w.pod.dial(t, proto, at(nodeAddrs[i], 9000), patience)
			if err != nil {
				t.Fatal(err)
			}
			if name, seen, err := ask(conn, patience); err != nil || name != "node" || seen.Addr() != pod.Addr() {
				t.Errorf("the pod asks its node: %s saw %s, %v", name, seen, err)
			}
		}
	}
	w.noLoss(t)
}
