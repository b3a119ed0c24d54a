package hostnet

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// Programs are the datapath's programs on the node's links. They are called in the node's network namespace, one call
// at a time.
type Programs interface {
	// Attach puts the role's program on a link, in place of one of an earlier process.
	Attach(role Role, index int) error
	// Attached says whether the link has the role's program, and that it is this process's.
	Attached(role Role, index int) (bool, error)
	// Detach takes the role's program off a link. That there is none is no error.
	Detach(role Role, index int) error
	// SetNode replaces what the programs know of the node. Doing it again is cheap.
	SetNode(node SetNode) error
}

// A Role is what a link is for the datapath.
type Role int

// The roles.
const (
	// RoleUplink is a link that clients outside come by: with a default route of the node, or an ENI with addresses of the
	// node that is not ours.
	RoleUplink Role = iota + 1
	// RoleIPVlanParent is an ENI with ipvlan slaves.
	RoleIPVlanParent
	// RoleENI is an ENI of ours without such slaves: what answers pods comes by it.
	RoleENI
	// RoleCompanion is the node's own slave of such an ENI: it leads to pods, as the node's end of a veth pair does.
	RoleCompanion
)

func (r Role) String() string {
	switch r {
	case RoleUplink:
		return "uplink"
	case RoleIPVlanParent:
		return "ipvlan-parent"
	case RoleENI:
		return "eni"
	case RoleCompanion:
		return "companion"
	default:
		return fmt.Sprintf("role-%d", int(r))
	}
}

// A HostNetwork says how a pod whose packets do not pass the node's stack reaches a network. The longest prefix counts;
// what is in none is by the pod's ENI.
type HostNetwork struct {
	Prefix netip.Prefix
	Way    Way
}

// A Way is how a network is reached.
type Way int

// The ways.
const (
	ByENI Way = iota + 1
	ByNode
	// OfServices is a network of Services' addresses: what is no Service's there is nowhere.
	OfServices
)

func (w Way) String() string {
	switch w {
	case ByENI:
		return "eni"
	case ByNode:
		return "node"
	case OfServices:
		return "services"
	default:
		return fmt.Sprintf("way-%d", int(w))
	}
}

// An Attachment is a role's program on a link.
type Attachment struct {
	Role  Role
	Index int
}

// The changes to programs that Build asks for.
type (
	// Attach attaches a program to the link Dev.
	Attach struct {
		Attachment
		Dev string
	}
	// Detach detaches a program from the link Dev.
	Detach struct {
		Attachment
		Dev string
	}
	// SetNode tells the datapath of the node.
	SetNode struct {
		Addrs    []netip.Addr  // its own, see Host.Addrs
		Local    []LocalAddr   // all that its namespace has, sorted, none twice
		Links    []LinkAddrs   // those that have RoleUplink
		Networks []HostNetwork // sorted, no prefix twice
	}
)

func (o Attach) String() string { return fmt.Sprintf("attach program %s to dev %s", o.Role, o.Dev) }
func (o Detach) String() string { return fmt.Sprintf("detach program %s from dev %s", o.Role, o.Dev) }
func (o SetNode) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "set node addresses %v, local", o.Addrs)
	for _, l := range o.Local {
		b.WriteString(map[bool]string{true: " ", false: " !"}[l.NodePorts] + l.Addr.String())
	}
	for _, l := range o.Links {
		fmt.Fprintf(&b, ", link %d %v", l.Index, l.Addrs)
	}
	b.WriteString(", networks")
	for _, n := range o.Networks {
		fmt.Fprintf(&b, " %s:%s", n.Prefix, n.Way)
	}
	return b.String()
}

func (o SetNode) equal(p SetNode) bool {
	return slices.Equal(o.Addrs, p.Addrs) && slices.Equal(o.Local, p.Local) && slices.EqualFunc(o.Links, p.Links, LinkAddrs.equal) &&
		slices.Equal(o.Networks, p.Networks)
}

func (b *builder) attach(name string, role Role, index int) {
	if a := (Attachment{role, index}); b.found.Attached != nil && !b.found.Attached[a] {
		b.add(Attach{a, name})
	}
}

// attachENI leaves parents to their own role, which has the programs of this one.
func (b *builder) attachENI(link Link, parent bool) {
	if !parent {
		b.attach(link.Name, RoleENI, link.Index)
	}
}

// detach takes off what the link may have: nobody can tell whether there is one of an earlier process, so one that this
// process has not taken off yet may be there.
func (b *builder) detach(name string, role Role, index int) {
	if a := (Attachment{role, index}); b.found.Attached[a] || !b.found.Detached[a] {
		b.detachAny(name, role, index)
	}
}

