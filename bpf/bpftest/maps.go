// Package bpftest has real maps of the kernel for tests of what is written to them.
package bpftest

import (
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/nearpath/nearpath/bpf"
)

// Load returns maps and programs that are pinned apart from anybody's and attached to nothing. They go with the test. It needs
// root.
func Load(tb testing.TB) *bpf.Datapath {
	tb.Helper()
	pins := tb.TempDir()
	if err := unix.Mount("bpf", pins, "bpf", 0, ""); err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := unix.Unmount(pins, 0); err != nil {
			tb.Error(err)
		}
	})
	d, err := bpf.Load(bpf.Config{PinDir: filepath.Join(pins, "nearpath"), CgroupRoot: "/sys/fs/cgroup"})
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := d.Close(); err != nil {
			tb.Error(err)
		}
	})
	return d
}
