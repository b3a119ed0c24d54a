package hostnet

import (
	"fmt"
	"net/netip"
	"slices"
)

// What marks and orders the node's routing.
const (
	// Protocol is the rtnetlink protocol number of all our rules and routes ("ip route ... proto 110").
	Protocol = 0x6e
	// LinkGroup holds the ENIs and the uplinks. The rule at PriorityMain skips routes out of the group's links.
	LinkGroup = 0x6e70
	// PriorityMain comes before all other rules of ours: the main table decides first, except by its default route and by
	// routes out of an uplink. So a pod reaches other pods and host-local networks such as a docker bridge directly, and
	// everything else leaves by the ENI that owns its address.
	PriorityMain = 1500
	// PriorityOutside is for the rule "fwmark OutsideMark lookup main", there with EgressNodeSNAT only.
	PriorityOutside = 2000
	// PriorityPod is for the rules "fwmark PodMark(slot)/PodMarkMask lookup Table(slot)", one of an ENI and family.
	PriorityPod = 2048
	// OutsideMark is the bit of the packet mark that sends a pod's packet by the uplink, see NAT. No other bit is touched.
	// kube-proxy has 0x4000 and 0x8000, Cilium 0x0f00, portmap 0x2000, Calico the upper half.
	OutsideMark = 0x1000
	// PodMarkMask are the bits of the packet mark that say which ENI has the address of the pod that a packet comes from, see
	// PodMark. The datapath's program on a pod's link sets the whole mark to them.
	PodMarkMask = podMarkBit | slotMask
	podMarkBit  = 0x0800
	slotMask    = 0x00ff
	// tableBase plus the slot is an ENI's table; tables up to tableEnd are ours.
	tableBase, tableEnd = 1000, 2000
)

// tableMain is the kernel's main table (RT_TABLE_MAIN).
const tableMain = 254

// Table is the route table of an ENI's slot.
func Table(slot int) int { return tableBase + slot }

// PodMark is the mark, in the bits of PodMarkMask, of packets from pods whose addresses the slot's ENI has.
func PodMark(slot int) uint32 { return podMarkBit | uint32(slot)&slotMask }

// A Rule is a rule of the node. Rules for an address, of one pod, are not this package's.
type Rule struct {
	Family          Family
	Priority, Table int
	Mark, Mask      uint32 // of the packet; both 0: any packet
	// -1: not suppressed
	SuppressPrefixLen, SuppressIfGroup int
}

// A Route is a default route of an ENI's table.
type Route struct {
	Table   int
	Link    int // index
	Gateway netip.Addr
}

// A MainRoute is a default route of the main table.
type MainRoute struct {
	Family             Family
	Link               int // index
	Gateway            netip.Addr
	Priority, Protocol int
}

// The changes to routing that Build asks for.
type (
	// SetRoute sets the default route of a table by the link Dev, for the gateway's family.
	SetRoute struct {
		Route Route
		Dev   string
	}
	// DeleteMainRoute deletes a default route by an ENI's link from the main table. The node's own packets would leave by
	// that ENI with the address of the uplink, which a VPC drops; what a pod sends outside with EgressNodeSNAT, too.
	DeleteMainRoute struct {
		Route MainRoute
		Dev   string
	}
	// DeleteRoute deletes a default route of ours.
	DeleteRoute struct{ Route Route }
	// AddRule adds a rule of ours.
	AddRule struct{ Rule Rule }
	// DeleteRule deletes a rule of ours.
	DeleteRule struct{ Rule Rule }
)

func (o SetRoute) String() string {
	return fmt.Sprintf("%s route replace default via %s dev %s onlink table %d proto %d",
		familyOf(o.Route.Gateway).command(), o.Route.Gateway, o.Dev, o.Route.Table, Protocol)
}
func (o DeleteRoute) String() string {
	return fmt.Sprintf("%s route del default via %s table %d proto %d",
		familyOf(o.Route.Gateway).command(), o.Route.Gateway, o.Route.Table, Protocol)
}
func (o DeleteMainRoute) String() string {
	via := ""
	if o.Route.Gateway.IsValid() {
		via = " via " + o.Route.Gateway.String()
	}
	return fmt.Sprintf("%s route del default%s dev %s metric %d proto %d", o.Route.Family.command(), via, o.Dev, o.Route.Priority, o.Route.Protocol)
}
func (o AddRule) String() string {
	return fmt.Sprintf("%s rule add %s", o.Rule.Family.command(), o.Rule)
}
func (o DeleteRule) String() string {
	return fmt.Sprintf("%s rule del %s", o.Rule.Family.command(), o.Rule)
}

func (f Family) command() string {
	if f == IPv6 {
		return "ip -6"
	}
	return "ip"
}

