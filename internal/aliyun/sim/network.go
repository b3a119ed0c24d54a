package sim

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/nearpath/nearpath/internal/aliyun"
)

// Kinds of NAT gateways, by where they lead (NetworkType of the API).
const (
	NATInternet = "internet"
	NATIntranet = "intranet"
)

// Names in DefaultConfig.
const (
	DefaultRouteTable = "vtb-simulated"
	DefaultNATGateway = "ngw-simulated"
)

// A NATGateway translates what routes send to it. The simulation describes it and forwards nothing.
type NATGateway struct {
	ID          string
	NetworkType string // NATInternet or NATIntranet; empty: NATInternet
	Status      string // empty: Available
	// SNATTableID is the one SNAT table of the gateway; empty: made from the ID.
	SNATTableID string
	IPs         []netip.Addr
	// Entries need VSwitchID or SourceCIDR, and nothing else: what is missing is filled in.
	Entries []aliyun.SNATEntry
}

// A network is how the VPC's vSwitches reach the rest of the world. Cloud.mu guards it.
type network struct {
	tables   []aliyun.RouteTable // without the routes the VPC makes itself
	gateways []NATGateway
}

// defaultNetwork gives every vSwitch of the configuration a way out: a route to one NAT gateway and an SNAT entry there.
func defaultNetwork(cfg *Config) {
	gateway := NATGateway{ID: DefaultNATGateway, IPs: []netip.Addr{netip.MustParseAddr("203.0.113.1")}}
	for _, v := range cfg.VSwitches {
		gateway.Entries = append(gateway.Entries, aliyun.SNATEntry{ID: "snat-" + v.ID, VSwitchID: v.ID})
	}
	cfg.NATGateways = []NATGateway{gateway}
	cfg.RouteTables = []aliyun.RouteTable{{ID: DefaultRouteTable, Type: aliyun.RouteTableSystem, Routes: []aliyun.Route{{
		Destination: netip.PrefixFrom(netip.IPv4Unspecified(), 0), NextHopType: aliyun.NextHopNATGateway, NextHopID: DefaultNATGateway,
	}}}}
}

// newNetwork checks the network's part of the configuration and copies it. The caller holds c.mu, or nobody else has c.
func (c *Cloud) newNetwork() error {
	for _, p := range slices.Concat(c.cfg.SecondaryCIDRs, c.cfg.UserCIDRs) {
		if !p.IsValid() || !p.Addr().Is4() || p != p.Masked() {
			return fmt.Errorf("VPC has the additional CIDR %s, want an IPv4 prefix", p)
		}
	}
	for _, g := range c.cfg.NATGateways {
		if err := c.addNATGateway(g); err != nil {
			return fmt.Errorf("NAT gateway %q: %w", g.ID, err)
		}
	}
	for _, t := range c.cfg.RouteTables {
		if err := c.addRouteTable(t); err != nil {
			return fmt.Errorf("route table %q: %w", t.ID, err)
		}
	}
	if !slices.ContainsFunc(c.network.tables, isSystem) { // every VPC has one
		return c.addRouteTable(aliyun.RouteTable{ID: DefaultRouteTable, Type: aliyun.RouteTableSystem})
	}
	return nil
}

func isSystem(t aliyun.RouteTable) bool { return t.Type == aliyun.RouteTableSystem }

func (c *Cloud) addNATGateway(g NATGateway) error {
	if g.ID == "" || c.gateway(g.ID) != nil {
		return errors.New("has no ID or that of another")
	}
	g.NetworkType = orDefault(g.NetworkType, NATInternet)
	g.Status = orDefault(g.Status, aliyun.StatusAvailable)
	g.SNATTableID = orDefault(g.SNATTableID, "stb-"+g.ID)
	entries := g.Entries
	g.Entries = nil
	c.network.gateways = append(c.network.gateways, g)
	for _, e := range entries {
		if _, err := c.addSNATEntry(g.ID, e); err != nil {
			return err
		}
	}
	return nil
}

func (c *Cloud) addRouteTable(t aliyun.RouteTable) error {
	same := func(o aliyun.RouteTable) bool { return o.ID == t.ID || isSystem(o) && isSystem(t) }
	switch {
	case t.ID == "" || slices.ContainsFunc(c.network.tables, same):
		return errors.New("has no ID, that of another, or is the second system table")
	case t.Type != aliyun.RouteTableSystem && t.Type != aliyun.RouteTableCustom:
		return fmt.Errorf("has the type %q, want System or Custom", t.Type)
	case isSystem(t) && len(t.VSwitchIDs) > 0:
		return errors.New("is the system table, which has the vSwitches that no other table names")
	}
	for _, id := range t.VSwitchIDs {
		if c.subnets[id] == nil || c.tableOf(id) != "" && !isSystem(*c.table(c.tableOf(id))) {
			return fmt.Errorf("names the vSwitch %q, which is unknown or in another table", id)
		}
	}
	routes := t.Routes
	t.Routes = nil
	c.network.tables = append(c.network.tables, t)
	for _, r := range routes {
		if err := c.addRoute(t.ID, r); err != nil {
			return err
		}
	}
	return nil
}

// AddRoute adds a route to a table. Status may be left empty for Available.
func (c *Cloud) AddRoute(tableID string, r aliyun.Route) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.addRoute(tableID, r); err != nil {
		return fmt.Errorf("add the route %s to %s: %w", r.Destination, tableID, err)
	}
	return nil
}

