//go:build node

package bpf

import (
	"errors"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"
)

// TestForeignPrograms: what comes before our programs on a link is found, whichever way they are attached, and what comes behind is
// nobody's business.
func TestForeignPrograms(t *testing.T) {
	d := start(t, node(t))
	foreign, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Name: "foreign", Type: ebpf.SchedCLS, License: "Dual MIT/GPL", Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, -1), asm.Return()},
	})
	if err != nil {
		t.Fatal(err)
	}
	defer foreign.Close()
	_, index := veth(t, "left", "right")
	for _, role := range []Role{Uplink, ExclusiveENI} {
		if err := d.AttachLink(role, index); err != nil {
			t.Fatal(err)
		}
		found := func(want string) {
			t.Helper()
			names, err := d.LinkForeign(role, index)
			if text := strings.Join(names, ", "); err != nil || !strings.Contains(text, want) || (text == "") != (want == "") {
				t.Errorf("%s: %v, %v, want %q", role, names, err, want)
			}
		}
		found("")
		if d.tcx {
			for want, anchor := range map[string]link.Anchor{"foreign (program": link.Head(), "": link.Tail()} {
				l, err := link.AttachTCX(link.TCXOptions{Interface: index, Program: foreign, Attach: ebpf.AttachTCXEgress, Anchor: anchor})
				if err != nil {
					t.Fatal(err)
				}
				if want == "" && !d.byTCX(role) {
					want = "foreign (program" // nothing there is behind a filter
				}
				found(want)
				if err := l.Close(); err != nil {
					t.Fatal(err)
				}
			}
		}
		if !d.byTCX(role) {
			f := linkProgram{name: "foreign", program: foreign, egress: true}.filter(index)
			f.Handle = 7 // of filters with one preference the newest comes first
			behind := *f
			behind.Priority = 2
			if err := netlink.FilterAdd(&behind); err != nil {
				t.Fatal(err)
			}
			found("")
			if err := netlink.FilterAdd(f); err != nil {
				t.Fatal(err)
			}
			found("bpf (filter of preference 1)")
			if err := errors.Join(netlink.FilterDel(f), netlink.FilterDel(&behind)); err != nil {
				t.Fatal(err)
			}
		}
		found("")
		if err := d.DetachLink(role, index); err != nil {
			t.Fatal(err)
		}
	}
}
