package bpf

import (
	"fmt"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/features"
	"github.com/cilium/ebpf/rlimit"
)

// Supported says why this kernel, or this process's privileges, cannot run the socket programs; nil means they can.
func Supported() error {
	if err := rlimit.RemoveMemlock(); err != nil {
		return fmt.Errorf("lift the locked-memory limit: %w", err)
	}
	for _, fn := range []asm.BuiltinFunc{asm.FnGetNetnsCookie, asm.FnSkLookupUdp, asm.FnSkStorageGet} {
		if err := features.HaveProgramHelper(ebpf.CGroupSockAddr, fn); err != nil {
			return fmt.Errorf("%s in cgroup socket programs: %w", fn, err)
		}
	}
	return nil
}
