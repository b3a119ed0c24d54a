package bpf

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Remove takes the datapath out of the kernel for good: programs that are pinned below pinDir, of any layout and on links
// of any network namespace, filters on the links of the calling thread's, and at last the pins. From then on Services are
// not served. It goes on after a failure but keeps the pins then, so that it can be called again; when nothing is there
// it does nothing. No Datapath may be in use.
func Remove(pinDir string) error {
	pins, err := filepath.Glob(filepath.Join(pinDir, "*", linkDir, "*"))
	if err != nil {
		return fmt.Errorf("look for programs: %w", err)
	}
	var errs []error
	for _, pin := range pins {
		if err := detachPinned(pin); err != nil {
			errs = append(errs, fmt.Errorf("detach %s: %w", pin, err))
		}
	}
	if err := errors.Join(append(errs, removeFilters())...); err != nil {
		return err
	}
	return os.RemoveAll(pinDir)
}

// detachPinned ends the program's work at once. Removing the pin alone would do so some time later.
func detachPinned(pin string) error {
	l, err := link.LoadPinnedLink(pin, nil)
	if err != nil {
		return err
	}
	defer l.Close()
	// ENOLINK: the cgroup or the network link is gone already.
	if err := l.Detach(); err != nil && !errors.Is(err, unix.ENOLINK) {
		return err
	}
	return os.Remove(pin)
}

// removeFilters deletes what attachFilter makes, from every link. The clsact stays: others may have filters on it.
func removeFilters() error {
	links, err := netlink.LinkList()
	if err != nil {
		return fmt.Errorf("look for filters: %w", err)
	}
	var errs []error
	for _, l := range links {
		for _, parent := range []uint32{netlink.HANDLE_MIN_INGRESS, netlink.HANDLE_MIN_EGRESS} {
			if err := removeFilter(l, parent); err != nil {
				errs = append(errs, fmt.Errorf("delete the filter of link %s: %w", l.Attrs().Name, err))
			}
		}
	}
	return errors.Join(errs...)
}

// isFilterName says whether a program of some role is called so.
func isFilterName(name string) bool {
	for _, programs := range linkPrograms {
		if slices.ContainsFunc(programs, func(p linkProgram) bool { return p.name == name }) {
			return true
		}
	}
	return false
}

func removeFilter(l netlink.Link, parent uint32) error {
	filters, err := netlink.FilterList(l, parent)
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENODEV) { // no clsact, no link
		return nil
	}
	if err != nil {
		return err
	}
	for _, f := range filters {
		b, ok := f.(*netlink.BpfFilter)
		if !ok || b.Priority != filterPriority || b.Handle != filterHandle || !isFilterName(b.Name) {
			continue
		}
		if err := netlink.FilterDel(b); err != nil && !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.ENODEV) {
			return err
		}
	}
	return nil
}
