//go:build node

package bpf

import (
	"errors"
	"math/rand/v2"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"testing"
)

// policyPacketsEnv says how many packets TestPolicyRandom tries.
const policyPacketsEnv = "NEARPATH_TEST_POLICY_PACKETS"

// packetsOfWorld is how many packets are tried between two worlds.
const packetsOfWorld = 1000

// TestPolicyRandom gives the programs random packets under random policies, and the reference the same. What passes must be
// equal, and so must be what is remembered.
func TestPolicyRandom(t *testing.T) {
	packets := 200_000
	if text := os.Getenv(policyPacketsEnv); text != "" {
		var err error
		if packets, err = strconv.Atoi(text); err != nil {
			t.Fatalf("%s: %v", policyPacketsEnv, err)
		}
	}
	randomPolicy(t, packets)
}

// TestPolicyBriefly is the same with few packets, for kernels that are emulated.
func TestPolicyBriefly(t *testing.T) { randomPolicy(t, 10*packetsOfWorld) }

func randomPolicy(t *testing.T, packets int) {
	t.Helper()
	l := newPolLab(t, node(t))
	passed := 0
	for world := range packets / packetsOfWorld {
		r := &polRandom{rand.New(rand.NewPCG(uint64(world), 8)), l}
		l.forgetAll(t)
		r.policy(t)
		for n := range packetsOfWorld {
			if n%50 == 49 {
				r.change(t)
			}
			if l.try(t, r.packet()) {
				passed++
			}
		}
		l.compare(t)
		if t.Failed() {
			t.Fatalf("in world %d", world)
		}
	}
	if tenth := packets / 10; passed < tenth || passed > 9*tenth {
		t.Errorf("%d of %d packets passed: that proves little", passed, packets)
	}
}

type polRandom struct {
	*rand.Rand
	l *polLab
}

func (r *polRandom) of(n int) bool { return r.IntN(n) == 0 }

func among[T any](r *polRandom, list []T) T { return list[r.IntN(len(list))] }

var polCIDRs = []string{
	"0.0.0.0/0", "10.0.0.0/8", "10.0.0.0/16", "10.0.1.0/24", "10.0.1.2/32", "172.16.0.0/12", "198.51.100.0/24", "10.0.3.0/24", "192.0.2.0/24",
	"::/0", "fd00::/8", "fd00:1::/32", "fd00:1::2/128", "fd00:3::/64", "2001:db8:7::/48", "2000::/3", "::ffff:0:0/90",
}

// policy makes all anew that an agent writes.
func (r *polRandom) policy(t *testing.T) {
	t.Helper()
	l := r.l
	var err error
	for a := range l.peers {
		err = errors.Join(err, l.Policy.DeletePeer(a))
	}
	for p := range l.cidrs {
		err = errors.Join(err, l.Policy.DeleteCIDR(p))
	}
	for k := range l.verdicts {
		err = errors.Join(err, l.Policy.DeleteVerdict(k))
	}
	if err != nil {
		t.Fatal(err)
	}
	clear(l.peers)
	clear(l.cidrs)
	clear(l.verdicts)
	for _, f := range l.families {
		for _, a := range slices.Concat(f.peers, []netip.Addr{f.pod, f.listener, f.node, f.backends[0].Addr()}) {
			if r.of(3) {
				l.putPeer(t, a, r.Uint64N(4))
			}
		}
	}
	for _, text := range polCIDRs {
		p, class := netip.MustParsePrefix(text), r.Uint64N(4)
		if r.of(2) {
			continue
		}
		l.cidrs[p] = class
		if err := l.Policy.PutCIDR(p, class); err != nil {
			t.Fatal(err)
		}
	}
	for set := range uint64(3) {
		for class := range uint64(4) {
			if !r.of(3) {
				l.putVerdict(t, PolicyKey{set + 1, class}, r.intervals()...)
			}
		}
	}
	l.putSets(t, PolicySets{r.Uint64N(4), r.Uint64N(4)})
	l.bump(t)
}

// change is what a running agent does, or a client.
func (r *polRandom) change(t *testing.T) {
	t.Helper()
	l, f := r.l, r.l.families[r.IntN(2)]
	switch r.IntN(6) {
	case 0:
		l.putSets(t, PolicySets{r.Uint64N(4), r.Uint64N(4)})
	case 1:
		l.putVerdict(t, PolicyKey{1 + r.Uint64N(3), r.Uint64N(4)}, r.intervals()...)
	case 2:
		l.putPeer(t, among(r, f.peers), r.Uint64N(4))
	case 3:
		key := polKey{among(r, []uint8{tcp, udp}), netip.AddrPortFrom(f.pod, 8080), netip.AddrPortFrom(f.node, 61000+uint16(r.IntN(3)))}
		client := among(r, append([]netip.Addr{f.pod}, f.peers...))
		l.stand(t, key, standIn{client: netip.AddrPortFrom(client, 40000), node: r.of(4)})
	}
	if r.of(2) {
		l.bump(t)
	}
}