func (r Rule) String() string {
	s := fmt.Sprintf("pref %d", r.Priority)
	if r.Mask != 0 {
		s += fmt.Sprintf(" fwmark %#x/%#x", r.Mark, r.Mask)
	}
	s += fmt.Sprintf(" lookup %d", r.Table)
	if r.SuppressPrefixLen >= 0 {
		s += fmt.Sprintf(" suppress_prefixlength %d", r.SuppressPrefixLen)
	}
	if r.SuppressIfGroup >= 0 {
		s += fmt.Sprintf(" suppress_ifgroup %d", r.SuppressIfGroup)
	}
	return s + fmt.Sprintf(" proto %d", Protocol)
}

// mainRule is the rule at PriorityMain.
func mainRule(f Family) Rule {
	return Rule{Family: f, Priority: PriorityMain, Table: tableMain, SuppressPrefixLen: 0, SuppressIfGroup: LinkGroup}
}

// outsideRule is the rule at PriorityOutside.
func outsideRule(f Family) Rule {
	return Rule{Family: f, Priority: PriorityOutside, Table: tableMain, Mark: OutsideMark, Mask: OutsideMark, SuppressPrefixLen: -1, SuppressIfGroup: -1}
}

// podRule is the rule at PriorityPod for the pods of a slot's ENI.
func podRule(f Family, slot int) Rule {
	return Rule{Family: f, Priority: PriorityPod, Table: Table(slot), Mark: PodMark(slot), Mask: PodMarkMask, SuppressPrefixLen: -1, SuppressIfGroup: -1}
}

// podRules are those of the ENI in the families that it has and the kernel has.
func (f Found) podRules(e ENI) (rules []Rule) {
	for _, n := range f.nets(e) {
		rules = append(rules, podRule(familyOf(n.Gateway), e.Slot))
	}
	return rules
}

func (b *builder) defaultRoutes(e ENI, link Link) {
	for _, n := range b.found.nets(e) {
		route := Route{Table: Table(e.Slot), Link: link.Index, Gateway: n.Gateway}
		// A route of a link that is down is gone, or goes with the next event; it is set again after the link is up.
		if !link.Up || !slices.Contains(b.found.Routes, route) {
			b.add(SetRoute{route, link.Name})
		}
	}
}

// mainRoutes deletes what a DHCP client or a router advertisement has made of the ENI for the node itself. While the node
// has no other default route in the family it stays.
func (b *builder) mainRoutes(link Link) {
	for _, r := range b.found.ENIDefaults {
		if r.Link == link.Index && len(b.found.Uplinks[r.Family]) > 0 {
			b.add(DeleteMainRoute{r, link.Name})
		}
	}
}

// staleRoutes deletes our routes in tables of slots that nobody has in the route's family. A route of a wanted slot with
// another link or gateway is not stale: setting the right one replaces it.
func (b *builder) staleRoutes(enis []ENI) {
	type place struct {
		table  int
		family Family
	}
	kept := map[place]bool{}
	for _, e := range enis {
		for _, n := range e.Nets {
			kept[place{Table(e.Slot), familyOf(n.Gateway)}] = true
		}
	}
	for _, r := range b.found.Routes {
		if r.Table > tableBase && r.Table < tableEnd && !kept[place{r.Table, familyOf(r.Gateway)}] {
			b.add(DeleteRoute{r})
		}
	}
}

// rules makes the rules of the priority what is wanted. A second one of the same is deleted too.
func (b *builder) rules(wanted []Rule, priority int) {
	missing, stale := b.found.compareRules(wanted, priority)
	for _, r := range stale {
		b.add(DeleteRule{r})
	}
	for _, r := range missing {
		b.add(AddRule{r})
	}
}

// compareRules tells which rules of the priority are to be added and which to be deleted.
func (f Found) compareRules(wanted []Rule, priority int) (missing, stale []Rule) {
	missing = slices.Clone(wanted)
	for _, r := range f.Rules {
		if r.Priority != priority {
			continue
		}
		if i := slices.Index(missing, r); i >= 0 {
			missing = slices.Delete(missing, i, i+1)
		} else {
			stale = append(stale, r)
		}
	}
	return missing, stale
}

// stalePodRules deletes the rules of slots that nobody has.
func (b *builder) stalePodRules(enis []ENI) {
	var wanted []Rule
	for _, e := range enis {
		wanted = append(wanted, b.found.podRules(e)...)
	}
	_, stale := b.found.compareRules(wanted, PriorityPod)
	for _, r := range stale {
		b.add(DeleteRule{r})
	}
}

// podRules adds the rules of the ENI that are missing. They come last of what an ENI gets: a rule before its table is
// filled would send packets on to the main table, and by the uplink.
func (b *builder) podRules(e ENI) {
	missing, _ := b.found.compareRules(b.found.podRules(e), PriorityPod)
	for _, r := range missing {
		b.add(AddRule{r})
	}
}
