package hostnet

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strconv"
)

// What marks and orders the node's routing.
const (
	// Protocol is the rtnetlink protocol number of all our rules and routes ("ip route ... proto 110").
	Protocol = 0x6e
	// LinkGroup holds the ENIs and the uplink. The rule at PriorityMain skips routes out of the group's links.
	LinkGroup = 0x6e70
	// PriorityMain comes before PriorityPod: the main table decides first, except by its default route and by routes out
	// of an uplink. So a pod reaches other pods and host-local networks such as a docker bridge directly, and everything
	// else leaves by the ENI that owns its address.
	PriorityMain = 1500
	// PriorityPod is for the rules "from <pod address> lookup Table(slot)".
	PriorityPod = 2048
	// tableBase plus the slot is an ENI's table; tables up to tableEnd are ours.
	tableBase, tableEnd = 1000, 2000
)

// tableMain is the kernel's main table (RT_TABLE_MAIN).
const tableMain = 254

// Table is the route table of an ENI's slot.
func Table(slot int) int { return tableBase + slot }

// An ENI is what is wanted of one interface.
type ENI struct {
	MAC     string // lower case, colon separated
	Slot    int    // at least 1
	Gateway netip.Addr
}

// Wanted is the state that the node should be in.
type Wanted struct {
	ENIs []ENI
	// NodeDNS is the address of the node's DNS listener; the zero address means none.
	NodeDNS netip.Addr
}

// Found is the state that the kernel is in, as far as Build looks at it.
type Found struct {
	Links []Link
	// Uplink is the index of the link with the main table's default route, 0 if there is none.
	Uplink   int
	Rules    []Rule  // ours only
	Routes   []Route // ours only
	Sysctls  map[string]string
	Loopback []netip.Prefix // addresses of lo
}

// A Link is a network interface of the node.
type Link struct {
	Index int
	Name  string
	MAC   string
	MTU   int
	Group int
	Up    bool
	// Running is the operational state: a link drops frames for a moment after it was set up (RFC 2863, ifOperStatus).
	Running bool
}

// A Rule is the rule at PriorityMain; the pods' rules are not this package's.
type Rule struct {
	Priority, Table                    int
	SuppressPrefixLen, SuppressIfGroup int
}

// A Route is a default route of an ENI's table.
type Route struct {
	Table   int
	Link    int // index
	Gateway netip.Addr
}

// An Op is one change to the kernel. It prints as the command that would do the same.
type Op interface{ String() string }

// The changes that Build asks for.
type (
	// SetSysctl writes Key, a path below /proc/sys.
	SetSysctl struct{ Key, Value string }
	// SetGroup puts a link into LinkGroup.
	SetGroup struct{ Link Link }
	// SetMTU sets a link's MTU in bytes.
	SetMTU struct {
		Link Link
		MTU  int
	}
	// SetUp brings a link up.
	SetUp struct{ Link Link }
	// SetRoute sets the default route of a table by the link Dev.
	SetRoute struct {
		Route Route
		Dev   string
	}
	// DeleteRoute deletes a default route of ours.
	DeleteRoute struct{ Route Route }
	// AddRule adds a rule of ours.
	AddRule struct{ Rule Rule }
	// DeleteRule deletes a rule of ours.
	DeleteRule struct{ Rule Rule }
	// AddLoopback gives lo an address.
	AddLoopback struct{ Addr netip.Prefix }
)

func (o SetSysctl) String() string { return "sysctl -w " + o.Key + "=" + o.Value }
func (o SetGroup) String() string {
	return fmt.Sprintf("ip link set dev %s group %d", o.Link.Name, LinkGroup)
}
func (o SetMTU) String() string { return fmt.Sprintf("ip link set dev %s mtu %d", o.Link.Name, o.MTU) }
func (o SetUp) String() string  { return fmt.Sprintf("ip link set dev %s up", o.Link.Name) }
func (o SetRoute) String() string {
	return fmt.Sprintf("ip route replace default via %s dev %s onlink table %d proto %d", o.Route.Gateway, o.Dev, o.Route.Table, Protocol)
}
func (o DeleteRoute) String() string {
	return fmt.Sprintf("ip route del default via %s table %d proto %d", o.Route.Gateway, o.Route.Table, Protocol)
}
func (o AddRule) String() string    { return "ip rule add " + o.Rule.String() }
func (o DeleteRule) String() string { return "ip rule del " + o.Rule.String() }
func (o AddLoopback) String() string {
	return fmt.Sprintf("ip address add %s dev lo scope host", o.Addr)
}

func (r Rule) String() string {
	return fmt.Sprintf("pref %d lookup %d suppress_prefixlength %d suppress_ifgroup %d proto %d",
		r.Priority, r.Table, r.SuppressPrefixLen, r.SuppressIfGroup, Protocol)
}

// mainRule is the rule at PriorityMain.
func mainRule() Rule {
	return Rule{Priority: PriorityMain, Table: tableMain, SuppressPrefixLen: 0, SuppressIfGroup: LinkGroup}
}

