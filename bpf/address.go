package bpf

import (
	"encoding/binary"
	"net/netip"
)

// words turns an address into the form of the maps: 16 bytes in network order, IPv4 as v4-mapped IPv6.
func words(a netip.Addr) [4]uint32 {
	b := a.As16()
	var w [4]uint32
	for i := range w {
		w[i] = binary.NativeEndian.Uint32(b[4*i:])
	}
	return w
}

// address is the inverse of words; v4-mapped addresses come back as IPv4.
func address(w [4]uint32) netip.Addr {
	var b [16]byte
	for i, v := range w {
		binary.NativeEndian.PutUint32(b[4*i:], v)
	}
	return netip.AddrFrom16(b).Unmap()
}

// fold is the exclusive or of words, by which a map's value repeats its key.
func fold(words []uint32) (x uint32) {
	for _, w := range words {
		x ^= w
	}
	return x
}

// swap16 converts a port between host and network order.
func swap16(port uint16) uint16 {
	return binary.NativeEndian.Uint16(binary.BigEndian.AppendUint16(nil, port))
}
