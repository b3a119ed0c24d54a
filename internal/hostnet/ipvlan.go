package hostnet

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// Why an ENI cannot be an ipvlan parent. In both cases its pods can be on veth pairs.
var (
	// ErrNoIPVlan says that the kernel has no ipvlan.
	ErrNoIPVlan = errors.New("the kernel has no ipvlan")
	// ErrForeignMaster says that another program has put the ENI under a bridge, a bond or a macvlan. A link takes one of
	// these and ipvlan only.
	ErrForeignMaster = errors.New("the ENI's link is used by another program")
)

// A Companion is the node's own slave of an ENI that is an ipvlan parent. Packets between the node and the ENI's pods go
// by it: a parent and its slaves do not hear each other.
type Companion struct {
	Parent, Link           string
	ParentIndex, LinkIndex int
	MAC                    net.HardwareAddr // the parent's, and all slaves'
}

// An IPVlanPort is the state of an ipvlan slave's port. It is one for all slaves of a parent: whoever adds a slave with
// another mode changes it for all, and deleting that slave does not change it back.
type IPVlanPort struct {
	Mode IPVlanMode
	Flag int // 0 is bridge: slaves reach each other
}

// An IPVlanMode is the kernel's number of the mode.
type IPVlanMode int

// IPVlanL2 is the mode that we use.
const IPVlanL2 IPVlanMode = 0

func (p IPVlanPort) String() string {
	return "mode " + name(int(p.Mode), "l2", "l3", "l3s") + " " + name(p.Flag, "bridge", "private", "vepa")
}

func name(number int, names ...string) string {
	if number < 0 || number >= len(names) {
		return strconv.Itoa(number)
	}
	return names[number]
}

const (
	kindIPVlan      = "ipvlan"
	companionPrefix = "npc"
)

// companionName is that of the companion of a slot's ENI.
func companionName(slot int) string { return companionPrefix + strconv.Itoa(slot) }

// companionSlot tells a companion, and whose.
func (l Link) companionSlot() (slot int, ok bool) {
	digits, ours := strings.CutPrefix(l.Name, companionPrefix)
	slot, err := strconv.Atoi(digits)
	return slot, ours && err == nil && l.Kind == kindIPVlan && companionName(slot) == l.Name
}

// companion is that of the ENI, if there is one.
func (f Found) companion(e ENI, parent Link) (Link, bool) {
	return f.link(func(l Link) bool {
		slot, ok := l.companionSlot()
		return ok && slot == e.Slot && l.Parent == parent.Index
	})
}

// companions are those of the wanted ENIs, by MAC address.
func (f Found) companions(enis []ENI) map[string]Companion {
	all := map[string]Companion{}
	for _, e := range enis {
		parent, ok := f.eniLink(e)
		if !ok {
			continue
		}
		if c, ok := f.companion(e, parent); ok {
			mac, _ := net.ParseMAC(parent.MAC) // the kernel's own text
			all[e.MAC] = Companion{Parent: parent.Name, Link: c.Name, ParentIndex: parent.Index, LinkIndex: c.Index, MAC: mac}
		}
	}
	return all
}

// isParent: an earlier process's companion says so too, as pods use it.
func (w Wanted) isParent(e ENI, found Found) bool {
	parent, ok := found.eniLink(e)
	if !ok {
		return false
	}
	_, has := found.companion(e, parent)
	return has || slices.Contains(w.Parents, e.MAC)
}

// The changes to ipvlan links that Build asks for.
type (
	// AddCompanion adds the companion of a slot's ENI, which Parent is the link of. What else it needs is asked for when
	// it is there.
	AddCompanion struct {
		Parent Link
		Name   string
	}
	// SetIPVlanPort sets the state of a parent's port, through any of its slaves.
	SetIPVlanPort struct {
		Link Link
		Port IPVlanPort
	}
	// SetNoARP keeps a link from asking for neighbours: all that it leads to has its own MAC address.
	SetNoARP struct{ Link Link }
	// AddAddr gives a link an address of scope host, noAddr of scope link, that is not checked for duplicates.
	AddAddr struct {
		Link Link
		Addr netip.Prefix
	}
	// DeleteAddr takes an address from a link.
	DeleteAddr struct {
		Link Link
		Addr netip.Prefix
	}
	// DeleteLink deletes a companion.
	DeleteLink struct{ Link Link }
	// Refuse is a change that cannot be made, because of Err.
	Refuse struct {
		What string
		Err  error
	}
)