func (c *Cloud) addRoute(tableID string, r aliyun.Route) error {
	t := c.table(tableID)
	switch {
	case t == nil:
		return errors.New("route table is unknown")
	case !r.Destination.IsValid() || r.Destination != r.Destination.Masked():
		return errors.New("destination is not a prefix")
	case r.NextHopType == "" || r.NextHopType == aliyun.NextHopNATGateway && c.gateway(r.NextHopID) == nil:
		return fmt.Errorf("next hop %s %q is unknown", r.NextHopType, r.NextHopID)
	case slices.ContainsFunc(t.Routes, func(o aliyun.Route) bool { return o.Destination == r.Destination }):
		return errors.New("table has a route to it")
	}
	r.Status = orDefault(r.Status, aliyun.StatusAvailable)
	t.Routes = append(t.Routes, r)
	return nil
}

// RemoveRoute takes the route to the destination from a table. The VPC's own routes cannot be removed.
func (c *Cloud) RemoveRoute(tableID string, destination netip.Prefix) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	t := c.table(tableID)
	if t == nil {
		return fmt.Errorf("remove the route %s from %s: route table is unknown", destination, tableID)
	}
	i := slices.IndexFunc(t.Routes, func(r aliyun.Route) bool { return r.Destination == destination })
	if i < 0 {
		return fmt.Errorf("remove the route %s from %s: table has none", destination, tableID)
	}
	t.Routes = slices.Delete(t.Routes, i, i+1)
	return nil
}

// AddSNATEntry adds an entry to the table of a NAT gateway and returns it complete. It needs a VSwitchID or a SourceCIDR;
// ID, IPs and Status may be left out, and the rest is the gateway's.
func (c *Cloud) AddSNATEntry(natGatewayID string, e aliyun.SNATEntry) (aliyun.SNATEntry, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.addSNATEntry(natGatewayID, e)
}

func (c *Cloud) addSNATEntry(natGatewayID string, e aliyun.SNATEntry) (aliyun.SNATEntry, error) {
	g := c.gateway(natGatewayID)
	if g == nil {
		return aliyun.SNATEntry{}, fmt.Errorf("add an SNAT entry to %s: NAT gateway is unknown", natGatewayID)
	}
	switch s := c.subnets[e.VSwitchID]; {
	case s != nil:
		e.SourceCIDR = s.CIDR // the API shows it in either case
	case e.VSwitchID != "":
		return aliyun.SNATEntry{}, fmt.Errorf("add an SNAT entry to %s: vSwitch %q is unknown", natGatewayID, e.VSwitchID)
	case !e.SourceCIDR.IsValid() || !e.SourceCIDR.Addr().Is4() || e.SourceCIDR != e.SourceCIDR.Masked():
		return aliyun.SNATEntry{}, fmt.Errorf("add an SNAT entry to %s: %q is not an IPv4 prefix", natGatewayID, e.SourceCIDR)
	}
	if e.ID == "" {
		e.ID, _ = c.nextID("snat")
	}
	if c.network.entry(e.ID) {
		return aliyun.SNATEntry{}, fmt.Errorf("add an SNAT entry to %s: %s exists", natGatewayID, e.ID)
	}
	e.NATGatewayID, e.TableID = g.ID, g.SNATTableID
	e.Status = orDefault(e.Status, aliyun.StatusAvailable)
	if len(e.IPs) == 0 {
		e.IPs = g.IPs
	}
	g.Entries = append(g.Entries, e)
	return e, nil
}

// RemoveSNATEntry takes an entry from whichever NAT gateway has it.
func (c *Cloud) RemoveSNATEntry(id string) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.network.entry(id) {
		return fmt.Errorf("remove the SNAT entry %s: unknown", id)
	}
	for i := range c.network.gateways {
		g := &c.network.gateways[i]
		g.Entries = slices.DeleteFunc(g.Entries, func(e aliyun.SNATEntry) bool { return e.ID == id })
	}
	return nil
}

// entry reports whether a NAT gateway has the SNAT entry.
func (n *network) entry(id string) bool {
	return slices.ContainsFunc(n.gateways, func(g NATGateway) bool {
		return slices.ContainsFunc(g.Entries, func(e aliyun.SNATEntry) bool { return e.ID == id })
	})
}

func (c *Cloud) gateway(id string) *NATGateway {
	i := slices.IndexFunc(c.network.gateways, func(g NATGateway) bool { return g.ID == id })
	if i < 0 {
		return nil
	}
	return &c.network.gateways[i]
}

func (c *Cloud) table(id string) *aliyun.RouteTable {
	i := slices.IndexFunc(c.network.tables, func(t aliyun.RouteTable) bool { return t.ID == id })
	if i < 0 {
		return nil
	}
	return &c.network.tables[i]
}

// tableOf is the ID of the table that routes what leaves the vSwitch. The caller holds c.mu.
func (c *Cloud) tableOf(vSwitchID string) string {
	system := ""
	for _, t := range c.network.tables {
		if slices.Contains(t.VSwitchIDs, vSwitchID) {
			return t.ID
		}
		if isSystem(t) {
			system = t.ID
		}
	}
	return system
}

func orDefault(s, otherwise string) string {
	if s == "" {
		return otherwise
	}
	return s
}
