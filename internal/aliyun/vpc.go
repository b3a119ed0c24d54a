package aliyun

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// A VPC is a virtual network of one region.
type VPC struct {
	ID string
	// CIDRs holds the primary IPv4 block first, then the secondary ones, then the user's (UserCidrs: ranges that the VPC
	// treats as private although they are not part of it).
	CIDRs []netip.Prefix
	// IPv6CIDR is the zero Prefix in a VPC without IPv6.
	IPv6CIDR netip.Prefix
}

// A RouteTable says where packets go that leave the vSwitches associated with it.
type RouteTable struct {
	ID   string
	Type string // RouteTableSystem or RouteTableCustom
	// VSwitchIDs are associated with the table. A vSwitch that is in no custom table uses the system table.
	VSwitchIDs []string
	Routes     []Route
}

// A Route is one next hop of a route entry. An entry with several next hops gives a Route for each.
type Route struct {
	Destination netip.Prefix
	NextHopType string // such as NextHopNATGateway; "local" for the VPC's own routes
	NextHopID   string // empty for the VPC's own routes
	Status      string // StatusAvailable, "Pending", "Modifying"
}

// An SNATEntry lets the addresses of a vSwitch or of a CIDR use public addresses of a NAT gateway.
type SNATEntry struct {
	ID           string
	TableID      string
	NATGatewayID string
	// VSwitchID is empty in an entry for a CIDR. An entry for a vSwitch usually carries its CIDR too.
	VSwitchID  string
	SourceCIDR netip.Prefix
	IPs        []netip.Addr // public addresses
	Status     string       // StatusAvailable, "Pending", "Modifying", "Deleting"
}

// Types of route tables and next hops, with the spelling of the API.
const (
	RouteTableSystem  = "System"
	RouteTableCustom  = "Custom"
	NextHopNATGateway = "NatGateway"
)

// Limits of the VPC API.
const (
	vpcPageSize     = 50  // of numbered lists
	routePageSize   = 100 // MaxResult of DescribeRouteEntryList
	networkIntranet = "intranet"
)

// DescribeVPC returns the VPC; the error matches ErrNotFound if there is none.
func (c *Client) DescribeVPC(ctx context.Context, id string) (VPC, error) {
	var w wireVPCs
	if err := c.readVPC(ctx, "DescribeVpcs", params{"VpcId": id}, &w); err != nil {
		return VPC{}, fmt.Errorf("describe VPC %s: %w", id, err)
	}
	for _, v := range w.VPCs.VPC {
		if v.ID != id {
			continue
		}
		vpc, err := v.vpc()
		if err != nil {
			return VPC{}, fmt.Errorf("describe VPC %s: %w", id, err)
		}
		return vpc, nil
	}
	return VPC{}, fmt.Errorf("describe VPC %s: %w", id, ErrNotFound)
}

// DescribeRouteTables returns the route tables of the VPC with their entries, which takes a call for the list and at
// least one for each table.
func (c *Client) DescribeRouteTables(ctx context.Context, vpcID string) ([]RouteTable, error) {
	if vpcID == "" {
		return nil, errors.New("describe route tables: VPC is missing")
	}
	var tables []RouteTable
	err := c.numberedPages(ctx, "DescribeRouteTableList", params{"VpcId": vpcID}, func(raw []byte) (int, json.Number, error) {
		var w wireRouteTables
		if err := json.Unmarshal(raw, &w); err != nil {
			return 0, "", err
		}
		for _, t := range w.List.Tables {
			tables = append(tables, RouteTable{ID: t.ID, Type: t.Type, VSwitchIDs: t.VSwitches.IDs})
		}
		return len(w.List.Tables), w.TotalCount, nil
	})
	if err != nil {
		return nil, fmt.Errorf("describe route tables of %s: %w", vpcID, err)
	}
	for i := range tables {
		if tables[i].Routes, err = c.describeRoutes(ctx, tables[i].ID); err != nil {
			return nil, fmt.Errorf("describe routes of %s: %w", tables[i].ID, err)
		}
	}
	return tables, nil
}

