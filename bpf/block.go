package bpf

import (
	"encoding/binary"
	"fmt"
	"math"
	"net/netip"
	"slices"
)

// The layout of a block, from bpf/c/types.h and consts.h.
const (
	blockHeaderCells = 2
	cellsV4          = 1
	cellsV6          = 3
)

// encodeBlock lays a block out in cells. The local list costs nothing when it is a run of the cluster list.
func encodeBlock(record uint32, b Block) ([]uint64, error) {
	if len(b.Cluster) > math.MaxUint16 || len(b.Local) > math.MaxUint16 {
		return nil, fmt.Errorf("%w: %d backends, %d local: at most %d of each fit a block", ErrFull, len(b.Cluster), len(b.Local), math.MaxUint16)
	}
	backends, localAt := b.Cluster, run(b.Cluster, b.Local)
	if localAt < 0 {
		localAt = len(b.Cluster)
		backends = slices.Concat(b.Cluster, b.Local)
	}
	if localAt > math.MaxUint16 {
		return nil, fmt.Errorf("%w: local backends start at %d: at most %d backends come before them", ErrFull, localAt, math.MaxUint16)
	}
	per := cellsV4
	if len(backends) > 0 && backends[0].Addr().Is6() {
		per = cellsV6
	}
	cells := make([]uint64, blockHeaderCells, blockHeaderCells+per*len(backends))
	cells[0] = cell(sockBlockHead{Record: record, ClusterCount: uint16(len(b.Cluster)), LocalCount: uint16(len(b.Local))})
	cells[1] = cell(sockBlockPolicy{LocalAt: uint16(localAt), BackendCells: uint8(per), Flags: blockFlags(b)})
	for _, a := range backends {
		if a.Addr().Is6() != (per == cellsV6) {
			return nil, fmt.Errorf("backend %s: a block holds one address family", a)
		}
		cells = appendBackend(cells, a)
	}
	return cells, nil
}

// run finds part inside whole and returns where it starts, or -1.
func run(whole, part []netip.AddrPort) int {
	if len(part) == 0 {
		return 0
	}
	at := slices.Index(whole, part[0])
	if at < 0 || at+len(part) > len(whole) || !slices.Equal(whole[at:at+len(part)], part) {
		return -1
	}
	return at
}

// cell packs one of the generated 8-byte structs.
func cell(v any) uint64 {
	b, err := binary.Append(make([]byte, 0, 8), binary.NativeEndian, v)
	if err != nil || len(b) != 8 {
		panic(fmt.Sprintf("%T is not a cell: %d bytes, %v", v, len(b), err))
	}
	return binary.NativeEndian.Uint64(b)
}

// unpack is the inverse of cell.
func unpack[T any](c uint64) (v T) {
	if _, err := binary.Decode(binary.NativeEndian.AppendUint64(nil, c), binary.NativeEndian, &v); err != nil {
		panic(fmt.Sprintf("%T is not a cell: %v", v, err))
	}
	return v
}

func appendBackend(cells []uint64, a netip.AddrPort) []uint64 {
	w := words(a.Addr())
	if a.Addr().Is4() {
		return append(cells, cell(sockBackendCell{Addr: w[3], Port: swap16(a.Port())}))
	}
	b := a.Addr().As16()
	return append(cells, binary.NativeEndian.Uint64(b[:8]), binary.NativeEndian.Uint64(b[8:]), cell(sockBackendCell{Port: swap16(a.Port())}))
}

func blockFlags(b Block) (flags uint8) {
	for _, f := range []struct {
		set bool
		bit sockBlockFlags
	}{
		{b.InternalLocal, sockBlockFlagsBLOCK_INTERNAL_LOCAL},
		{b.InternalDrop, sockBlockFlagsBLOCK_INTERNAL_DROP},
		{b.NodeDNS, sockBlockFlagsBLOCK_NODE_DNS},
		{b.ExternalLocal, sockBlockFlagsBLOCK_EXTERNAL_LOCAL},
		{b.ExternalDrop, sockBlockFlagsBLOCK_EXTERNAL_DROP},
	} {
		if f.set {
			flags |= uint8(f.bit)
		}
	}
	return flags
}

// blockCells is the length of the block that starts at cells[0].
func blockCells(cells []uint64) uint32 {
	head, policy := unpack[sockBlockHead](cells[0]), unpack[sockBlockPolicy](cells[1])
	backends := max(uint32(head.ClusterCount), uint32(policy.LocalAt)+uint32(head.LocalCount))
	return blockHeaderCells + uint32(policy.BackendCells)*backends
}

// decodeBlock is the inverse of encodeBlock.
func decodeBlock(cells []uint64) Block {
	head, policy := unpack[sockBlockHead](cells[0]), unpack[sockBlockPolicy](cells[1])
	per := uint32(policy.BackendCells)
	list := func(from, n uint16) []netip.AddrPort {
		var out []netip.AddrPort
		for i := range uint32(n) {
			at := blockHeaderCells + (uint32(from)+i)*per
			out = append(out, decodeBackend(cells[at:at+per]))
		}
		return out
	}
	has := func(bit sockBlockFlags) bool { return sockBlockFlags(policy.Flags)&bit != 0 }
	return Block{
		Cluster: list(0, head.ClusterCount), Local: list(policy.LocalAt, head.LocalCount),
		InternalLocal: has(sockBlockFlagsBLOCK_INTERNAL_LOCAL), InternalDrop: has(sockBlockFlagsBLOCK_INTERNAL_DROP),
		ExternalLocal: has(sockBlockFlagsBLOCK_EXTERNAL_LOCAL), ExternalDrop: has(sockBlockFlagsBLOCK_EXTERNAL_DROP),
		NodeDNS: has(sockBlockFlagsBLOCK_NODE_DNS),
	}
}

func decodeBackend(cells []uint64) netip.AddrPort {
	last := unpack[sockBackendCell](cells[len(cells)-1])
	if len(cells) == cellsV4 {
		return netip.AddrPortFrom(address([4]uint32{2: words(netip.IPv4Unspecified())[2], 3: last.Addr}), swap16(last.Port))
	}
	var b [16]byte
	binary.NativeEndian.PutUint64(b[:8], cells[0])
	binary.NativeEndian.PutUint64(b[8:], cells[1])
	return netip.AddrPortFrom(netip.AddrFrom16(b), swap16(last.Port))
}
