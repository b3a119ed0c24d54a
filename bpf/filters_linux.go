package bpf

import (
	"errors"
	"fmt"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Programs of pods' links, and on kernels without tcx all, are clsact filters, see byTCX. A filter lives as long as its
// link, and the kernel replaces one of the same handle atomically.
const (
	filterPriority = 1
	filterHandle   = 1
)

func (p linkProgram) filter(index int) *netlink.BpfFilter {
	parent := uint32(netlink.HANDLE_MIN_INGRESS)
	if p.egress {
		parent = netlink.HANDLE_MIN_EGRESS
	}
	return &netlink.BpfFilter{
		FilterAttrs: netlink.FilterAttrs{
			LinkIndex: index, Parent: parent, Handle: filterHandle, Priority: filterPriority, Protocol: unix.ETH_P_ALL,
		},
		Fd: p.program.FD(), Name: p.name, DirectAction: true,
	}
}

// attachFilter gives the filter a class, which its program is told.
func attachFilter(p linkProgram, index int, class uint32) error {
	f := p.filter(index)
	f.ClassId = class
	qdisc := &netlink.Clsact{QdiscAttrs: netlink.QdiscAttrs{
		LinkIndex: index, Handle: netlink.MakeHandle(0xffff, 0), Parent: netlink.HANDLE_CLSACT,
	}}
	if err := netlink.QdiscAdd(qdisc); err != nil && !errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("add clsact: %w", err)
	}
	return netlink.FilterReplace(f)
}

func filterAttached(p linkProgram, index int) (bool, error) {
	have, err := findFilter(p, index)
	if err != nil || have == nil {
		return false, err
	}
	return have.Id == int(p.id), nil
}

func findFilter(p linkProgram, index int) (*netlink.BpfFilter, error) {
	filters, err := netlink.FilterList(&netlink.Device{LinkAttrs: netlink.LinkAttrs{Index: index}}, p.filter(index).Parent)
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENODEV) { // no clsact, or no link
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	for _, f := range filters {
		if b, ok := f.(*netlink.BpfFilter); ok && p.isFilter(b) {
			return b, nil
		}
	}
	return nil, nil
}

// isFilter says whether a filter is that of the program, of this agent or an older one.
func (p linkProgram) isFilter(b *netlink.BpfFilter) bool {
	return b.Priority == filterPriority && b.Handle == filterHandle && b.Name == p.name
}

func detachFilter(p linkProgram, index int) error {
	have, err := findFilter(p, index)
	if err != nil || have == nil {
		return err
	}
	if err := netlink.FilterDel(p.filter(index)); err != nil && !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.ENODEV) {
		return err
	}
	return nil
}