// intervals is a list of a verdict: none, one or many.
func (r *polRandom) intervals() (list []PolicyInterval) {
	switch r.IntN(5) {
	case 0:
		return nil
	case 1:
		return []PolicyInterval{{Hi: MaxPoint}}
	case 2:
		proto := among(r, polProtocols)
		return []PolicyInterval{{Lo: uint32(proto) << 16, Hi: uint32(proto)<<16 | 0xffff}}
	}
	var ends []uint32
	for range 2 * (1 + r.IntN(12)) {
		ends = append(ends, uint32(among(r, polProtocols))<<16|uint32(among(r, polPoints))+r.Uint32N(2))
	}
	slices.Sort(ends)
	for i := 0; i+1 < len(ends); i += 2 {
		if n := len(list); n == 0 || list[n-1].Hi < ends[i] {
			list = append(list, PolicyInterval{Lo: ends[i], Hi: ends[i+1]})
		}
	}
	return list
}

var (
	polProtocols = []uint8{tcp, udp, sctp, 1, 58, 47}
	polPoints    = []uint16{0, 53, 80, 443, 8080, 40000, 61000, 8 << 8, 128 << 8, 3<<8 | 4, 0xfffe}
	polFlags     = []uint8{syn, syn, syn, syn | ack, ack, ack, fin | ack, rst, rst | ack, 0}
)

// packet is one of few connections, so that most have seen others of theirs.
func (r *polRandom) packet() polPacket {
	family := r.IntN(2)
	f := r.l.families[family]
	p := polPacket{in: r.of(2), stranger: true, proto: among(r, []uint8{tcp, tcp, tcp, udp, udp, sctp}), flags: among(r, polFlags)}
	p.pod = netip.AddrPortFrom(f.pod, among(r, []uint16{8080, 40000, 40001}))
	p.peer = netip.AddrPortFrom(among(r, f.peers), among(r, []uint16{80, 443, 8080, 50000}))
	switch r.IntN(12) {
	case 0:
		p.peer = among(r, f.vips)
	case 1:
		p.peer = among(r, f.backends)
	case 2:
		p.pod, p.peer = netip.AddrPortFrom(f.pod, 8080), netip.AddrPortFrom(f.node, 61000+uint16(r.IntN(3)))
	case 3:
		p.peer = netip.AddrPortFrom(among(r, []netip.Addr{f.node, f.listener}), among(r, []uint16{53, 80}))
	case 4:
		p.peer = netip.AddrPortFrom(among(r, []netip.Addr{f.pod, f.multicast}), 80)
		if p.in {
			p.pod, p.peer = netip.AddrPortFrom(f.multicast, 8080), netip.AddrPortFrom(f.peers[0], 80)
		}
	}
	if r.l.strange == 0 || r.of(3) {
		p.stranger = false
	}
	r.shape(&p, family)
	return p
}

// shape makes some packets others than plain ones with ports.
func (r *polRandom) shape(p *polPacket, family int) {
	icmp, request, reply, other := uint8(1), uint32(8<<8), uint32(0), uint32(13<<8)
	if family == 1 {
		icmp, request, reply, other = 58, 128<<8, 129<<8, 100<<8
	}
	switch r.IntN(20) {
	case 0, 1:
		p.kind, p.proto, p.icmp = echoRequest, icmp, request
	case 2:
		p.kind, p.proto, p.icmp = echoReply, icmp, reply
	case 3:
		p.kind, p.proto, p.icmp = otherICMP, icmp, other
	case 4:
		p.kind, p.proto = withoutPorts, 47
	case 5:
		p.kind = unreadable
	case 6:
		r.errorAbout(p, family)
	case 7, 8:
		p.id, p.first = uint16(1+r.IntN(3)), r.of(2)
		if !p.first {
			p.kind = nextFragment
		}
	case 9:
		if family == 1 {
			p.chain = among(r, [][]byte{{hopOptions}, {hopOptions, destinationOp}, {destinationOp, destinationOp, 43}})
		}
	}
	if isICMP(p.proto) {
		p.peer = netip.AddrPortFrom(p.peer.Addr(), p.pod.Port()) // the id
	}
	if p.kind == withoutPorts {
		p.pod, p.peer = netip.AddrPortFrom(p.pod.Addr(), 0), netip.AddrPortFrom(p.peer.Addr(), 0)
	}
}

// errorAbout makes it an error about a packet of the connection, from the other side or, to the pod, from a router.
func (r *polRandom) errorAbout(p *polPacket, family int) {
	p.kind, p.icmp, p.router = aboutAnother, 3<<8|4, p.peer.Addr()
	if family == 1 {
		p.icmp = 2 << 8
	}
	if p.pod.Addr().IsMulticast() || p.peer.Addr().IsMulticast() {
		p.pod, p.peer = netip.AddrPortFrom(r.l.families[family].pod, 8080), netip.AddrPortFrom(r.l.families[family].peers[0], 80)
		p.router = p.peer.Addr()
	}
	if p.in && r.of(2) {
		p.router = among(r, r.l.families[family].peers)
	}
}
