package hostnet

import (
	"maps"
	"net/netip"
	"slices"

	"github.com/containernetworking/plugins/pkg/ns"
)

// Slots says which slot each routed ENI has, by MAC address, as Routed finds them.
func (h *Host) Slots() (map[string]int, error) {
	enis, err := h.Routed()
	slots := map[string]int{}
	for _, e := range enis {
		slots[e.MAC] = e.Slot
	}
	return slots, err
}

// Routed finds the ENIs that an earlier process wired, by slot, in the kernel's routes: those of our protocol in the
// tables of slots, whose links tell the MAC address. The subnets are not known there; each Net's is that of the gateway
// alone. It is for a process that has lost its records: what it tells Want keeps the routes that pods use.
func (h *Host) Routed() ([]ENI, error) {
	var found Found
	err := h.netns.Do(func(ns.NetNS) (err error) {
		found, err = read(Wanted{})
		return err
	})
	return routed(found), err
}

// routed takes each link at its lowest slot, should it have routes in tables of several.
func routed(found Found) []ENI {
	macs := map[int]string{}
	for _, l := range found.Links {
		macs[l.Index] = l.MAC
	}
	byMAC := map[string]ENI{}
	routes := slices.Clone(found.Routes)
	slices.SortStableFunc(routes, func(a, b Route) int { return a.Table - b.Table })
	for _, r := range routes {
		mac := macs[r.Link]
		if r.Table <= tableBase || r.Table >= tableEnd || mac == "" || !r.Gateway.IsValid() {
			continue
		}
		e, ok := byMAC[mac]
		if !ok {
			e = ENI{MAC: mac, Slot: r.Table - tableBase}
		}
		if Table(e.Slot) == r.Table {
			e.Nets = append(e.Nets, Net{Subnet: netip.PrefixFrom(r.Gateway, r.Gateway.BitLen()), Gateway: r.Gateway})
			byMAC[mac] = e
		}
	}
	return sorted(slices.Collect(maps.Values(byMAC)))
}
