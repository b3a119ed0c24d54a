package hostnet

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
)

// A Family is an IP version.
type Family int

// The two families. What is done for one is done for the other, if the kernel has it.
const (
	IPv4 Family = 4
	IPv6 Family = 6
)

func familyOf(a netip.Addr) Family {
	if a.Is4() {
		return IPv4
	}
	return IPv6
}

// An ENI is what is wanted of one interface.
type ENI struct {
	MAC  string // lower case, colon separated
	Slot int    // 1 to maxSlot
	Nets []Net  // at most one of a family
}

// maxSlot is what the mark of a pod's packets has room for.
const maxSlot = slotMask

// A Net is a vSwitch's subnet and the gateway in it.
type Net struct {
	Subnet  netip.Prefix
	Gateway netip.Addr
}

// Check names the first thing in e that cannot be.
func (e ENI) Check() error {
	if e.Slot < 1 || e.Slot > maxSlot {
		return fmt.Errorf("ENI %s: slot %d: want 1 to %d", e.MAC, e.Slot, maxSlot)
	}
	for _, n := range e.Nets {
		if !n.Gateway.IsValid() || !n.Subnet.IsValid() || familyOf(n.Gateway) != familyOf(n.Subnet.Addr()) {
			return fmt.Errorf("ENI %s: subnet %s with gateway %s: want both of one family", e.MAC, n.Subnet, n.Gateway)
		}
	}
	return nil
}

// Wanted is the state that the node should be in.
type Wanted struct {
	ENIs []ENI
	// Known are the MAC addresses of all secondary ENIs that are ours, wanted or not: those that attach or detach, and those
	// that a pod has, or will have, for itself. Their links are never the node's.
	Known []string
	// NodeDNS are the addresses of the node's DNS listener.
	NodeDNS []netip.Addr
	Egress  Egress
	// Parents are the MAC addresses of the ENIs that are to be ipvlan parents. Those that have a companion already are, too.
	Parents []string
	// HostNetworks are those that pods reach through the node whatever their datapath, see HostNetwork.
	HostNetworks []netip.Prefix
	// ServiceNetworks are where Services have their addresses, but for what is Spared.
	ServiceNetworks, Spared []netip.Prefix
	NodePorts               NodePorts
	// SpreadIRQs asks for Spread, which is done once for a link and not kept.
	SpreadIRQs bool
}

// Found is the state that the kernel is in, as far as Build looks at it.
type Found struct {
	Families []Family // those the kernel has
	Links    []Link
	// Uplinks are the indices of the links with the main table's default routes, the best first, our ENIs left out. A
	// family without one is not in it.
	Uplinks map[Family][]int
	// ENIDefaults are the main table's default routes by links of our ENIs alone, see isENI.
	ENIDefaults []MainRoute
	Rules       []Rule  // ours only, without those for an address
	Routes      []Route // ours only
	Sysctls     map[string]string
	Loopback    []netip.Prefix // addresses of lo
	// Addrs are the addresses of the uplinks and the companions, and those of scope host of ENIs, by index.
	Addrs map[int][]netip.Prefix
	// Global are the global unicast addresses of all links, by index.
	Global map[int][]netip.Addr
	// Stuck are neighbours of ENIs that were asked for while the link dropped frames.
	Stuck []Neighbour
	// Attached are the programs that links have; nil if no programs are to be attached.
	Attached map[Attachment]bool
	// Detached are those that this process has taken off. A link may have one of an earlier process that is in neither.
	Detached map[Attachment]bool
	// Node is what the datapath was last told of the node; nil if nothing.
	Node *SetNode
	// NAT is what our nftables table does, nil if there is none. A table that somebody has changed is an empty NAT.
	NAT *NAT
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
	Kind    string // as in "ip link ... type"; empty or "device" for hardware
	Parent  int    // index of the link below, such as an ipvlan's; 0: none
	Master  int    // index of the bridge or bond that has the link; 0: none
	NoARP   bool
	IPVlan  IPVlanPort // for kind ipvlan
}

// An Op is one change to the kernel. It prints as the command that would do the same.
type Op interface{ String() string }

// A Part is what of the network is not as wanted while an Op fails.
type Part int

