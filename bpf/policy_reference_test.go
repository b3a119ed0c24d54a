//go:build node

package bpf

import "net/netip"

// What policy makes of packets, said once more, in Go and without regard to how. policy_random_node_test.go holds the programs
// to it.

// A polKind is what sort of packet it is.
type polKind int

const (
	withPorts polKind = iota // of TCP, UDP or SCTP
	echoRequest
	echoReply
	otherICMP    // polPacket.icmp says which
	aboutAnother // about a packet with ports
	withoutPorts // of any other protocol
	unreadable   // a header is cut off
	nextFragment // of a datagram that began with ports
)

// A polPacket is a packet at the device of the pod.
type polPacket struct {
	kind      polKind
	in        bool // to the pod
	stranger  bool // it comes by another link, and not from a socket of the node
	proto     uint8
	pod, peer netip.AddrPort // of an error, those of the packet it is about; of an echo, the ports are its id
	flags     uint8          // of TCP
	icmp      uint32         // type << 8 | code
	router    netip.Addr     // of an error, who sends it to the pod, or whom the pod sends it to
	first     bool           // it is a first fragment
	id        uint16         // of a fragmented datagram
	chain     []byte         // extension headers before the transport header
}

type polKey struct {
	proto     uint8
	pod, peer netip.AddrPort
}

type polEntry struct {
	judged     netip.Addr
	point      uint32
	in, denied bool
	generation uint32
}

// A standIn is what flows say of an address of the node: for whom it stands.
type standIn struct {
	client netip.AddrPort
	node   bool
}

// A polWorld is all that a verdict depends on, for one pod.
type polWorld struct {
	own        []netip.Addr
	node       map[netip.Addr]bool
	listener   map[netip.Addr]bool
	backends   map[polKey]netip.AddrPort // of Services, by protocol and address; without pod
	stands     map[polKey]standIn
	sets       PolicySets
	peers      map[netip.Addr]uint64
	cidrs      map[netip.Prefix]uint64
	verdicts   map[PolicyKey][]PolicyInterval
	generation uint32

	tracked    map[polKey]polEntry
	translated map[polKey]bool // connections to Services that have flows, as the pod sends them
	fragments  map[polKey]polKey
	counts     [2]PolicyCounts
}

func (w *polWorld) class(a netip.Addr) uint64 {
	if class, ok := w.peers[a]; ok {
		return class
	}
	best, class := -1, uint64(0)
	for p, c := range w.cidrs {
		if p.Addr().Is4() == a.Is4() && p.Contains(a) && p.Bits() > best {
			best, class = p.Bits(), c
		}
	}
	return class
}

func (w *polWorld) allows(in bool, peer netip.Addr, point uint32) bool {
	set := w.sets[1]
	if in {
		set = w.sets[0]
	}
	if set == 0 {
		return true
	}
	list, ok := w.verdicts[PolicyKey{set, w.class(peer)}]
	if !ok {
		list = w.verdicts[PolicyKey{set, 0}]
	}
	for _, i := range list {
		if i.Lo <= point && point <= i.Hi {
			return true
		}
	}
	return false
}

func (w *polWorld) count(in bool) *PolicyCounts {
	if in {
		return &w.counts[0]
	}
	return &w.counts[1]
}

func (w *polWorld) deny(in bool) bool {
	w.count(in).Denied++
	return false
}

// begins says that the packet may be the first of a connection.
func (p polPacket) begins() bool {
	switch p.kind {
	case withPorts:
		return p.proto == udp || p.flags&(syn|ack|rst|fin) == syn
	case echoRequest, withoutPorts:
		return true
	}
	return false
}

func isICMP(proto uint8) bool { return proto == 1 || proto == 58 }

func (p polPacket) key() polKey { return polKey{p.proto, p.pod, p.peer} }

// icmpProto is that of the error itself.
func (p polPacket) icmpProto() uint8 {
	if p.router.Is4() {
		return 1
	}
	return 58
}

// passes says whether the packet passes, and changes what is known of connections.
func (w *polWorld) passes(p polPacket) bool {
	sender := p.peer.Addr()
	if p.kind == aboutAnother {
		sender = p.router
	}
	byNode := p.in && !p.stranger && w.node[sender]
	if p.kind == nextFragment {
		return w.fragment(p, byNode)
	}
	if !p.in && p.proto == udp && p.kind == withPorts && !p.first && len(p.chain) == 0 && w.listener[p.peer.Addr()] && p.peer.Port() == 53 &&
		!w.allows(false, p.peer.Addr(), udp<<16|53) {
		return w.deny(false)
	}
	t := w.translate(p)
	fragment := w.fragmentKey(p)
	if p.first && p.kind == withPorts {
		delete(w.fragments, fragment)
	}
	if byNode {
		return true
	}
	if p.kind == unreadable {
		return w.unknown(p)
	}
	ok := w.judge(p, t)
	switch {
	case p.first && ok:
		w.fragments[fragment] = p.key()
	case p.first:
		delete(w.fragments, fragment)
	}
	return ok
}

// fragmentKey is what fragments of a datagram have in common.
func (w *polWorld) fragmentKey(p polPacket) polKey {
	from, to := p.pod.Addr(), p.peer.Addr()
	if p.in {
		from, to = to, from
	}
	return polKey{p.proto, netip.AddrPortFrom(from, p.id), netip.AddrPortFrom(to, 0)}
}

