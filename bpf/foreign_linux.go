package bpf

import (
	"errors"
	"fmt"
	"slices"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// LinkForeign names what others have put on a link of the calling thread's network namespace so that it sees packets before the
// programs of a role do: by one word of it they would not see them. Programs at tcx come before all filters. It is none when ours are
// not there either, which is LinkAttached's to say.
func (d *Datapath) LinkForeign(role Role, index int) (names []string, err error) {
	for _, p := range d.programs[role] {
		if d.tcx {
			ahead, err := tcxAhead(p, index)
			if err != nil {
				return nil, fmt.Errorf("look for programs before %s on %s %d: %w", p.name, role, index, err)
			}
			names = append(names, ahead...)
		}
		if d.byTCX(role) {
			continue
		}
		ahead, err := filtersAhead(p, index)
		if err != nil {
			return nil, fmt.Errorf("look for filters before %s on %s %d: %w", p.name, role, index, err)
		}
		names = append(names, ahead...)
	}
	return names, nil
}

// tcxAhead are the programs at tcx before p, all if p is not there.
func tcxAhead(p linkProgram, index int) (names []string, err error) {
	have, err := link.QueryPrograms(link.QueryOptions{Target: index, Attach: p.tcxType()})
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENODEV) { // no program, no link
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	for _, one := range have.Programs {
		if one.ID == p.id {
			break
		}
		names = append(names, programName(one.ID))
	}
	return names, nil
}

// programName is what its author calls a program, with its number.
func programName(id ebpf.ProgramID) string {
	name := "unknown"
	if p, err := ebpf.NewProgramFromID(id); err == nil { // it may be gone since
		if info, err := p.Info(); err == nil {
			name = info.Name
		}
		_ = p.Close()
	}
	return fmt.Sprintf("%s (program %d)", name, id)
}

// filtersAhead are the filters before that of p in the order in which the kernel asks them.
func filtersAhead(p linkProgram, index int) (names []string, err error) {
	filters, err := netlink.FilterList(&netlink.Device{LinkAttrs: netlink.LinkAttrs{Index: index}}, p.filter(index).Parent)
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENODEV) { // no clsact, or no link
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	own := slices.IndexFunc(filters, func(f netlink.Filter) bool {
		b, ok := f.(*netlink.BpfFilter)
		return ok && p.isFilter(b)
	})
	for i := range max(own, 0) {
		names = append(names, fmt.Sprintf("%s (filter of preference %d)", filters[i].Type(), filters[i].Attrs().Priority))
	}
	return names, nil
}
