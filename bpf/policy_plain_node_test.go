//go:build node

package bpf

import (
	"encoding/binary"
	"net/netip"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/miekg/dns"
)

// TestPolicyLinkBusiness: S35. Neighbours are found and groups joined whatever the policy, and nothing is told by such packets to
// who is not on the link. Routers are heard, and pods are none.
func TestPolicyLinkBusiness(t *testing.T) {
	l := newPolLab(t, node(t))
	f := l.families[1]
	l.putSets(t, PolicySets{1, 1})
	near, far := netip.MustParseAddr("fe80::1:1"), netip.MustParseAddr("2001:db8:99::1")
	group, all := netip.MustParseAddr("ff02::16"), netip.MustParseAddr("ff02::1")
	for _, tt := range []struct {
		name string
		in   bool
		kind byte
		hops byte
		peer netip.Addr
		pass bool
	}{
		{"a neighbour is asked", false, 135, 255, near, true}, {"and answers", true, 136, 255, near, true},
		{"the node's own address is asked", false, 135, 255, f.node, true},
		{"somebody far is asked", false, 135, 255, far, false},
		{"a router's hop is missing", true, 136, 254, far, false},
		{"a router is looked for", false, 133, 255, netip.MustParseAddr("ff02::2"), true},
		{"a router speaks", true, 134, 255, near, true},
		{"a pod would be one", false, 134, 255, near, false},
		{"a redirect", true, 137, 255, near, false},
		{"a group is joined", false, 143, 1, group, true}, {"and asked for", true, 130, 1, near, true},
		{"who is there", false, 128, 1, all, true},
		{"an echo", false, 128, 64, far, false},
	} {
		from, to := f.pod, tt.peer
		program := l.packet.FromPod
		if tt.in {
			from, to, program = to, from, l.packet.ToPod
		}
		raw := make([]byte, 24)
		raw[0] = tt.kind
		frame := segment{proto: 58, from: netip.AddrPortFrom(from, 0), to: netip.AddrPortFrom(to, 0), hops: tt.hops, raw: raw}.frame()
		code, err := program.Run(&ebpf.RunOptions{Data: frame, DataOut: l.out, Context: skb{IngressIfindex: l.strange}})
		if pass := int32(code) != drop; err != nil || pass != tt.pass {
			t.Errorf("%s: passes: %t, %v, want %t", tt.name, pass, err, tt.pass)
		}
	}
}

// TestPolicyOdd: S33, S34, S36. What cannot be read does not come to an isolated pod, nor leave it.
func TestPolicyOdd(t *testing.T) {
	l := newPolLab(t, node(t))
	f := l.families[1]
	pod, peer := netip.AddrPortFrom(f.pod, 40000), netip.AddrPortFrom(f.peers[0], 80)
	long := make([]byte, 9)
	for i := range long {
		long[i] = destinationOp
	}
	first := sends(udp, pod, peer, 0)
	first.first, first.id = true, 7
	later := sends(udp, pod, peer, 0)
	later.kind, later.id = nextFragment, 7
	unknown := later
	unknown.id = 8
	endless := sends(udp, pod, peer, 0)
	endless.chain = long
	hops := sends(udp, pod, peer, 0)
	hops.chain = long[:8]
	for _, isolated := range []bool{false, true} {
		if isolated {
			l.putPeer(t, f.peers[0], 1)
			l.putVerdict(t, PolicyKey{1, 1}, PolicyInterval{Lo: udp<<16 | 80, Hi: udp<<16 | 80})
			l.putSets(t, PolicySets{1, 1})
			l.bump(t)
		}
		cut := sends(udp, pod, peer, 0)
		cut.kind = unreadable
		l.steps(t, []polStep{
			{"cut off", cut, !isolated}, {"a first fragment", first, true}, {"the next", later, true}, {"of an unknown datagram", unknown, !isolated},
			{"as many headers as are read", hops, true},
		})
		if pass, err := l.run(endless); err != nil || pass == isolated {
			t.Errorf("more headers than are read: passes: %t, %v", pass, err)
		}
		frame := gets(udp, pod, peer, 0).frame()
		binary.BigEndian.PutUint16(frame[12:], 0x88cc) // of the link layer's own protocol
		code, err := l.packet.ToPod.Run(&ebpf.RunOptions{Data: frame, DataOut: l.out})
		if pass := int32(code) != drop; err != nil || pass == isolated {
			t.Errorf("a frame of another protocol: passes: %t, %v", pass, err)
		}
		binary.BigEndian.PutUint16(frame[12:], 0x0806)
		if code, err := l.packet.ToPod.Run(&ebpf.RunOptions{Data: frame, DataOut: l.out}); err != nil || int32(code) == drop {
			t.Errorf("ARP is dropped, %v", err)
		}
	}
}

// TestPolicyDNS: what programs answer is judged before, as a question to the node's listener.
func TestPolicyDNS(t *testing.T) {
	eachFamily(t, func(t *testing.T, l *polLab, f polAddrs) {
		t.Helper()
		if err := l.Answers.Beat(); err != nil {
			t.Fatal(err)
		}
		if err := l.Answers.SetServers([]netip.Addr{f.listener, f.vips[1].Addr()}); err != nil {
			t.Fatal(err)
		}
		key := AnswerKey{Name: "cart.shop.svc.cluster.local", Type: dns.TypeA}
		if err := l.Answers.Put(key, packed(t, "cart.shop.svc.cluster.local. 5 IN A 10.96.0.7"), AnswerLife{}); err != nil {
			t.Fatal(err)
		}
		if err := l.Services.Publish(30, Block{Cluster: []netip.AddrPort{f.backends[1]}, NodeDNS: true}); err != nil {
			t.Fatal(err)
		}
		if err := l.Services.PutFrontend(Frontend{Addr: f.vips[1], Protocol: udp}, ClusterIP, 30); err != nil {
			t.Fatal(err)
		}
		defer l.addServices(t)
		query, err := new(dns.Msg).SetQuestion("cart.shop.svc.cluster.local.", dns.TypeA).Pack()
		if err != nil {
			t.Fatal(err)
		}
		for _, server := range []netip.AddrPort{netip.AddrPortFrom(f.listener, 53), f.vips[1]} {
			frame := segment{proto: udp, from: netip.AddrPortFrom(f.pod, 40000), to: server, hops: 64, payload: query}.frame()
			ask := func(what string, want int32) {
				t.Helper()
				code, err := l.packet.FromPod.Run(&ebpf.RunOptions{Data: frame, DataOut: l.out})
				if err != nil || int32(code) != want {
					t.Errorf("%s, %s: %d, %v, want %d", server, what, int32(code), err, want)
				}
			}
			l.putSets(t, PolicySets{})
			ask("not isolated", redirect)
			l.putSets(t, PolicySets{0, 1})
			l.putPeer(t, f.backends[1].Addr(), 2)
			l.putVerdict(t, PolicyKey{1, 2}, all)
			l.putPeer(t, f.listener, 1)
			l.putVerdict(t, PolicyKey{1, 1}, PolicyInterval{Lo: tcp<<16 | 53, Hi: tcp<<16 | 53})
			ask("isolated", drop)
			l.putVerdict(t, PolicyKey{1, 1}, PolicyInterval{Lo: udp<<16 | 53, Hi: udp<<16 | 53})
			ask("allowed", redirect)
		}
	})
}
