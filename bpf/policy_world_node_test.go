//go:build node

package bpf

import (
	"errors"
	"fmt"
	"net/netip"
	"testing"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// A polLab is a pod in the kernel beside the same in Go. Programs are run on lo, which the pod is said to be behind.
type polLab struct {
	*Datapath
	polWorld
	number   uint16
	out      []byte
	strange  uint32 // the link that strangers come by; 0: the kernel does not let tests say so
	families [2]polAddrs
}

// polAddrs are those of a family.
type polAddrs struct {
	pod, node, listener, multicast netip.Addr
	peers                          []netip.Addr
	vips, backends                 []netip.AddrPort
}

var polFamilies = [2]polAddrs{
	{
		pod: netip.MustParseAddr("10.1.0.5"), node: netip.MustParseAddr("192.0.2.1"), listener: netip.MustParseAddr("169.254.20.10"),
		multicast: netip.MustParseAddr("239.1.2.3"), peers: addrs([]string{"10.0.1.1", "10.0.1.2", "10.0.2.1", "172.16.0.1", "198.51.100.7"}),
		vips: []netip.AddrPort{at("10.96.0.1", 80), at("10.96.0.2", 53)}, backends: []netip.AddrPort{at("10.0.3.1", 8080), at("10.0.3.2", 53)},
	},
	{
		pod: netip.MustParseAddr("fd01::5"), node: netip.MustParseAddr("2001:db8::1"), listener: netip.MustParseAddr("fd00::a"),
		multicast: netip.MustParseAddr("ff05::3"), peers: addrs([]string{"fd00:1::1", "fd00:1::2", "fd00:2::1", "fd16::1", "2001:db8:7::7"}),
		vips: []netip.AddrPort{at("fd00:96::1", 80), at("fd00:96::2", 53)}, backends: []netip.AddrPort{at("fd00:3::1", 8080), at("fd00:3::2", 53)},
	},
}

func newPolLab(tb testing.TB, cfg Config) *polLab {
	tb.Helper()
	l := &polLab{out: make([]byte, 256), families: polFamilies}
	l.polWorld = polWorld{
		node: map[netip.Addr]bool{}, listener: map[netip.Addr]bool{}, backends: map[polKey]netip.AddrPort{}, stands: map[polKey]standIn{},
		peers: map[netip.Addr]uint64{}, cidrs: map[netip.Prefix]uint64{}, verdicts: map[PolicyKey][]PolicyInterval{},
		tracked: map[polKey]polEntry{}, translated: map[polKey]bool{}, fragments: map[polKey]polKey{},
	}
	var nodes []netip.Addr
	for _, f := range l.families {
		cfg.NodeDNS = append(cfg.NodeDNS, f.listener)
		nodes = append(nodes, f.node, f.listener)
		l.own = append(l.own, f.pod)
		l.listener[f.listener] = true
	}
	for _, a := range nodes {
		l.node[a] = true
	}
	var err error
	if l.Datapath, err = Load(cfg); err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := l.Close(); err != nil {
			tb.Error(err)
		}
	})
	if err := errors.Join(l.SetNodeAddresses(nodes), l.Pods.Put(Pod{Addrs: l.own, Link: 1, Slot: 1})); err != nil {
		tb.Fatal(err)
	}
	if l.number, err = l.Policy.Number(l.own[0]); err != nil {
		tb.Fatal(err)
	}
	l.generation = l.Policy.Generation()
	l.addServices(tb)
	l.strange = 9
	if _, err := l.run(polPacket{in: true, stranger: true, proto: udp, pod: at("10.1.0.5", 1), peer: at("192.0.2.7", 1)}); errors.Is(err, unix.EINVAL) {
		l.strange = 0 // Linux 5.10
	}
	l.forgetAll(tb)
	return l
}

// addServices makes one of each protocol at the VIPs.
func (l *polLab) addServices(tb testing.TB) {
	tb.Helper()
	for _, f := range l.families {
		for i, vip := range f.vips {
			for _, proto := range []uint8{tcp, udp} {
				record := uint32(1 + 4*i + 2*int(proto&1))
				if vip.Addr().Is6() {
					record++
				}
				err := errors.Join(l.Services.Publish(record, Block{Cluster: []netip.AddrPort{f.backends[i]}}),
					l.Services.PutFrontend(Frontend{Addr: vip, Protocol: proto}, ClusterIP, record))
				if err != nil {
					tb.Fatal(err)
				}
				l.backends[polKey{proto: proto, peer: vip}] = f.backends[i]
			}
		}
	}
}

// forgetAll begins anew, but for what policy says.
func (l *polLab) forgetAll(tb testing.TB) {
	tb.Helper()
	clear(l.tracked)
	clear(l.translated)
	clear(l.fragments)
	clear(l.stands)
	l.counts = [2]PolicyCounts{}
	err := errors.Join(l.Tracked.Forget(append(l.own, l.families[0].multicast, l.families[1].multicast)), emptyHash[packetFlowKey, packetFlow](l.objs.Flows),
		emptyHash[packetFragmentKey, packetFragment](l.objs.Fragments), l.Policy.forgetNumber(l.number))
	if err != nil {
		tb.Fatal(err)
	}
	l.sets = PolicySets{}
}

