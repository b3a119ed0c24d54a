//go:build node

package bpf

import (
	"encoding/binary"
	"hash/crc32"
	"net/netip"
	"testing"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// The bits of a TCP header's flags.
const (
	fin = 1 << iota
	syn
	rst
	_
	ack
)

// What a program can say of a packet (linux/pkt_cls.h).
const (
	pass     = -1
	drop     = 2
	redirect = 7
)

// segment is a packet in the form that its sender would give it.
type segment struct {
	proto    uint8
	from, to netip.AddrPort
	flags    uint8 // of TCP; SCTP has a chunk that says the same
	hops     uint8
	options  int // bytes of options in the IPv4 header, a multiple of 4
	noSum    bool
	payload  []byte
	raw      []byte // instead of ports and payload
}

// frame builds the packet, with a destination MAC of zeros: the loopback's, on which programs are run.
func (s segment) frame() []byte {
	l4 := s.transport()
	if s.from.Addr().Is4() {
		ip := make([]byte, 20+s.options)
		ip[0], ip[8], ip[9] = 0x40|byte(len(ip)/4), s.hops, s.proto
		for i := range s.options {
			ip[20+i] = 1 // no operation
		}
		binary.BigEndian.PutUint16(ip[2:], uint16(len(ip)+len(l4)))
		src, dst := s.from.Addr().As4(), s.to.Addr().As4()
		copy(ip[12:], src[:])
		copy(ip[16:], dst[:])
		binary.BigEndian.PutUint16(ip[10:], ^sum(0, ip))
		return append(append(append(make([]byte, 12), 0x08, 0x00), ip...), l4...)
	}
	ip := make([]byte, 40)
	ip[0], ip[6], ip[7] = 0x60, s.proto, s.hops
	binary.BigEndian.PutUint16(ip[4:], uint16(len(l4)))
	src, dst := s.from.Addr().As16(), s.to.Addr().As16()
	copy(ip[8:], src[:])
	copy(ip[24:], dst[:])
	return append(append(append(make([]byte, 12), 0x86, 0xdd), ip...), l4...)
}

func (s segment) transport() []byte {
	if s.raw != nil {
		return s.raw
	}
	l4, at := make([]byte, 20, 20+len(s.payload)), 16
	switch s.proto {
	case sctp:
		l4[sctpChunk] = chunkOf(s.flags)
	case udp:
		l4, at = l4[:8], 6
		binary.BigEndian.PutUint16(l4[4:], uint16(8+len(s.payload)))
	default:
		l4[12], l4[13] = 0x50, s.flags
	}
	binary.BigEndian.PutUint16(l4, s.from.Port())
	binary.BigEndian.PutUint16(l4[2:], s.to.Port())
	l4 = append(l4, s.payload...)
	if s.noSum {
		return l4
	}
	if s.proto == sctp {
		binary.LittleEndian.PutUint32(l4[sctpSum:], crc32.Checksum(l4, castagnoli))
		return l4
	}
	check := ^sum(pseudo(s.from.Addr(), s.to.Addr(), s.proto, len(l4)), l4)
	if s.proto == udp && check == 0 {
		check = 0xffff
	}
	binary.BigEndian.PutUint16(l4[at:], check)
	return l4
}

// Where SCTP has what in its header.
const (
	sctpSum   = 8
	sctpChunk = 12
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// chunkOf says in SCTP's words what TCP's flags say: INIT, INIT ACK, SHUTDOWN, ABORT, and DATA for all else.
func chunkOf(flags uint8) byte {
	switch {
	case flags&rst != 0:
		return 6
	case flags&fin != 0:
		return 7
	case flags&(syn|ack) == syn|ack:
		return 2
	case flags&syn != 0:
		return 1
	}
	return 0
}

// sctpSumOf is the sum that an SCTP packet should have.
func sctpSumOf(l4 []byte) uint32 {
	zeroed := append([]byte(nil), l4...)
	clear(zeroed[sctpSum:sctpChunk])
	return crc32.Checksum(zeroed, castagnoli)
}

// sum adds up in ones' complement (RFC 1071).
func sum(initial uint32, b []byte) uint16 {
	for i := 0; i < len(b); i += 2 {
		if i+1 < len(b) {
			initial += uint32(b[i])<<8 | uint32(b[i+1])
		} else {
			initial += uint32(b[i]) << 8
		}
	}
	for initial>>16 != 0 {
		initial = initial&0xffff + initial>>16
	}
	return uint16(initial)
}

func pseudo(src, dst netip.Addr, proto uint8, n int) uint32 {
	b := append(src.AsSlice(), dst.AsSlice()...)
	return uint32(sum(0, b)) + uint32(proto) + uint32(n)
}

// parse is the inverse of frame. It fails when a checksum is wrong.
func parseFrame(t *testing.T, b []byte) (s segment) {
	t.Helper()
	ip := b[14:]
	var l4 []byte
	var src, dst netip.Addr
	if b[12] == 0x08 {
		n := int(ip[0]&15) * 4
		if got := sum(0, ip[:n]); got != 0xffff {
			t.Errorf("the IP header's checksum is wrong: %#x", got)
		}
		src, dst = netip.AddrFrom4([4]byte(ip[12:])), netip.AddrFrom4([4]byte(ip[16:]))
		s.proto, s.hops, s.options, l4 = ip[9], ip[8], n-20, ip[n:binary.BigEndian.Uint16(ip[2:])]
	} else {
		src, dst = netip.AddrFrom16([16]byte(ip[8:])), netip.AddrFrom16([16]byte(ip[24:]))
		s.proto, s.hops, l4 = ip[6], ip[7], ip[40:]
	}
	s.from, s.to = netip.AddrPortFrom(src, binary.BigEndian.Uint16(l4)), netip.AddrPortFrom(dst, binary.BigEndian.Uint16(l4[2:]))
	s.payload = l4[8:]
	if s.proto == sctp {
		s.payload = l4[20:]
		got := binary.LittleEndian.Uint32(l4[sctpSum:])
		if s.noSum = got == 0; !s.noSum && got != sctpSumOf(l4) {
			t.Errorf("the checksum of %d %s -> %s is wrong: %#x", s.proto, s.from, s.to, got)
		}
		return s
	}
	if s.proto == unix.IPPROTO_TCP {
		s.flags, s.payload = l4[13], l4[20:]
	}
	s.noSum = s.proto == udp && l4[6] == 0 && l4[7] == 0
	if got := sum(pseudo(src, dst, s.proto, len(l4)), l4); !s.noSum && got != 0xffff {
		t.Errorf("the checksum of %d %s -> %s is wrong: %#x", s.proto, s.from, s.to, got)
	}
	return s
}

// runFrame gives a frame to a program as if the loopback had it, and returns what the program says and the frame after it.
func runFrame(t *testing.T, p *ebpf.Program, frame []byte) (verdict int32, out []byte) {
	t.Helper()
	verdict, out, err := tryFrame(p, frame)
	if err != nil {
		t.Fatal(err)
	}
	return verdict, out
}

func tryFrame(p *ebpf.Program, frame []byte) (verdict int32, out []byte, err error) {
	opts := &ebpf.RunOptions{Data: frame, DataOut: make([]byte, len(frame)+64)}
	code, err := p.Run(opts)
	return int32(code), opts.DataOut, err
}
