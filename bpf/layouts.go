package bpf

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// layoutVersion names the pin directory. It changes when the meaning of a map does, so that programs never meet maps of
// another layout. Programs of both serve side by side until those of today are in place, see dropHooks and dropOthers.
const layoutVersion = "v2"

// dropHooks takes the socket programs of other layouts off, once those of this one are on: the kernel runs the older ones
// first, and they know the backends of their time only. Those that translate go before those that translate back.
func (d *Datapath) dropHooks() error {
	hooks := d.hooks()
	return d.dropOthers(func(names []string) []string {
		names = slices.DeleteFunc(names, isLinkPin)
		rank := func(name string) int { return slices.IndexFunc(hooks, func(h hook) bool { return h.name == name }) }
		slices.SortStableFunc(names, func(a, b string) int { return rank(a) - rank(b) })
		return names
	})
}

// dropLink takes programs of other layouts off a link of the calling thread's network namespace: those that have the name, or
// all if it is "".
func (d *Datapath) dropLink(name string, index int) error {
	cookie, err := NetNSCookie()
	if err != nil {
		return err
	}
	of := pinName(name, cookie, index)
	return d.dropOthers(func(names []string) []string {
		return slices.DeleteFunc(names, func(pin string) bool { return pin != of && (name != "" || !strings.HasSuffix(pin, of)) })
	})
}

// pinName is that of a program's tcx link. Interface indexes are unique in a network namespace only.
func pinName(program string, cookie uint64, index int) string {
	return strings.Join([]string{program, strconv.FormatUint(cookie, 10), strconv.Itoa(index)}, "-")
}

// isLinkPin says whether a pin's name is of a program on a link, and not of a socket program.
func isLinkPin(name string) bool { return strings.Contains(name, "-") }

// dropOthers detaches those programs of other layouts that which chooses among the names of a layout's pins, in its order, and
// removes a layout that has none left. What its maps hold of connections is lost.
func (d *Datapath) dropOthers(which func(names []string) []string) error {
	d.linksMu.Lock()
	defer d.linksMu.Unlock()
	layouts, err := d.otherLayouts()
	if err != nil {
		return err
	}
	var errs []error
	for _, layout := range layouts {
		names, err := pinNames(filepath.Join(layout, linkDir))
		if err != nil {
			return err
		}
		for _, name := range which(slices.Clone(names)) {
			pin := filepath.Join(layout, linkDir, name)
			if err := detachPinned(pin); err != nil {
				errs = append(errs, fmt.Errorf("detach %s of another layout: %w", pin, err))
				continue
			}
			names = slices.DeleteFunc(names, func(n string) bool { return n == name })
		}
		if len(names) == 0 {
			if err := os.RemoveAll(layout); err != nil {
				errs = append(errs, fmt.Errorf("remove the pins of another layout: %w", err))
			}
		}
	}
	return errors.Join(errs...)
}

// otherLayouts are the pin directories of layouts that are not this one's, older or, after a downgrade, newer.
func (d *Datapath) otherLayouts() ([]string, error) {
	names, err := pinNames(d.cfg.PinDir)
	if err != nil {
		return nil, err
	}
	var dirs []string
	for _, name := range names {
		number, versioned := strings.CutPrefix(name, "v")
		if _, err := strconv.ParseUint(number, 10, 32); versioned && err == nil && name != layoutVersion {
			dirs = append(dirs, filepath.Join(d.cfg.PinDir, name))
		}
	}
	return dirs, nil
}

// pinNames are those in a directory, sorted; none if it is not there.
func pinNames(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("look for pins: %w", err)
	}
	names := make([]string, 0, len(entries))
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names, nil
}