func (c *Client) describeRoutes(ctx context.Context, tableID string) ([]Route, error) {
	var all []Route
	p := params{"RouteTableId": tableID, "MaxResult": strconv.Itoa(routePageSize)}
	for range maxPages {
		var page wireRoutes
		if err := c.readVPC(ctx, "DescribeRouteEntryList", p, &page); err != nil {
			return nil, err
		}
		for _, w := range page.Entries.Entry {
			all = append(all, w.routes()...)
		}
		next, err := nextToken(p["NextToken"], page.NextToken, len(all))
		if err != nil {
			return nil, err
		}
		if next == "" {
			return all, nil
		}
		p["NextToken"] = next
	}
	return nil, fmt.Errorf("more than %d pages", maxPages)
}

// DescribeSNATEntries returns the SNAT entries of the VPC's NAT gateways that lead to the Internet. Those of intranet NAT
// gateways, which translate between private networks, are left out.
func (c *Client) DescribeSNATEntries(ctx context.Context, vpcID string) ([]SNATEntry, error) {
	if vpcID == "" {
		return nil, errors.New("describe SNAT entries: VPC is missing")
	}
	var gateways []wireNATGateway
	err := c.numberedPages(ctx, "DescribeNatGateways", params{"VpcId": vpcID}, func(raw []byte) (int, json.Number, error) {
		var w wireNATGateways
		if err := json.Unmarshal(raw, &w); err != nil {
			return 0, "", err
		}
		gateways = append(gateways, w.Gateways.Gateway...)
		return len(w.Gateways.Gateway), w.TotalCount, nil
	})
	if err != nil {
		return nil, fmt.Errorf("describe NAT gateways of %s: %w", vpcID, err)
	}
	var all []SNATEntry
	for _, g := range gateways {
		if g.NetworkType == networkIntranet {
			continue
		}
		for _, table := range g.Tables.IDs {
			entries, err := c.describeSNATTable(ctx, g.ID, table)
			if err != nil {
				return nil, fmt.Errorf("describe SNAT entries of %s: %w", g.ID, err)
			}
			all = append(all, entries...)
		}
	}
	return all, nil
}

func (c *Client) describeSNATTable(ctx context.Context, gatewayID, tableID string) ([]SNATEntry, error) {
	var all []SNATEntry
	err := c.numberedPages(ctx, "DescribeSnatTableEntries", params{"SnatTableId": tableID}, func(raw []byte) (int, json.Number, error) {
		var w wireSNATEntries
		if err := json.Unmarshal(raw, &w); err != nil {
			return 0, "", err
		}
		for _, e := range w.Entries.Entry {
			entry, err := e.entry()
			if err != nil {
				return 0, "", err
			}
			entry.NATGatewayID = cmp.Or(entry.NATGatewayID, gatewayID) // older answers leave it out
			entry.TableID = cmp.Or(entry.TableID, tableID)
			all = append(all, entry)
		}
		return len(w.Entries.Entry), w.TotalCount, nil
	})
	return all, err
}

// numberedPages sends an action of the VPC API for page after page until it has as many items as there are. The function
// reads a page and returns how many items are on it and how many there are in all, empty if the answer does not say. A list
// that ends before is an error that matches ErrUnavailable.
func (c *Client) numberedPages(ctx context.Context, action string, p params, page func([]byte) (int, json.Number, error)) error {
	p["PageSize"] = strconv.Itoa(vpcPageSize)
	have := 0
	for number := 1; number <= maxPages; number++ {
		p["PageNumber"] = strconv.Itoa(number)
		var raw json.RawMessage
		if err := c.readVPC(ctx, action, p, &raw); err != nil {
			return err
		}
		items, total, err := page(raw)
		if err != nil {
			return fmt.Errorf("decode the answer of %s: %w", action, err)
		}
		have += items
		n, err := strconv.Atoi(total.String())
		if whole, err := endOfPages(items, vpcPageSize, have, n, err == nil); whole || err != nil {
			return err
		}
	}
	return fmt.Errorf("%s: more than %d pages", action, maxPages)
}

type wireVPCs struct {
	VPCs struct {
		VPC []wireVPC `json:"Vpc"`
	} `json:"Vpcs"`
}