func emptyHash[K, V any](m *ebpf.Map) error {
	return eachBatch(m, func(k K, _ V) error { return ignoreMissing(m.Delete(k)) })
}

// run gives a packet to the program of its direction, and says whether it passes.
func (l *polLab) run(p polPacket) (bool, error) {
	program, ctx := l.packet.FromPod, skb{}
	if p.in {
		program = l.packet.ToPod
	}
	if p.stranger {
		ctx.IngressIfindex = l.strange
	}
	frame := p.frame()
	code, err := program.Run(&ebpf.RunOptions{Data: frame, DataOut: l.out, Context: ctx})
	return int32(code) != drop, err
}

// try holds what becomes of a packet to the reference.
func (l *polLab) try(tb testing.TB, p polPacket) bool {
	tb.Helper()
	want := l.passes(p)
	got, err := l.run(p)
	if err != nil {
		tb.Fatalf("%+v: %v", p, err)
	}
	if got != want {
		tb.Fatalf("%+v passes: %t, want %t; sets %v, entry %+v", p, got, want, l.sets, l.tracked[p.key()])
	}
	return got
}

// compare holds all that is known of connections to the reference.
func (l *polLab) compare(tb testing.TB) {
	tb.Helper()
	list, err := l.Tracked.List()
	if err != nil {
		tb.Fatal(err)
	}
	for _, f := range list {
		key := polKey{f.Protocol, f.Pod, f.Peer}
		got := polEntry{f.Judged, f.Point, f.Ingress, f.Denied, f.Generation}
		if want, ok := l.tracked[key]; !ok || got != want || f.Number != l.number {
			tb.Errorf("%v: %+v, want %+v (%t)", key, got, want, ok)
		}
	}
	if len(list) != len(l.tracked) {
		tb.Errorf("%d connections are tracked, want %d", len(list), len(l.tracked))
	}
	in, out, err := l.Policy.Counts(l.number)
	if got := [2]PolicyCounts{in, out}; err != nil || got != l.counts {
		tb.Errorf("counts %+v, %v, want %+v", got, err, l.counts)
	}
}

func (l *polLab) putSets(tb testing.TB, sets PolicySets) {
	tb.Helper()
	l.sets = sets
	if err := l.Policy.PutPod(l.number, sets); err != nil {
		tb.Fatal(err)
	}
}

func (l *polLab) putVerdict(tb testing.TB, key PolicyKey, list ...PolicyInterval) {
	tb.Helper()
	l.verdicts[key] = list
	if err := l.Policy.PutVerdict(key, list); err != nil {
		tb.Fatal(err)
	}
}

func (l *polLab) putPeer(tb testing.TB, addr netip.Addr, class uint64) {
	tb.Helper()
	l.peers[addr] = class
	if err := l.Policy.PutPeer(addr, class); err != nil {
		tb.Fatal(err)
	}
}

func (l *polLab) bump(tb testing.TB) {
	tb.Helper()
	l.generation++
	if err := l.Policy.Bump(); err != nil {
		tb.Fatal(err)
	}
}

// stand has an address and port of the node stand for a client, as the packet path does for node ports.
func (l *polLab) stand(tb testing.TB, key polKey, s standIn) {
	tb.Helper()
	l.stands[key] = s
	k := packetFlowKey{Saddr: words(key.pod.Addr()), Daddr: words(key.peer.Addr()), Sport: swap16(key.pod.Port()), Dport: swap16(key.peer.Port()), Proto: key.proto}
	v := packetFlow{
		Saddr: words(key.peer.Addr()), Sport: swap16(30080), Daddr: words(s.client.Addr()), Dport: swap16(s.client.Port()),
		Flags: uint32(packetFlowFlagsFLOW_REPLY | packetFlowFlagsFLOW_SEEN),
	}
	if s.node {
		v.Flags |= uint32(packetFlowFlagsFLOW_NODE)
		v.Link = 1
	}
	v.Echo = fold(append(append(k.Saddr[:], k.Daddr[:]...), uint32(k.Sport)|uint32(k.Dport)<<16, uint32(k.Proto)))
	if err := l.objs.Flows.Update(k, v, ebpf.UpdateAny); err != nil {
		tb.Fatal(err)
	}
}

func (p polPacket) String() string {
	return fmt.Sprintf("{kind %d in %t stranger %t proto %d pod %s peer %s flags %#x icmp %#x router %s first %t id %d chain %v}",
		p.kind, p.in, p.stranger, p.proto, p.pod, p.peer, p.flags, p.icmp, p.router, p.first, p.id, p.chain)
}