// The parts. They do not depend on one another, but every ENI depends on PartNode.
const (
	// PartNode is what every pod's packets need: forwarding, and the main table's rule with the group of the uplinks.
	PartNode Part = iota
	// PartENI is one ENI.
	PartENI
	// PartEgress is the way outside the VPC.
	PartEgress
	// PartIPVlan is what makes one ENI an ipvlan parent.
	PartIPVlan
	// PartRest is the node DNS address, the programs of the uplinks, and what is left of former ENIs.
	PartRest
)

// A Step is an Op and the Part that it is for.
type Step struct {
	Op
	Part Part
	MAC  string // that of the ENI, for PartENI and PartIPVlan
}

// The changes to links and settings that Build asks for.
type (
	// SetSysctl writes Key, a path below /proc/sys.
	SetSysctl struct{ Key, Value string }
	// SetGroup puts a link into a group: LinkGroup, or 0, which is the kernel's own.
	SetGroup struct {
		Link  Link
		Group int
	}
	// SetMTU sets a link's MTU in bytes.
	SetMTU struct {
		Link Link
		MTU  int
	}
	// SetUp brings a link up.
	SetUp struct{ Link Link }
	// AddLoopback gives lo an address.
	AddLoopback struct{ Addr netip.Prefix }
	// DeleteNeighbour lets the next packet ask for a neighbour at once. The kernel asks again after a second only.
	DeleteNeighbour struct {
		Neighbour Neighbour
		Dev       string
	}
)

// A Neighbour is an address on a link.
type Neighbour struct {
	Link int // index
	Addr netip.Addr
}

func (o SetSysctl) String() string { return "sysctl -w " + o.Key + "=" + o.Value }
func (o SetGroup) String() string {
	return fmt.Sprintf("ip link set dev %s group %d", o.Link.Name, o.Group)
}
func (o SetMTU) String() string { return fmt.Sprintf("ip link set dev %s mtu %d", o.Link.Name, o.MTU) }
func (o SetUp) String() string  { return fmt.Sprintf("ip link set dev %s up", o.Link.Name) }
func (o DeleteNeighbour) String() string {
	return fmt.Sprintf("ip neigh del %s dev %s", o.Neighbour.Addr, o.Dev)
}
func (o AddLoopback) String() string {
	return fmt.Sprintf("ip address add %s dev lo scope host", o.Addr)
}

// Build returns the changes that lead from found to wanted, in the order in which they must be made, and the wanted
// ENIs whose links are not there or carry no frames yet. Building again after they are made gives none.
func Build(wanted Wanted, found Found) (steps []Step, absent []ENI) {
	b := builder{found: found}
	b.forwarding(wanted.ENIs)
	for _, l := range found.uplinks() {
		b.group(l)
	}
	for _, e := range sorted(wanted.ENIs) {
		b.part, b.mac = PartENI, e.MAC
		link, ok := found.eniLink(e)
		if ok {
			b.eni(e, link)
		}
		if !ok || !link.Running {
			absent = append(absent, e)
		}
		b.podRules(e)
		if ok && wanted.isParent(e, found) {
			b.part = PartIPVlan
			b.parent(e, link)
		}
	}
	b.knownENIs(wanted)
	b.part, b.mac = PartRest, ""
	b.staleCompanions(wanted)
	b.stalePodRules(wanted.ENIs)
	b.staleRoutes(wanted.ENIs)
	b.staleGroups(wanted)
	b.egress(wanted)
	b.part = PartRest
	for _, addr := range wanted.NodeDNS {
		b.loopback(addr)
	}
	b.programs(wanted)
	return b.steps, absent
}

func sorted(enis []ENI) []ENI {
	return slices.SortedFunc(slices.Values(enis), func(a, b ENI) int { return cmp.Compare(a.Slot, b.Slot) })
}

// nets are the ENI's in families that the kernel has. Pods of the others fail when they get their address.
func (f Found) nets(e ENI) []Net {
	return slices.DeleteFunc(slices.Clone(e.Nets), func(n Net) bool { return !slices.Contains(f.Families, familyOf(n.Gateway)) })
}

