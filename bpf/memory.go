package bpf

import (
	"fmt"
	"unsafe"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// mapWords maps an array map, whose values are words of 8 bytes, into memory, shared with the kernel.
//
// It needs unsafe because publishing is a store of a single instruction, and only a pointer to the word itself gives
// that.
func mapWords(m *ebpf.Map) ([]uint64, error) {
	if m.ValueSize()%8 != 0 || m.Flags()&unix.BPF_F_MMAPABLE == 0 {
		return nil, fmt.Errorf("map of %d-byte values with flags %#x: want words of 8 bytes, mmapable", m.ValueSize(), m.Flags())
	}
	b, err := unix.Mmap(m.FD(), 0, int(m.ValueSize())*int(m.MaxEntries()), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return nil, err
	}
	return unsafe.Slice((*uint64)(unsafe.Pointer(&b[0])), len(b)/8), nil
}

func unmapWords(w []uint64) error {
	if len(w) == 0 {
		return nil
	}
	return unix.Munmap(unsafe.Slice((*byte)(unsafe.Pointer(&w[0])), 8*len(w)))
}
