//go:build node

package bpf

import (
	"errors"
	"fmt"
	"os"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
)

// TestRemove takes programs off links, whichever way they were attached, and off the cgroup, and can be repeated.
func TestRemove(t *testing.T) {
	for name, tcx := range map[string]bool{"tcx": true, "clsact": false} {
		t.Run(name, func(t *testing.T) {
			cfg := node(t)
			d := start(t, cfg)
			if tcx && !d.tcx {
				return // the kernel has none
			}
			d.tcx = tcx
			if err := d.Attach(); err != nil {
				t.Fatal(err)
			}
			links := map[Role]int{}
			for role := range linkPrograms {
				_, links[role] = veth(t, fmt.Sprint("left", uint8(role)), fmt.Sprint("right", uint8(role)))
				if err := d.AttachLink(role, links[role]); err != nil {
					t.Fatal(err)
				}
			}
			hooks := func() int {
				t.Helper()
				q, err := link.QueryPrograms(link.QueryOptions{Target: cgroupFD(t, cfg.CgroupRoot), Attach: ebpf.AttachCGroupInet4Connect})
				if err != nil {
					t.Fatal(err)
				}
				return len(q.Programs)
			}
			if hooks() != 1 {
				t.Fatalf("%d programs on the cgroup, want 1", hooks())
			}
			for range 2 {
				if err := Remove(cfg.PinDir); err != nil {
					t.Fatal(err)
				}
				for role, index := range links {
					for _, p := range d.programs[role] {
						filter, err := filterAttached(p, index)
						tcx, tcxErr := d.tcxAttached(p, index)
						if filter || tcx || err != nil || tcxErr != nil {
							t.Errorf("the %s still has %s: %t, %t, %v, %v", role, p.name, filter, tcx, err, tcxErr)
						}
					}
				}
				if hooks() != 0 {
					t.Errorf("%d programs on the cgroup, want 0", hooks())
				}
				if _, err := os.Stat(cfg.PinDir); !errors.Is(err, os.ErrNotExist) {
					t.Errorf("the pin directory: %v", err)
				}
			}
		})
	}
}

func cgroupFD(t *testing.T, path string) int {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Close() })
	return int(f.Fd())
}