func (f Found) link(match func(Link) bool) (Link, bool) {
	i := slices.IndexFunc(f.Links, match)
	if i < 0 {
		return Link{}, false
	}
	return f.Links[i], true
}

// eniLink is the ENI's own link, and not one on top of it with the same MAC address.
func (f Found) eniLink(e ENI) (Link, bool) {
	return f.link(func(l Link) bool { return l.isOf(e) })
}

func (l Link) isOf(e ENI) bool { return l.has(e.MAC) }

// has says whether the link is the interface with the MAC address; "" is none.
func (l Link) has(mac string) bool {
	return mac != "" && l.MAC == mac && !slices.Contains(stackedKinds, l.Kind)
}

// stackedKinds are kinds of links that have, or may have, the MAC address of the link below.
var stackedKinds = []string{kindIPVlan, "ipvtap", "vlan", "macvlan", "macvtap", "bridge", "bond", "team"}

// isENI says whether the link is that of one of our ENIs, wanted or not.
func (f Found) isENI(wanted Wanted, index int) bool {
	l, ok := f.link(func(l Link) bool { return l.Index == index })
	return ok && (slices.ContainsFunc(wanted.ENIs, l.isOf) || slices.ContainsFunc(wanted.Known, l.has))
}

// wants says whether the ENI is wanted.
func (w Wanted) wants(mac string) bool {
	return slices.ContainsFunc(w.ENIs, func(e ENI) bool { return e.MAC == mac })
}

// macs are those of all our ENIs.
func (w Wanted) macs() []string {
	macs := slices.Clone(w.Known)
	for _, e := range w.ENIs {
		macs = append(macs, e.MAC)
	}
	return macs
}

func (f Found) uplinksOf(family Family) (links []Link) {
	for _, index := range f.Uplinks[family] {
		if l, ok := f.link(func(l Link) bool { return l.Index == index }); ok {
			links = append(links, l)
		}
	}
	return links
}

// uplinks are all of them, those of IPv4 first. Mostly they are one.
func (f Found) uplinks() (links []Link) {
	for _, family := range f.Families {
		for _, l := range f.uplinksOf(family) {
			if !slices.Contains(links, l) {
				links = append(links, l)
			}
		}
	}
	return links
}

// mtu is the largest of the uplinks, 0 if there is none: a VPN with the best default route says nothing of the VPC.
func (f Found) mtu() (mtu int) {
	for _, l := range f.uplinks() {
		mtu = max(mtu, l.MTU)
	}
	return mtu
}

type builder struct {
	found Found
	part  Part // of what is added
	mac   string
	steps []Step
}

func (b *builder) add(op Op) { b.steps = append(b.steps, Step{op, b.part, b.mac}) }

func (b *builder) group(l Link) {
	if l.Group != LinkGroup {
		b.add(SetGroup{l, LinkGroup})
	}
}

// staleGroups takes former ENIs and uplinks out of LinkGroup, where the main table's routes by them would not count. While
// no uplink is known nobody can tell which were.
func (b *builder) staleGroups(wanted Wanted) {
	uplinks := b.found.uplinks()
	if len(uplinks) == 0 {
		return
	}
	for _, l := range b.found.Links {
		if l.Group == LinkGroup && !slices.ContainsFunc(wanted.ENIs, l.isOf) && !slices.Contains(uplinks, l) {
			b.detachAny(l.Name, RoleUplink, l.Index)
			b.detachAny(l.Name, RoleIPVlanParent, l.Index)
			b.detachAny(l.Name, RoleENI, l.Index)
			b.addrs(l, nil, b.found.Addrs[l.Index])
			b.add(SetGroup{l, 0})
		}
	}
}

// forwarding turns the node into a router for its pods. With IPv6 that has a price: a router believes no router
// advertisements (RFC 4861 section 6.2.7), so an uplink that does is told first to go on (accept_ra=2).
func (b *builder) forwarding(enis []ENI) {
	b.sysctl(forwardV4, "1")
	if !slices.ContainsFunc(enis, b.hasIPv6) {
		return
	}
	for _, l := range b.found.uplinks() {
		if b.found.Sysctls[acceptRA(l.Name)] == "1" {
			b.sysctl(acceptRA(l.Name), "2")
		}
	}
	b.sysctl(forwardV6, "1")
}