func (w *polWorld) fragment(p polPacket, byNode bool) bool {
	key, ok := w.fragments[w.fragmentKey(p)]
	if byNode {
		return true
	}
	if !ok {
		return w.unknown(p)
	}
	p.pod, p.peer = key.pod, key.peer
	return w.judge(p, w.translate(p))
}

// unknown is what cannot be judged.
func (w *polWorld) unknown(p polPacket) bool {
	set := w.sets[1]
	if p.in {
		set = w.sets[0]
	}
	if set == 0 || !p.in && w.node[p.peer.Addr()] {
		return true
	}
	w.count(p.in).Unknown++
	return false
}

// A polTurn is what becomes of a packet by translation.
type polTurn struct {
	done  bool
	key   polKey     // of the connection on the pod's device
	peer  netip.Addr // the backend, or the client
	port  uint16     // of the backend
	reply bool
	node  bool // the client is the node
}

// translate says what the flows make of a packet, and adds what a connection to a Service begins with.
func (w *polWorld) translate(p polPacket) polTurn {
	t := polTurn{key: p.key(), peer: p.peer.Addr(), port: p.peer.Port()}
	if p.kind != withPorts && p.kind != aboutAnother && p.kind != nextFragment || len(p.chain) > 0 {
		return t
	}
	if p.in {
		for key := range w.translated {
			if key.proto == p.proto && key.pod == p.pod && w.backends[polKey{proto: key.proto, peer: key.peer}] == p.peer {
				t.done, t.key = true, key
			}
		}
		return t
	}
	if s, ok := w.stands[t.key]; ok {
		return polTurn{done: true, key: t.key, peer: s.client.Addr(), port: s.client.Port(), reply: true, node: s.node}
	}
	backend, ok := w.backends[polKey{proto: p.proto, peer: p.peer}]
	if !ok {
		return t
	}
	if p.begins() {
		w.translated[t.key] = true
	}
	if w.translated[t.key] {
		t.done, t.peer, t.port = true, backend.Addr(), backend.Port()
	}
	return t
}

func (w *polWorld) judge(p polPacket, t polTurn) bool {
	e, ok := w.tracked[t.key]
	if p.kind == otherICMP {
		ok = false
	}
	if ok && w.same(p, t, e) {
		if e.generation != w.generation {
			e.generation = w.generation
			e.denied = !w.allows(e.in, e.judged, e.point)
			w.tracked[t.key] = e
			if e.denied {
				w.deny(e.in)
			}
		}
		return !e.denied
	}
	return w.first(p, t)
}

// same says whether an entry is about the packet's connection.
func (w *polWorld) same(p polPacket, t polTurn, e polEntry) bool {
	if p.begins() {
		if p.in != e.in {
			return p.proto != tcp && p.proto != sctp && !isICMP(p.proto)
		}
		if s, ok := w.stands[t.key]; ok && p.in && s.client.Addr() != e.judged {
			return false
		}
	}
	if !p.in && t.done && !t.reply {
		return t.peer == e.judged && e.point&0xffff == uint32(t.port)
	}
	return true
}

// first judges what has no entry.
func (w *polWorld) first(p polPacket, t polTurn) bool {
	peer, point, untracked := t.peer, uint32(p.proto)<<16, p.kind == otherICMP
	switch {
	case p.kind == aboutAnother:
		peer, point, untracked, t.done = p.router, uint32(p.icmpProto())<<16|p.icmp, true, false
	case p.kind == otherICMP || p.kind == echoRequest || p.kind == echoReply:
		point |= p.icmp
	case p.kind == withoutPorts || isICMP(p.proto):
	case p.in:
		point |= uint32(p.pod.Port())
	default:
		point |= uint32(t.port)
	}
	if !t.done && peer == p.pod.Addr() {
		return true
	}
	if p.in {
		if w.node[peer] {
			s, ok := w.stands[t.key]
			switch {
			case ok && s.node:
				return true
			case ok:
				peer = s.client.Addr()
			}
		}
	} else {
		if t.node && t.done {
			return true
		}
		dns := w.listener[peer] && t.port == 53 && (p.kind == withPorts || p.kind == nextFragment) && !isICMP(p.proto)
		if w.node[peer] && !dns {
			return true
		}
		untracked = untracked || dns
	}
	if !w.allows(p.in, peer, point) {
		if p.begins() && t.done && !t.reply && !p.in {
			delete(w.translated, t.key)
		}
		return w.deny(p.in)
	}
	if untracked || t.key.pod.Addr().IsMulticast() || t.key.peer.Addr().IsMulticast() {
		w.count(p.in).Allowed++
		return true
	}
	e := polEntry{judged: peer, point: point, in: p.in, generation: w.generation}
	if !p.begins() {
		if p.kind != withPorts && p.kind != nextFragment || p.proto == udp || isICMP(p.proto) || w.sets != (PolicySets{}) {
			return true
		}
		w.guess(p, t, &e)
	}
	w.tracked[t.key] = e
	w.count(p.in).Allowed++
	return true
}

// guess says who has begun a connection that is in its middle.
func (w *polWorld) guess(p polPacket, t polTurn, e *polEntry) {
	own, peer := t.key.pod.Port(), t.key.peer.Port()
	if t.done && t.reply && !p.in {
		own = 0
	}
	switch {
	case peer > own:
		e.in, e.point = true, uint32(t.key.proto)<<16|uint32(t.key.pod.Port())
	case p.in:
		e.in, e.point = false, uint32(t.key.proto)<<16|uint32(peer)
	}
}
