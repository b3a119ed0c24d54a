package hostnet

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/containernetworking/plugins/pkg/netlinksafe"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Remove takes away what nearpath has made in the network namespace of the calling thread, for good: rules and routes of
// Protocol, those of pods too, companions, our nftables table, the node DNS addresses, LinkGroup and the ENIs' addresses.
// Links of ENIs and pods stay, as do sysctls. It goes on after a failure, and when nothing is there it does nothing.
func Remove(ctx context.Context, nodeDNS []netip.Addr) error {
	var o outcome
	found, err := read(Wanted{})
	if err != nil {
		return err
	}
	nat, err := readNAT()
	if err != nil {
		return err
	}
	found.NAT = nat
	apply(removal(found, nodeDNS), nil, &o)
	errs := []error{o.all()}
	for _, f := range found.Families {
		errs = append(errs, context.Cause(ctx), removeRules(f), removeRoutes(f))
	}
	return errors.Join(errs...)
}

// removal is what Remove does beside rules and routes.
func removal(found Found, nodeDNS []netip.Addr) []Step {
	b := builder{found: found, part: PartRest}
	if found.NAT != nil {
		b.add(DeleteNAT{})
	}
	for _, l := range found.Links {
		if _, ok := l.companionSlot(); ok {
			b.add(DeleteLink{l})
		}
		if l.Group == LinkGroup {
			if !slices.Contains(found.uplinks(), l) {
				b.addrs(l, nil, found.Addrs[l.Index])
			}
			b.add(SetGroup{l, 0})
		}
	}
	for _, p := range found.Loopback {
		if lo, ok := found.link(func(l Link) bool { return l.Name == "lo" }); ok && p.IsSingleIP() && slices.Contains(nodeDNS, p.Addr()) {
			b.add(DeleteAddr{lo, p})
		}
	}
	return b.steps
}

func removeRules(f Family) error {
	rules, err := netlinksafe.RuleList(f.kernel())
	errs := []error{err}
	for _, r := range rules {
		if r.Protocol == Protocol {
			if err := ignore(netlink.RuleDel(&r), unix.ENOENT); err != nil {
				errs = append(errs, fmt.Errorf("delete rule %s: %w", r, err))
			}
		}
	}
	return errors.Join(errs...)
}

func removeRoutes(f Family) error {
	routes, err := netlinksafe.RouteListFiltered(f.kernel(), &netlink.Route{Table: unix.RT_TABLE_UNSPEC, Protocol: Protocol},
		netlink.RT_FILTER_TABLE|netlink.RT_FILTER_PROTOCOL)
	errs := []error{err}
	for _, r := range routes {
		if err := ignore(netlink.RouteDel(&r), unix.ESRCH); err != nil {
			errs = append(errs, fmt.Errorf("delete route %s: %w", r, err))
		}
	}
	return errors.Join(errs...)
}