func (b *builder) hasIPv6(e ENI) bool {
	return slices.ContainsFunc(b.found.nets(e), func(n Net) bool { return familyOf(n.Gateway) == IPv6 })
}

// eni orders the changes so that the link takes no traffic before it filters and advertises nothing.
func (b *builder) eni(e ENI, link Link) {
	for _, s := range linkSysctls(link.Name) {
		b.sysctl(s.Key, s.Value)
	}
	if b.hasIPv6(e) {
		// The link's own address comes from its MAC, which nobody else has. Asking whether it is taken (RFC 4862 section 5.4)
		// would keep the link from resolving the gateway for a second.
		b.sysctl(disableIPv6(link.Name), "0")
		b.sysctl(acceptDAD(link.Name), "0")
	}
	b.group(link)
	if mtu := b.found.mtu(); mtu != 0 && link.MTU != mtu {
		b.add(SetMTU{link, mtu})
	}
	_, parent := b.found.companion(e, link)
	b.eniAddr(link, parent)
	if !link.Up {
		b.add(SetUp{link})
	}
	for _, n := range b.found.Stuck {
		if n.Link == link.Index && link.Running {
			b.add(DeleteNeighbour{n, link.Name})
		}
	}
	b.mainRoutes(link)
	b.defaultRoutes(e, link)
	b.attachENI(link, parent)
}

// knownENIs does for the ENIs that are not wanted what the node needs: they are none of its ways outside.
func (b *builder) knownENIs(wanted Wanted) {
	for _, mac := range wanted.Known {
		link, ok := b.found.link(func(l Link) bool { return l.has(mac) })
		if ok && !wanted.wants(mac) {
			b.part, b.mac = PartENI, mac
			b.mainRoutes(link)
		}
	}
}

// noAddr is of no machine. An ENI's link has it with scope link: requests for neighbours come from it then.
var noAddr = netip.MustParseAddr("169.254.1.1")

// eniAddr gives the ENI's link an IPv4 address: without one the kernel's loose filtering drops what the main table
// would send elsewhere, that is everything (fib_validate_source). It is the node's, with scope host. Requests for
// neighbours then come from the node's address on the uplink, which the VPC knows. A parent cannot have that: the
// answers would go to its companion, which has the address too.
func (b *builder) eniAddr(link Link, parent bool) {
	have := b.found.Addrs[link.Index]
	nodes := of(IPv4, b.found.nodePrefixes())
	if len(nodes) == 0 && len(have) > 0 && !parent {
		return
	}
	want := netip.PrefixFrom(noAddr, noAddr.BitLen())
	if i := slices.IndexFunc(have, func(p netip.Prefix) bool { return slices.Contains(nodes, p) }); i >= 0 && !parent {
		want = have[i]
	} else if len(nodes) > 0 && !parent {
		want = nodes[0]
	}
	b.addrs(link, []netip.Prefix{want}, have)
}

// addrs makes the link's addresses what is wanted.
func (b *builder) addrs(link Link, wanted, have []netip.Prefix) {
	for _, p := range wanted {
		if slices.Contains(b.found.Families, familyOf(p.Addr())) && !slices.Contains(have, p) {
			b.add(AddAddr{link, p})
		}
	}
	for _, p := range have {
		if foreign := p.Addr().IsLinkLocalUnicast() && p.Addr() != noAddr; !foreign && !slices.Contains(wanted, p) {
			b.add(DeleteAddr{link, p})
		}
	}
}

// loopback adds the node DNS address. Its scope must be host: the kernel takes the sender address of ARP requests on a
// link without an address from the first link that has one of a wider scope, and lo is the first.
func (b *builder) loopback(addr netip.Addr) {
	if !slices.Contains(b.found.Families, familyOf(addr)) {
		return
	}
	if prefix := netip.PrefixFrom(addr, addr.BitLen()); !slices.Contains(b.found.Loopback, prefix) {
		b.add(AddLoopback{prefix})
	}
}

func (l Link) String() string { return l.Name + "(" + strconv.Itoa(l.Index) + ")" }
