package cni

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"

	"github.com/containernetworking/plugins/pkg/netlinksafe"
	"github.com/containernetworking/plugins/pkg/ns"
	"github.com/vishvananda/netlink"

	"github.com/nearpath/nearpath/internal/hostnet"
)

// hostState is what the Collector looks at on the node.
type hostState struct {
	links      map[string]linkState
	routes     map[netip.Addr]int   // link by destination of our routes to single addresses
	neighbours map[neighbour]string // MAC address of permanent entries
}

type linkState struct {
	index int
	up    bool
	alias string
	mac   net.HardwareAddr // the permanent one, if the device has one
	// stacked says that the address is that of a link below.
	stacked bool
}

// hasMAC says whether a device of its own, no link on top of one, has the address.
func (s hostState) hasMAC(mac net.HardwareAddr) bool {
	for _, l := range s.links {
		if !l.stacked && bytes.Equal(l.mac, mac) {
			return true
		}
	}
	return false
}

type neighbour struct {
	link int
	addr netip.Addr
}

func readHost(host ns.NetNS) (hostState, error) {
	state := hostState{
		links: map[string]linkState{}, routes: map[netip.Addr]int{}, neighbours: map[neighbour]string{},
	}
	err := host.Do(func(ns.NetNS) error {
		links, err := netlinksafe.LinkList()
		if err != nil {
			return fmt.Errorf("list links: %w", err)
		}
		for _, l := range links {
			a := l.Attrs()
			state.links[a.Name] = linkState{a.Index, a.Flags&net.FlagUp != 0, a.Alias, addressOfENI(a), slices.Contains(stacked, l.Type())}
		}
		return errors.Join(state.readFamily(netlink.FAMILY_V4), state.readFamily(netlink.FAMILY_V6))
	})
	return state, err
}

func (s hostState) readFamily(family int) error {
	routes, err := podRoutes(family)
	if err != nil {
		return err
	}
	for _, r := range routes {
		s.routes[addressOf(r.Dst)] = r.LinkIndex
	}
	// NeighList has no variant that repeats an interrupted dump. What is missing in one is put back without harm.
	entries, err := netlink.NeighList(0, family)
	if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) {
		return fmt.Errorf("list neighbours: %w", err)
	}
	for _, e := range entries {
		if addr, ok := netip.AddrFromSlice(e.IP); ok && e.State&netlink.NUD_PERMANENT != 0 {
			s.neighbours[neighbour{e.LinkIndex, addr.Unmap()}] = e.HardwareAddr.String()
		}
	}
	return nil
}

// has says whether a change that onHost keeps is in effect. What is about a link that is not there is not for us to put
// back.
func (s hostState) has(op Op) bool {
	switch o := op.(type) {
	case SetUp:
		l, ok := s.links[o.Link]
		return !ok || l.up
	case AddRoute:
		l, ok := s.links[o.Link]
		return !ok || s.routes[o.Dst.Addr()] == l.index
	case AddNeighbour:
		l, ok := s.links[o.Link]
		return !ok || s.neighbours[neighbour{l.index, o.Addr}] == o.MAC.String()
	default:
		return true
	}
}

// podRoutes lists our routes of the main table to single addresses.
func podRoutes(family int) ([]netlink.Route, error) {
	routes, err := netlinksafe.RouteListFiltered(family, &netlink.Route{Protocol: hostnet.Protocol}, netlink.RT_FILTER_PROTOCOL)
	if err != nil {
		return nil, fmt.Errorf("list routes: %w", err)
	}
	ours := routes[:0]
	for _, r := range routes {
		if r.Dst != nil && prefixOf(r.Dst).IsSingleIP() {
			ours = append(ours, r)
		}
	}
	return ours, nil
}
