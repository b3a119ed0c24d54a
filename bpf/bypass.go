package bpf

import (
	"errors"
	"fmt"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/features"
)

// loadBypass loads the program that keeps pods' raw sockets from passing the programs of their links. It needs 5.15, or before that
// the kernel's own BTF. Without it the datapath works, and Guarded says why it is not there.
func (d *Datapath) loadBypass() error {
	spec, err := loadBypass()
	if err != nil {
		return err
	}
	var have uint8
	switch err := features.HaveProgramHelper(ebpf.CGroupSockopt, asm.FnGetNetnsCookie); {
	case err == nil:
		have = 1
	case !errors.Is(err, ebpf.ErrNotSupported):
		return fmt.Errorf("probe bpf_get_netns_cookie: %w", err)
	}
	if err := spec.Variables[bypassVarHaveNetnsCookie].Set(have); err != nil {
		return fmt.Errorf("set %s: %w", bypassVarHaveNetnsCookie, err)
	}
	err = spec.LoadAndAssign(&d.bypass, &ebpf.CollectionOptions{MapReplacements: map[string]*ebpf.Map{bypassMapPods: d.objs.Pods}})
	if err != nil {
		d.unguarded = fmt.Errorf("load the program that refuses sockets a way past the programs of links: %w", err)
	}
	return nil
}

// Guarded says why nothing keeps raw sockets of pods from passing the programs of links in the pods' own namespaces; nil when
// it is in place.
func (d *Datapath) Guarded() error { return d.unguarded }
