package aliyun

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
)

// A Family is an IP version.
type Family uint8

// The families.
const (
	IPv4 Family = 4
	IPv6 Family = 6
)

// String returns "IPv4" or "IPv6".
func (f Family) String() string { return "IPv" + strconv.Itoa(int(f)) }

// FamilyOf returns the family of a valid address; an IPv4-mapped one is IPv6, as it is in an answer of the cloud.
func FamilyOf(a netip.Addr) Family {
	if a.Is4() {
		return IPv4
	}
	return IPv6
}

// familyCalls are the names by which the API treats a family.
type familyCalls struct {
	assign, count string // action and its parameter for a number of addresses
	unassign      string
	address       string // parameter list of addresses to unassign
	most          int    // addresses per unassign
}

func (f Family) calls() (familyCalls, error) {
	switch f {
	case IPv4:
		return familyCalls{
			assign: "AssignPrivateIpAddresses", count: "SecondaryPrivateIpAddressCount",
			unassign: "UnassignPrivateIpAddresses", address: "PrivateIpAddress", most: 32,
		}, nil
	case IPv6:
		return familyCalls{
			assign: "AssignIpv6Addresses", count: "Ipv6AddressCount",
			unassign: "UnassignIpv6Addresses", address: "Ipv6Address", most: 10,
		}, nil
	}
	return familyCalls{}, fmt.Errorf("family is %d, want 4 or 6", uint8(f))
}

// AssignIPs adds addresses, chosen by the cloud, and returns them. With a client token a retry of the same request
// returns the first result. Errors match ErrVSwitchFull and ErrQuota where those are the reason.
func (c *Client) AssignIPs(ctx context.Context, a Assign) ([]netip.Addr, error) {
	addrs, err := c.assign(ctx, a)
	if err != nil {
		return nil, fmt.Errorf("assign %d %v addresses to %s: %w", a.Count, a.Family, a.ENIID, err)
	}
	return addrs, nil
}

func (c *Client) assign(ctx context.Context, a Assign) ([]netip.Addr, error) {
	names, err := a.Family.calls()
	if err != nil {
		return nil, err
	}
	if err := checkClientToken(a.ClientToken); err != nil {
		return nil, err
	}
	p := params{"NetworkInterfaceId": a.ENIID, names.count: strconv.Itoa(a.Count)}
	p.set("ClientToken", a.ClientToken)
	var w wireAssigned
	if err := c.caller.call(ctx, request{&c.ecs, names.assign, p, a.ClientToken != ""}, &w); err != nil {
		return nil, err
	}
	return w.addrs(a.Family)
}

// UnassignIPs takes addresses of either family from the ENI. Addresses that are not on it, and an ENI that does not
// exist, count as done.
func (c *Client) UnassignIPs(ctx context.Context, eniID string, addrs []netip.Addr) error {
	for _, f := range []Family{IPv4, IPv6} {
		names, err := f.calls()
		if err != nil {
			return err
		}
		others := func(a netip.Addr) bool { return FamilyOf(a) != f }
		for part := range slices.Chunk(slices.DeleteFunc(slices.Clone(addrs), others), names.most) {
			if err := c.unassign(ctx, names, eniID, part); err != nil {
				return fmt.Errorf("unassign %d %v addresses from %s: %w", len(part), f, eniID, err)
			}
		}
	}
	return nil
}

// unassign goes on with one address after the other when one of the batch was gone: the API then refuses the whole batch.
// It does not ask which one: a list may be older than what it is asked about, and an address it lacks would stay assigned
// with nobody to know.
func (c *Client) unassign(ctx context.Context, names familyCalls, eniID string, addrs []netip.Addr) error {
	err := c.unassignOnce(ctx, names, eniID, addrs)
	if !hasCode(err, codeIPUnassigned) {
		return err
	}
	for _, a := range addrs {
		if err := c.unassignOnce(ctx, names, eniID, []netip.Addr{a}); err != nil {
			return err
		}
	}
	return nil
}

// unassignOnce treats the absence of a single address, or of the ENI, as success.
func (c *Client) unassignOnce(ctx context.Context, names familyCalls, eniID string, addrs []netip.Addr) error {
	p := params{"NetworkInterfaceId": eniID}
	for i, a := range addrs {
		p.set(names.address+"."+strconv.Itoa(i+1), a.String())
	}
	err := c.repeatable(ctx, names.unassign, p)
	if hasCode(err, codeEniNotFound) || len(addrs) == 1 && hasCode(err, codeIPUnassigned) {
		return nil
	}
	return err
}