// Build returns the changes that lead from found to wanted, in the order in which they must be made, and the wanted
// ENIs whose links are not there or carry no frames yet. Building again after they are made gives none.
func Build(wanted Wanted, found Found) (ops []Op, absent []ENI) {
	b := builder{found: found}
	b.sysctl("net/ipv4/ip_forward", "1")
	uplink, hasUplink := b.link(func(l Link) bool { return l.Index == found.Uplink })
	if hasUplink {
		b.group(uplink)
	}
	for _, e := range sorted(wanted.ENIs) {
		link, ok := b.link(func(l Link) bool { return l.MAC == e.MAC })
		if !ok {
			absent = append(absent, e)
			continue
		}
		if !link.Running {
			absent = append(absent, e)
		}
		b.eni(e, link, uplink.MTU)
	}
	b.staleRoutes(wanted.ENIs)
	b.rules()
	b.loopback(wanted.NodeDNS)
	return b.ops, absent
}

func sorted(enis []ENI) []ENI {
	return slices.SortedFunc(slices.Values(enis), func(a, b ENI) int { return cmp.Compare(a.Slot, b.Slot) })
}

type builder struct {
	found Found
	ops   []Op
}

func (b *builder) add(op Op) { b.ops = append(b.ops, op) }

func (b *builder) link(match func(Link) bool) (Link, bool) {
	i := slices.IndexFunc(b.found.Links, match)
	if i < 0 {
		return Link{}, false
	}
	return b.found.Links[i], true
}

// sysctl leaves out what the kernel does not have, such as the IPv6 keys of a kernel without IPv6.
func (b *builder) sysctl(key, value string) {
	if have, ok := b.found.Sysctls[key]; ok && have != value {
		b.add(SetSysctl{key, value})
	}
}

func (b *builder) group(l Link) {
	if l.Group != LinkGroup {
		b.add(SetGroup{l})
	}
}

// eni orders the changes so that the link takes no traffic before it filters and advertises nothing.
func (b *builder) eni(e ENI, link Link, mtu int) {
	for _, s := range linkSysctls(link.Name) {
		b.sysctl(s.Key, s.Value)
	}
	b.group(link)
	if mtu != 0 && link.MTU != mtu {
		b.add(SetMTU{link, mtu})
	}
	if !link.Up {
		b.add(SetUp{link})
	}
	route := Route{Table: Table(e.Slot), Link: link.Index, Gateway: e.Gateway}
	// A route of a link that is down is gone, or goes with the next event; it is set again after the link is up.
	if !link.Up || !slices.Contains(b.found.Routes, route) {
		b.add(SetRoute{route, link.Name})
	}
}

// linkSysctls are the settings of an ENI's link. Reverse path filtering is loose, because a packet to a pod may come in
// on an ENI while the route back to its sender leaves by the uplink.
func linkSysctls(name string) []SetSysctl {
	v4, v6 := "net/ipv4/conf/"+name+"/", "net/ipv6/conf/"+name+"/"
	return []SetSysctl{{v4 + "rp_filter", "2"}, {v4 + "forwarding", "1"}, {v6 + "accept_ra", "0"}, {v6 + "forwarding", "1"}}
}

// staleRoutes deletes our routes in tables of slots that nobody has. A route of a wanted slot with another link or
// gateway is not stale: setting the right one replaces it.
func (b *builder) staleRoutes(enis []ENI) {
	slots := map[int]bool{}
	for _, e := range enis {
		slots[Table(e.Slot)] = true
	}
	for _, r := range b.found.Routes {
		if r.Table > tableBase && r.Table < tableEnd && !slots[r.Table] {
			b.add(DeleteRoute{r})
		}
	}
}

func (b *builder) rules() {
	kept := false
	for _, r := range b.found.Rules {
		switch {
		case r.Priority != PriorityMain:
		case r == mainRule() && !kept:
			kept = true
		default:
			b.add(DeleteRule{r})
		}
	}
	if !kept {
		b.add(AddRule{mainRule()})
	}
}

// loopback adds the node DNS address. Its scope must be host: the kernel takes the sender address of ARP requests on a
// link without an address from the first link that has one of a wider scope, and lo is the first.
func (b *builder) loopback(addr netip.Addr) {
	if !addr.IsValid() {
		return
	}
	if prefix := netip.PrefixFrom(addr, addr.BitLen()); !slices.Contains(b.found.Loopback, prefix) {
		b.add(AddLoopback{prefix})
	}
}

// sysctlKeys lists the keys that Build wants to know of, for the links of the wanted ENIs.
func sysctlKeys(wanted Wanted, links []Link) []string {
	keys := map[string]struct{}{"net/ipv4/ip_forward": {}}
	for _, l := range links {
		if slices.ContainsFunc(wanted.ENIs, func(e ENI) bool { return e.MAC == l.MAC }) {
			for _, s := range linkSysctls(l.Name) {
				keys[s.Key] = struct{}{}
			}
		}
	}
	return slices.Sorted(maps.Keys(keys))
}

func (l Link) String() string { return l.Name + "(" + strconv.Itoa(l.Index) + ")" }
