package bpf

import (
	"errors"
	"fmt"

	"github.com/cilium/ebpf"
)

// A grace waits for running programs. The kernel promises it to whoever replaces an inner map: it returns from the
// update only when no program can be using the old one (maybe_wait_bpf_programs in kernel/bpf/syscall.c, since 4.20).
// The membarrier system call would wait, too, but not on machines with one processor or with nohz_full.
type grace struct{ outer, inner *ebpf.Map }

func newGrace() (*grace, error) {
	spec := &ebpf.MapSpec{Type: ebpf.Array, KeySize: 4, ValueSize: 4, MaxEntries: 1}
	inner, err := ebpf.NewMap(spec)
	if err != nil {
		return nil, fmt.Errorf("make the inner map of the grace period: %w", err)
	}
	outer, err := ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.ArrayOfMaps, KeySize: 4, ValueSize: 4, MaxEntries: 1, InnerMap: spec})
	if err != nil {
		return nil, errors.Join(fmt.Errorf("make the outer map of the grace period: %w", err), inner.Close())
	}
	return &grace{outer, inner}, nil
}

// wait returns when every program that was running when it was called has ended.
func (g *grace) wait() error {
	if err := g.outer.Put(uint32(0), g.inner); err != nil {
		return fmt.Errorf("wait for running programs: %w", err)
	}
	return nil
}

func (g *grace) close() error { return errors.Join(g.outer.Close(), g.inner.Close()) }
