package bpf

import (
	"encoding/binary"
	"fmt"
	"math"
	"net/netip"
	"slices"
	"time"
)

// The layout of a block, from bpf/c/types.h and consts.h.
const (
	blockHeaderCells = 3
	cellsV4          = 1
	cellsV6          = 3
)

// encodeBlock lays a block out in cells: the runs that bpf/c/types.h has. Each list costs what the other one does not have.
func encodeBlock(record, epoch uint32, b Block) ([]uint64, error) {
	if len(b.Cluster) > math.MaxUint16 || len(b.Local) > math.MaxUint16 || len(b.Draining) > math.MaxUint16 {
		return nil, fmt.Errorf("%w: %d backends, %d local, %d draining: at most %d of each fit a block", ErrFull,
			len(b.Cluster), len(b.Local), len(b.Draining), math.MaxUint16)
	}
	seconds := b.Affinity / time.Second
	if seconds < 0 || seconds > math.MaxUint32 || b.Affinity%time.Second != 0 {
		return nil, fmt.Errorf("affinity of %s: want whole seconds, at most %d", b.Affinity, uint32(math.MaxUint32))
	}
	remote, both, local := split(sorted(b.Cluster), sorted(b.Local))
	backends := slices.Concat(remote, both, local, sorted(b.Draining))
	per := cellsV4
	if len(backends) > 0 && backends[0].Addr().Is6() {
		per = cellsV6
	}
	cells := make([]uint64, blockHeaderCells, blockHeaderCells+per*len(backends))
	cells[0] = cell(sockBlockHead{Record: record, ClusterCount: uint16(len(b.Cluster)), LocalCount: uint16(len(b.Local))})
	cells[1] = cell(sockBlockPolicy{
		AffinitySeconds: uint32(seconds), LocalAt: uint16(len(remote)), BackendCells: uint8(per), Flags: blockFlags(b),
	})
	cells[2] = cell(sockBlockMore{Epoch: epoch, DrainingCount: uint16(len(b.Draining))})
	for _, a := range backends {
		if a.Addr().Is6() != (per == cellsV6) {
			return nil, fmt.Errorf("backend %s: a block holds one address family", a)
		}
		cells = appendBackend(cells, a)
	}
	return cells, nil
}

// sorted puts a list into the order in which the programs search it.
func sorted(list []netip.AddrPort) []netip.AddrPort {
	return slices.SortedFunc(slices.Values(list), netip.AddrPort.Compare)
}

// split sorts out two sorted lists: what only the first has, what both have, and what only the second has.
func split(a, b []netip.AddrPort) (first, both, second []netip.AddrPort) {
	for len(a) > 0 && len(b) > 0 {
		switch order := a[0].Compare(b[0]); {
		case order < 0:
			first, a = append(first, a[0]), a[1:]
		case order > 0:
			second, b = append(second, b[0]), b[1:]
		default:
			both, a, b = append(both, a[0]), a[1:], b[1:]
		}
	}
	return append(first, a...), both, append(second, b...)
}

// Equal reports whether two blocks do the same: lists are sets.
func (b Block) Equal(o Block) bool {
	return b.InternalLocal == o.InternalLocal && b.InternalDrop == o.InternalDrop &&
		b.ExternalLocal == o.ExternalLocal && b.ExternalDrop == o.ExternalDrop &&
		b.NodeDNS == o.NodeDNS && b.Affinity == o.Affinity &&
		sameSet(b.Cluster, o.Cluster, netip.AddrPort.Compare) && sameSet(b.Local, o.Local, netip.AddrPort.Compare) &&
		sameSet(b.Draining, o.Draining, netip.AddrPort.Compare) && sameSet(b.SourceRanges, o.SourceRanges, netip.Prefix.Compare)
}

func sameSet[T comparable](a, b []T, order func(T, T) int) bool {
	if len(a) != len(b) {
		return false
	}
	return slices.Equal(a, b) || slices.Equal(slices.SortedFunc(slices.Values(a), order), slices.SortedFunc(slices.Values(b), order))
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
		{len(b.SourceRanges) > 0, sockBlockFlagsBLOCK_SOURCE_RANGES},
	} {
		if f.set {
			flags |= uint8(f.bit)
		}
	}
	return flags
}

// blockCells is the length of the block that starts at cells[0].
func blockCells(cells []uint64) uint32 {
	_, policy, more, all := header(cells)
	return blockHeaderCells + uint32(policy.BackendCells)*(all+uint32(more.DrainingCount))
}

// header reads the header cells. all is how many backends are in the lists.
func header(cells []uint64) (head sockBlockHead, policy sockBlockPolicy, more sockBlockMore, all uint32) {
	head, policy, more = unpack[sockBlockHead](cells[0]), unpack[sockBlockPolicy](cells[1]), unpack[sockBlockMore](cells[2])
	return head, policy, more, uint32(policy.LocalAt) + uint32(head.LocalCount)
}

// decodeBlock is the inverse of encodeBlock, but for source ranges, which are elsewhere. Lists come sorted.
func decodeBlock(cells []uint64) Block {
	head, policy, more, all := header(cells)
	per := uint32(policy.BackendCells)
	list := func(from uint32, n uint16) []netip.AddrPort {
		var out []netip.AddrPort
		for i := range uint32(n) {
			at := blockHeaderCells + (from+i)*per
			out = append(out, decodeBackend(cells[at:at+per]))
		}
		slices.SortFunc(out, netip.AddrPort.Compare)
		return out
	}
	has := func(bit sockBlockFlags) bool { return sockBlockFlags(policy.Flags)&bit != 0 }
	return Block{
		Cluster: list(0, head.ClusterCount), Local: list(uint32(policy.LocalAt), head.LocalCount), Draining: list(all, more.DrainingCount),
		InternalLocal: has(sockBlockFlagsBLOCK_INTERNAL_LOCAL), InternalDrop: has(sockBlockFlagsBLOCK_INTERNAL_DROP),
		ExternalLocal: has(sockBlockFlagsBLOCK_EXTERNAL_LOCAL), ExternalDrop: has(sockBlockFlagsBLOCK_EXTERNAL_DROP),
		NodeDNS: has(sockBlockFlagsBLOCK_NODE_DNS), Affinity: time.Duration(policy.AffinitySeconds) * time.Second,
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