func (o AddCompanion) String() string {
	return fmt.Sprintf("ip link add %s link %s type ipvlan mode l2 bridge", o.Name, o.Parent.Name)
}
func (o SetIPVlanPort) String() string {
	return fmt.Sprintf("ip link set dev %s type ipvlan %s", o.Link.Name, o.Port)
}
func (o SetNoARP) String() string { return fmt.Sprintf("ip link set dev %s arp off", o.Link.Name) }
func (o AddAddr) String() string {
	return fmt.Sprintf("ip address add %s dev %s scope %s nodad", o.Addr, o.Link.Name, map[bool]string{true: "link", false: "host"}[o.Addr.Addr() == noAddr])
}
func (o DeleteAddr) String() string {
	return fmt.Sprintf("ip address del %s dev %s", o.Addr, o.Link.Name)
}
func (o DeleteLink) String() string { return "ip link del dev " + o.Link.Name }
func (o Refuse) String() string     { return o.What }

// parent makes the ENI an ipvlan parent with a companion.
func (b *builder) parent(e ENI, link Link) {
	c, ok := b.found.companion(e, link)
	if !ok {
		b.addCompanion(e, link)
		return
	}
	if c.IPVlan != (IPVlanPort{}) {
		b.add(SetIPVlanPort{c, IPVlanPort{}})
	}
	for _, s := range linkSysctls(c.Name) {
		b.sysctl(s.Key, s.Value)
	}
	if c.Group == LinkGroup { // the routes to pods would not count
		b.add(SetGroup{c, 0})
	}
	if mtu := b.found.mtu(); mtu != 0 && c.MTU != mtu {
		b.add(SetMTU{c, mtu})
	}
	if nodes := b.found.nodePrefixes(); len(nodes) > 0 { // while they are not known those that are there stay
		b.addrs(c, nodes, b.found.Addrs[c.Index])
	}
	if !c.Up {
		b.add(SetUp{c})
	}
	if !c.NoARP || !c.Up || c.IPVlan.Mode != IPVlanL2 { // the kernel makes a slave ask when it comes up or leaves another mode
		b.add(SetNoARP{c})
	}
	b.attach(c.Name, RoleCompanion, c.Index)
	b.attach(link.Name, RoleIPVlanParent, link.Index)
}

func (b *builder) addCompanion(e ENI, link Link) {
	add := AddCompanion{link, companionName(e.Slot)}
	if by := b.found.masterOf(link); by != "" {
		b.add(Refuse{add.String(), fmt.Errorf("%w: it is a port of %s", ErrForeignMaster, by)})
		return
	}
	if l, ok := b.found.link(func(l Link) bool { return l.Name == add.Name }); ok {
		if _, ours := l.companionSlot(); !ours {
			b.add(Refuse{add.String(), fmt.Errorf("%w: the name %s is that of another link", ErrForeignMaster, l.Name)})
			return
		}
		b.add(DeleteLink{l}) // of another ENI
	}
	b.add(add)
}

// masterOf is the name of what takes the link's packets before an ipvlan could, empty if nothing does.
func (f Found) masterOf(link Link) string {
	above, ok := f.link(func(l Link) bool {
		return l.Index == link.Master && l.Kind != "vrf" || l.Parent == link.Index && (l.Kind == "macvlan" || l.Kind == "macvtap")
	})
	if !ok {
		return ""
	}
	return above.Name
}

// staleCompanions deletes those of ENIs that nobody wants.
func (b *builder) staleCompanions(wanted Wanted) {
	for _, l := range b.found.Links {
		slot, ok := l.companionSlot()
		if !ok {
			continue
		}
		wants := slices.ContainsFunc(wanted.ENIs, func(e ENI) bool { return e.Slot == slot })
		if !wants {
			b.add(DeleteLink{l})
		}
	}
}
