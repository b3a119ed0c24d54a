//go:build node

package bpf

import (
	"encoding/binary"
	"net/netip"
)

// Extension headers that are 8 bytes long, and that of fragments.
const (
	hopOptions    = 0
	fragmentNext  = 44
	destinationOp = 60
)

// frame is the packet as the programs get it.
func (p polPacket) frame() []byte {
	from, to := p.pod, p.peer
	if p.in {
		from, to = to, from
	}
	proto, l4 := p.proto, p.transport(from, to)
	if p.kind == aboutAnother {
		proto = p.icmpProto()
		// It goes to who sent what it is about.
		l4 = p.quote(to, from)
		if p.in {
			from = netip.AddrPortFrom(p.router, 0)
		} else {
			to = netip.AddrPortFrom(p.router, 0)
		}
	}
	if from.Addr().Is4() {
		return p.frame4(from.Addr(), to.Addr(), proto, l4)
	}
	return p.frame6(from.Addr(), to.Addr(), proto, l4)
}

func (p polPacket) transport(from, to netip.AddrPort) []byte {
	switch p.kind {
	case withPorts:
		return segment{proto: p.proto, from: from, to: to, flags: p.flags, payload: make([]byte, 16)}.transport()
	case unreadable:
		return segment{proto: p.proto, from: from, to: to, flags: p.flags}.transport()[:4]
	case echoRequest, echoReply, otherICMP:
		l4 := make([]byte, 16)
		binary.BigEndian.PutUint16(l4, uint16(p.icmp))
		binary.BigEndian.PutUint16(l4[4:], p.pod.Port())
		return l4
	}
	return make([]byte, 24)
}

// quote is an ICMP error about a packet.
func (p polPacket) quote(from, to netip.AddrPort) []byte {
	about := segment{proto: p.proto, from: from, to: to, hops: 60, flags: ack}.frame()[14:]
	l4 := make([]byte, 8, 8+len(about))
	binary.BigEndian.PutUint16(l4, uint16(p.icmp))
	return append(l4, about...)
}

func (p polPacket) frame4(from, to netip.Addr, proto uint8, l4 []byte) []byte {
	ip := make([]byte, 20)
	ip[0], ip[8], ip[9] = 0x45, 64, proto
	binary.BigEndian.PutUint16(ip[2:], uint16(len(ip)+len(l4)))
	binary.BigEndian.PutUint16(ip[4:], p.id)
	switch {
	case p.kind == nextFragment:
		binary.BigEndian.PutUint16(ip[6:], 100)
	case p.first:
		binary.BigEndian.PutUint16(ip[6:], 0x2000)
	}
	copy(ip[12:], from.AsSlice())
	copy(ip[16:], to.AsSlice())
	binary.BigEndian.PutUint16(ip[10:], ^sum(0, ip))
	return append(append(append(make([]byte, 12), 0x08, 0x00), ip...), l4...)
}

func (p polPacket) frame6(from, to netip.Addr, proto uint8, l4 []byte) []byte {
	chain := p.chain
	if p.first || p.kind == nextFragment {
		chain = append(chain, fragmentNext)
	}
	var headers []byte
	for i, header := range chain {
		next := proto
		if i+1 < len(chain) {
			next = chain[i+1]
		}
		x := []byte{next, 0, 0, 0, 0, 0, 0, 0}
		if header == fragmentNext {
			binary.BigEndian.PutUint16(x[6:], p.id)
			if x[3] = 1; p.kind == nextFragment {
				x[2], x[3] = 1, 0
			}
		}
		headers = append(headers, x...)
	}
	ip := make([]byte, 40)
	ip[0], ip[6], ip[7] = 0x60, proto, 64
	if len(chain) > 0 {
		ip[6] = chain[0]
	}
	binary.BigEndian.PutUint16(ip[4:], uint16(len(headers)+len(l4)))
	copy(ip[8:], from.AsSlice())
	copy(ip[24:], to.AsSlice())
	return append(append(append(append(make([]byte, 12), 0x86, 0xdd), ip...), headers...), l4...)
}
