//go:build node

package bpf

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// TestOtherLayout: programs of another layout serve until those of today are on, and then no more, hook by hook and link by
// link. What is pinned of a layout goes with the last of its programs.
func TestOtherLayout(t *testing.T) {
	stats, err := ebpf.EnableStats(unix.BPF_STATS_RUN_TIME)
	if err != nil {
		t.Fatal(err)
	}
	defer stats.Close()
	cfg := node(t)
	old := start(t, cfg)
	f := frontend("10.96.7.1:80", tcp)
	was, is := greeter(t, "127.0.0.1:0", "was"), greeter(t, "127.0.0.1:0", "is")
	publish(t, old, 1, f, Block{Cluster: []netip.AddrPort{was}})
	var left, right [3]int
	for i := range right {
		left[i], right[i] = veth(t, fmt.Sprint("left", i), fmt.Sprint("right", i))
		if err := old.AttachLink(Uplink, right[i]); err != nil {
			t.Fatal(err)
		}
	}
	layout := filepath.Join(cfg.PinDir, "v0")
	if err := os.Rename(filepath.Join(cfg.PinDir, layoutVersion), layout); err != nil {
		t.Fatal(err)
	}

	d, err := Load(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = d.Close() })
	publish(t, d, 1, f, Block{Cluster: []netip.AddrPort{is}})
	served := func(want string) {
		t.Helper()
		if got, err := greet(t, f.Addr.String()); got != want || err != nil {
			t.Errorf("%q answers, %v, want %s", got, err, want)
		}
	}
	served("was")
	done, failed := make(chan struct{}), make(chan error)
	go func() {
		var errs []error
		for last := false; !last; {
			select {
			case <-done:
				last = true
			default:
			}
			if _, err := greet(t, f.Addr.String()); err != nil {
				errs = append(errs, err)
			}
		}
		failed <- errors.Join(errs...)
	}()
	err = d.Attach()
	close(done)
	if err := errors.Join(err, <-failed); err != nil {
		t.Fatal(err)
	}
	served("is")
	for _, h := range d.hooks() {
		q, err := link.QueryPrograms(link.QueryOptions{Target: cgroupFD(t, cfg.CgroupRoot), Attach: h.typ})
		if err != nil || len(q.Programs) != 1 {
			t.Errorf("%s: programs %v, %v, want one", h.name, q, err)
		}
	}
	if !d.tcx {
		wantGone(t, layout) // the filters of links have no pins
		return
	}
	// One link gets the programs of today, one gets none, and one is gone.
	sees := func(want bool) {
		t.Helper()
		program, today := old.programs[Uplink][0].program, d.programs[Uplink][0].program
		before, beforeToday := runs(t, program), runs(t, today)
		sendFrame(t, left[0], ipv4Frame("10.9.0.1"))
		for deadline := time.Now().Add(patience); runs(t, program) == before && runs(t, today) == beforeToday; runtime.Gosched() {
			if time.Now().After(deadline) {
				t.Fatal("no program sees a frame")
			}
		}
		if got := runs(t, program) > before; got != want {
			t.Errorf("the program of the other layout sees a frame: %t, want %t", got, want)
		}
	}
	sees(true)
	if err := d.AttachLink(Uplink, right[0]); err != nil {
		t.Fatal(err)
	}
	sees(false)
	if err := d.DetachLink(Uplink, right[1]); err != nil {
		t.Fatal(err)
	}
	if err := netlink.LinkDel(linkUp(t, "left2")); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(layout); err != nil {
		t.Errorf("programs of a link are pinned, but: %v", err)
	}
	if err := d.SweepLinks(); err != nil {
		t.Fatal(err)
	}
	wantGone(t, layout)
	if ok, err := d.LinkAttached(Uplink, right[0]); !ok || err != nil {
		t.Errorf("the link has the programs of today: %t, %v", ok, err)
	}
}

func wantGone(t *testing.T, path string) {
	t.Helper()
	if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%s is still there: %v", path, err)
	}
}
