package sim

import (
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/nearpath/nearpath/internal/aliyun"
)

// maxNetworkPage is the largest PageSize of the VPC API's numbered lists.
const maxNetworkPage = 50

var describeVPCsParams = []string{"VpcId", "PageNumber", "PageSize"}

func (c *Cloud) describeVPCs(in input) (object, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	items := []object{}
	if ids := in.text("VpcId"); ids == "" || slices.Contains(strings.Split(ids, ","), c.cfg.VPCID) {
		items = append(items, c.describeVPC())
	}
	pg, err := numberedPage(in, len(items), maxNetworkPage)
	if err != nil {
		return nil, err
	}
	return pg.describe(object{"Vpcs": object{"Vpc": items[pg.start:pg.end]}}), nil
}

// describeVPC is the VPC as the API shows it. The caller holds c.mu.
func (c *Cloud) describeVPC() object {
	tables, gateways := []string{}, []string{}
	for _, t := range c.network.tables {
		tables = append(tables, t.ID)
	}
	for _, g := range c.network.gateways {
		gateways = append(gateways, g.ID)
	}
	return object{
		"VpcId": c.cfg.VPCID, "VpcName": c.cfg.VPCID, "RegionId": c.cfg.RegionID, "Status": "Available",
		"CidrBlock": c.cfg.VPCCIDR.String(), "Ipv6CidrBlock": "",
		"SecondaryCidrBlocks": object{"SecondaryCidrBlock": texts(c.cfg.SecondaryCIDRs)},
		"UserCidrs":           object{"UserCidr": texts(c.cfg.UserCIDRs)},
		"VSwitchIds":          object{"VSwitchId": slices.Sorted(maps.Keys(c.subnets))},
		"RouterTableIds":      object{"RouterTableIds": tables},
		"NatGatewayIds":       object{"NatGatewayIds": gateways},
	}
}

func texts(prefixes []netip.Prefix) []string {
	out := []string{}
	for _, p := range prefixes {
		out = append(out, p.String())
	}
	return out
}

var describeVSwitchAttributesParams = []string{"VSwitchId"}

func (c *Cloud) describeVSwitchAttributes(in input) (object, error) {
	id, err := in.need("VSwitchId")
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	s := c.subnets[id]
	if s == nil {
		return nil, refuse(codeVSwitchNotFound, "The specified vSwitch %q does not exist.", id)
	}
	table := c.table(c.tableOf(id))
	return object{
		"VSwitchId": s.ID, "VSwitchName": s.ID, "VpcId": c.cfg.VPCID, "ZoneId": s.ZoneID, "Status": "Available",
		"CidrBlock": s.CIDR.String(), "AvailableIpAddressCount": s.free(),
		"RouteTable": object{"RouteTableId": table.ID, "RouteTableType": table.Type},
	}, nil
}

var describeRouteTableListParams = []string{"VpcId", "RouteTableId", "RouteTableType", "PageNumber", "PageSize"}

func (c *Cloud) describeRouteTableList(in input) (object, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	items := []object{}
	for _, t := range c.network.tables {
		if !matches(in, "VpcId", c.cfg.VPCID) || !matches(in, "RouteTableId", t.ID) || !matches(in, "RouteTableType", t.Type) {
			continue
		}
		items = append(items, object{
			"RouteTableId": t.ID, "RouteTableName": t.ID, "RouteTableType": t.Type, "VpcId": c.cfg.VPCID,
			"RouterType": "VRouter", "AssociateType": "VSwitch", "Status": "Available",
			"VSwitchIds": object{"VSwitchId": c.associated(t.ID)},
		})
	}
	pg, err := numberedPage(in, len(items), maxNetworkPage)
	if err != nil {
		return nil, err
	}
	return pg.describe(object{"RouterTableList": object{"RouterTableListType": items[pg.start:pg.end]}, "Success": true}), nil
}

// associated are the vSwitches of a route table. The caller holds c.mu.
func (c *Cloud) associated(tableID string) []string {
	ids := slices.Sorted(maps.Keys(c.subnets))
	return slices.DeleteFunc(ids, func(id string) bool { return c.tableOf(id) != tableID })
}

var describeRouteEntryListParams = []string{
	"RouteTableId", "DestinationCidrBlock", "NextHopType", "NextHopId", "RouteEntryType", "MaxResult", "NextToken",
}

// describeRouteEntryList is paged by token like ECS, but its parameter is called MaxResult.
func (c *Cloud) describeRouteEntryList(in input) (object, error) {
	id, err := in.need("RouteTableId")
	if err != nil {
		return nil, err
	}
	size, err := in.number("MaxResult", 100, 10)
	if err != nil {
		return nil, err
	}
	start, err := in.number("NextToken", 1<<20, 0)
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	t := c.table(id)
	if t == nil {
		return nil, refuse(codeRouteTableNotFound, "The specified route table %q does not exist.", id)
	}
	items := []object{}
	for _, r := range c.vpcRoutes() {
		items = appendRoute(items, in, id, aliyun.RouteTableSystem, r)
	}
	for _, r := range t.Routes {
		items = appendRoute(items, in, id, aliyun.RouteTableCustom, r)
	}
	start = min(start, len(items))
	end, next := min(start+size, len(items)), ""
	if end < len(items) {
		next = strconv.Itoa(end)
	}
	return object{"RouteEntrys": object{"RouteEntry": items[start:end]}, "NextToken": next}, nil
}