type wireVPC struct {
	ID        string `json:"VpcId"`
	CIDR      string `json:"CidrBlock"`
	IPv6CIDR  string `json:"Ipv6CidrBlock"`
	Secondary struct {
		CIDRs []string `json:"SecondaryCidrBlock"`
	} `json:"SecondaryCidrBlocks"`
	User struct {
		CIDRs []string `json:"UserCidr"`
	} `json:"UserCidrs"`
}

// vpc takes an unreadable CIDR for an error: without it, a plan that cannot work would look right.
func (w *wireVPC) vpc() (VPC, error) {
	v := VPC{ID: w.ID}
	for _, s := range slices.Concat([]string{w.CIDR}, w.Secondary.CIDRs, w.User.CIDRs) {
		p, err := netip.ParsePrefix(s)
		if err != nil {
			return VPC{}, err
		}
		v.CIDRs = append(v.CIDRs, p.Masked())
	}
	if w.IPv6CIDR == "" {
		return v, nil
	}
	p, err := netip.ParsePrefix(w.IPv6CIDR)
	v.IPv6CIDR = p.Masked()
	return v, err
}

type wireRouteTables struct {
	TotalCount json.Number
	List       struct {
		Tables []struct {
			ID        string `json:"RouteTableId"`
			Type      string `json:"RouteTableType"`
			VSwitches struct {
				IDs []string `json:"VSwitchId"`
			} `json:"VSwitchIds"`
		} `json:"RouterTableListType"`
	} `json:"RouterTableList"`
}

type wireRoutes struct {
	NextToken string
	Entries   struct {
		Entry []wireRoute `json:"RouteEntry"`
	} `json:"RouteEntrys"`
}

type wireRoute struct {
	Destination string `json:"DestinationCidrBlock"`
	Status      string
	wireNextHop // where entries of one next hop had it before there were several
	NextHops    struct {
		Hop []wireNextHop `json:"NextHop"`
	}
}

type wireNextHop struct {
	NextHopType string
	NextHopID   string `json:"NextHopId"`
}

// routes are one for each next hop. A destination may also be a prefix list (pl-...), which is no CIDR and is left out.
func (w *wireRoute) routes() []Route {
	dst, err := netip.ParsePrefix(w.Destination)
	if err != nil {
		return nil
	}
	hops := w.NextHops.Hop
	if len(hops) == 0 {
		hops = []wireNextHop{w.wireNextHop}
	}
	var routes []Route
	for _, h := range hops {
		routes = append(routes, Route{Destination: dst.Masked(), NextHopType: h.NextHopType, NextHopID: h.NextHopID, Status: w.Status})
	}
	return routes
}

type wireNATGateways struct {
	TotalCount json.Number
	Gateways   struct {
		Gateway []wireNATGateway `json:"NatGateway"`
	} `json:"NatGateways"`
}

type wireNATGateway struct {
	ID          string `json:"NatGatewayId"`
	NetworkType string
	Tables      struct {
		IDs []string `json:"SnatTableId"`
	} `json:"SnatTableIds"`
}

type wireSNATEntries struct {
	TotalCount json.Number
	Entries    struct {
		Entry []wireSNATEntry `json:"SnatTableEntry"`
	} `json:"SnatTableEntries"`
}

type wireSNATEntry struct {
	ID        string `json:"SnatEntryId"`
	TableID   string `json:"SnatTableId"`
	GatewayID string `json:"NatGatewayId"`
	VSwitchID string `json:"SourceVSwitchId"`
	CIDR      string `json:"SourceCIDR"`
	IPs       string `json:"SnatIp"` // one address, or several with commas between
	Status    string
}

// entry leaves out public addresses it cannot read: they are for people.
func (w *wireSNATEntry) entry() (SNATEntry, error) {
	e := SNATEntry{ID: w.ID, TableID: w.TableID, NATGatewayID: w.GatewayID, VSwitchID: w.VSwitchID, Status: w.Status}
	if w.CIDR != "" {
		p, err := netip.ParsePrefix(w.CIDR)
		if err != nil {
			return SNATEntry{}, fmt.Errorf("read %s: %w", w.ID, err)
		}
		e.SourceCIDR = p.Masked()
	}
	for s := range strings.SplitSeq(w.IPs, ",") {
		if a, err := netip.ParseAddr(strings.TrimSpace(s)); err == nil {
			e.IPs = append(e.IPs, a)
		}
	}
	return e, nil
}