// detachAny does so without a look.
func (b *builder) detachAny(name string, role Role, index int) {
	if b.found.Attached != nil {
		b.add(Detach{Attachment{role, index}, name})
	}
}

// attachments are those that Build wants to know of.
func attachments(wanted Wanted, found Found) (list []Attachment) {
	for _, l := range found.Links {
		if _, ok := l.companionSlot(); ok {
			list = append(list, Attachment{RoleCompanion, l.Index})
		}
		switch {
		case l.Group == LinkGroup || found.isENI(wanted, l.Index) || slices.Contains(found.uplinks(), l):
			list = append(list, Attachment{RoleUplink, l.Index}, Attachment{RoleIPVlanParent, l.Index}, Attachment{RoleENI, l.Index})
		case l.isInterface():
			list = append(list, Attachment{RoleUplink, l.Index})
		}
	}
	return list
}

// programs attaches those of links that clients come by, which expect an Ethernet header, takes them off links that were
// such, and tells the datapath of the node, once its addresses are known.
func (b *builder) programs(wanted Wanted) {
	if b.found.Attached == nil {
		return
	}
	outside := b.found.outsideLinks(wanted)
	for _, l := range outside {
		if l.isEthernet() {
			b.attach(l.Name, RoleUplink, l.Index)
		} else {
			b.detach(l.Name, RoleUplink, l.Index)
		}
	}
	for _, l := range b.found.Links {
		was := b.found.isENI(wanted, l.Index) || l.isInterface() && !slices.Contains(outside, l)
		if was && !b.willDetach(Attachment{RoleUplink, l.Index}) {
			b.detach(l.Name, RoleUplink, l.Index)
		}
	}
	node := SetNode{
		Addrs: b.found.nodeAddrs(), Local: b.found.local(wanted), Links: b.found.linkAddrs(outside), Networks: b.found.hostNetworks(wanted),
	}
	if len(node.Addrs) > 0 && (b.found.Node == nil || !b.found.Node.equal(node)) {
		b.add(node)
	}
}

func (b *builder) willDetach(a Attachment) bool {
	return slices.ContainsFunc(b.steps, func(s Step) bool {
		d, ok := s.Op.(Detach)
		return ok && d.Attachment == a
	})
}

// nodeAddrs are the addresses of the uplinks, IPv4 first, each family's in the order of the kernel.
func (f Found) nodeAddrs() (addrs []netip.Addr) {
	for _, family := range []Family{IPv4, IPv6} {
		for _, l := range f.uplinks() {
			for _, p := range f.Addrs[l.Index] {
				if a := p.Addr(); familyOf(a) == family && a.IsGlobalUnicast() && !slices.Contains(addrs, a) {
					addrs = append(addrs, a)
				}
			}
		}
	}
	return addrs
}

// nodePrefixes are the node's addresses, each as a network of its own.
func (f Found) nodePrefixes() (prefixes []netip.Prefix) {
	for _, a := range f.nodeAddrs() {
		prefixes = append(prefixes, netip.PrefixFrom(a, a.BitLen()))
	}
	return prefixes
}

// hostNetworks are those of Services and, by the node, its own addresses, the node DNS address, the configured ones and, where the node
// translates what pods send outside, all that is outside. The NAT of an earlier process counts until the mode is known.
func (f Found) hostNetworks(wanted Wanted) (networks []HostNetwork) {
	byNode := slices.Concat(wanted.HostNetworks, f.nodePrefixes())
	for _, a := range wanted.NodeDNS {
		byNode = append(byNode, netip.PrefixFrom(a, a.BitLen()))
	}
	nat, needed := f.masquerade(wanted)
	if wanted.Egress.Mode == "" && f.NAT != nil {
		nat, needed = *f.NAT, true
	}
	if needed {
		for _, family := range nat.families() {
			byNode = append(byNode, everything(family))
		}
		for _, p := range nat.Direct {
			networks = append(networks, HostNetwork{p, ByENI})
		}
	}
	put := func(way Way, prefixes []netip.Prefix) {
		for _, p := range prefixes {
			networks = slices.DeleteFunc(networks, func(n HostNetwork) bool { return n.Prefix == p })
			networks = append(networks, HostNetwork{p, way})
		}
	}
	put(ByNode, byNode)
	put(OfServices, wanted.ServiceNetworks)
	put(ByNode, wanted.Spared)
	slices.SortFunc(networks, func(a, b HostNetwork) int { return a.Prefix.Compare(b.Prefix) })
	return networks
}

func everything(f Family) netip.Prefix {
	if f == IPv6 {
		return netip.PrefixFrom(netip.IPv6Unspecified(), 0)
	}
	return netip.PrefixFrom(netip.IPv4Unspecified(), 0)
}