// vpcRoutes are in every table of the VPC: its vSwitches, and the range of the cloud's own services. The caller holds
// c.mu.
func (c *Cloud) vpcRoutes() []aliyun.Route {
	routes := []aliyun.Route{{Destination: netip.MustParsePrefix("100.64.0.0/10"), NextHopType: "service", Status: aliyun.StatusAvailable}}
	for _, id := range slices.Sorted(maps.Keys(c.subnets)) {
		routes = append(routes, aliyun.Route{Destination: c.subnets[id].CIDR, NextHopType: "local", Status: aliyun.StatusAvailable})
	}
	return routes
}

// appendRoute adds the route if it passes the filters of the request.
func appendRoute(items []object, in input, tableID, kind string, r aliyun.Route) []object {
	dst := r.Destination.String()
	if !matches(in, "DestinationCidrBlock", dst) || !matches(in, "NextHopType", r.NextHopType) ||
		!matches(in, "NextHopId", r.NextHopID) || !matches(in, "RouteEntryType", kind) {
		return items
	}
	version := "ipv4"
	if r.Destination.Addr().Is6() {
		version = "ipv6"
	}
	return append(items, object{
		"RouteTableId": tableID, "RouteEntryId": "rte-" + tableID + "-" + dst, "DestinationCidrBlock": dst,
		"Type": kind, "Status": r.Status, "IpVersion": version,
		"NextHops": object{"NextHop": []object{{
			"NextHopType": r.NextHopType, "NextHopId": r.NextHopID, "Enabled": 1, "Weight": 0,
		}}},
	})
}

var describeNATGatewaysParams = []string{"VpcId", "NatGatewayId", "NetworkType", "Status", "PageNumber", "PageSize"}

func (c *Cloud) describeNATGateways(in input) (object, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	items := []object{}
	for _, g := range c.network.gateways {
		if !matches(in, "VpcId", c.cfg.VPCID) || !matches(in, "NatGatewayId", g.ID) ||
			!matches(in, "NetworkType", g.NetworkType) || !matches(in, "Status", g.Status) {
			continue
		}
		ips := []object{}
		for _, ip := range g.IPs {
			ips = append(ips, object{"IpAddress": ip.String(), "AllocationId": "eip-" + ip.String(), "UsingStatus": "UsedBySnatTable"})
		}
		items = append(items, object{
			"NatGatewayId": g.ID, "Name": g.ID, "VpcId": c.cfg.VPCID, "RegionId": c.cfg.RegionID, "Status": g.Status,
			"NatType": "Enhanced", "NetworkType": g.NetworkType, "BusinessStatus": "Normal",
			"SnatTableIds": object{"SnatTableId": []string{g.SNATTableID}}, "IpLists": object{"IpList": ips},
		})
	}
	pg, err := numberedPage(in, len(items), maxNetworkPage)
	if err != nil {
		return nil, err
	}
	return pg.describe(object{"NatGateways": object{"NatGateway": items[pg.start:pg.end]}}), nil
}

var describeSNATTableEntriesParams = []string{
	"SnatTableId", "NatGatewayId", "SnatEntryId", "SourceVSwitchId", "SourceCIDR", "PageNumber", "PageSize",
}

func (c *Cloud) describeSNATTableEntries(in input) (object, error) {
	table, gateway := in.text("SnatTableId"), in.text("NatGatewayId")
	if table == "" && gateway == "" {
		return nil, missing("SnatTableId")
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if gateway != "" && c.gateway(gateway) == nil {
		return nil, refuse(codeNATGatewayNotFound, "The specified NatGatewayId %q does not exist.", gateway)
	}
	i := slices.IndexFunc(c.network.gateways, func(g NATGateway) bool {
		return matches(in, "SnatTableId", g.SNATTableID) && matches(in, "NatGatewayId", g.ID)
	})
	if i < 0 {
		return nil, refuse(codeSNATTableNotFound, "Specified SNAT table %q does not exist.", table)
	}
	items := []object{}
	for _, e := range c.network.gateways[i].Entries {
		if matches(in, "SnatEntryId", e.ID) && matches(in, "SourceVSwitchId", e.VSwitchID) && matches(in, "SourceCIDR", e.SourceCIDR.String()) {
			items = append(items, describeSNATEntry(e))
		}
	}
	pg, err := numberedPage(in, len(items), maxNetworkPage)
	if err != nil {
		return nil, err
	}
	return pg.describe(object{"SnatTableEntries": object{"SnatTableEntry": items[pg.start:pg.end]}}), nil
}

func describeSNATEntry(e aliyun.SNATEntry) object {
	var ips []string
	for _, ip := range e.IPs {
		ips = append(ips, ip.String())
	}
	return object{
		"SnatEntryId": e.ID, "SnatEntryName": e.ID, "SnatTableId": e.TableID, "NatGatewayId": e.NATGatewayID,
		"SourceVSwitchId": e.VSwitchID, "SourceCIDR": e.SourceCIDR.String(), "SnatIp": strings.Join(ips, ","), "Status": e.Status,
	}
}
