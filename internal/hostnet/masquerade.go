package hostnet

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// An EgressMode says how pods reach what is outside the VPC.
type EgressMode string

// The modes. The zero value means that it is not known yet, and what an earlier process left stays as it is.
const (
	// EgressNone lets pods' packets leave by their ENIs with their own addresses. An SNAT entry of the vSwitch or an
	// IPv6 gateway makes them public.
	EgressNone EgressMode = "none"
	// EgressNodeSNAT lets connections to the outside leave by the uplink with the node's primary address. It is for
	// vSwitches without an SNAT entry, on nodes that reach the Internet themselves.
	EgressNodeSNAT EgressMode = "node-snat"
)

// Egress is how pods reach what is outside the VPC.
type Egress struct {
	Mode EgressMode
	// VPC are the VPC's CIDRs of both families. A family without one is left as with EgressNone.
	VPC []netip.Prefix
	// Services are the cluster's Service CIDRs, and Exempt other networks that know pods by their own addresses, such as
	// peered VPCs. What goes to them leaves by the ENI with the pod's address, as what goes to the VPC does.
	Services, Exempt []netip.Prefix
}

// Check names the first thing in e that cannot be.
func (e Egress) Check() error {
	switch e.Mode {
	case "", EgressNone, EgressNodeSNAT:
	default:
		return fmt.Errorf("egress mode %q: want %q or %q", e.Mode, EgressNone, EgressNodeSNAT)
	}
	for _, list := range []struct {
		name  string
		cidrs []netip.Prefix
	}{{"VPC", e.VPC}, {"Service", e.Services}, {"exempt", e.Exempt}} {
		for _, p := range list.cidrs {
			if !p.IsValid() || p != p.Masked() || p.Addr().Is4In6() {
				return fmt.Errorf("egress: %s CIDR %s: want a network such as %s", list.name, p, p.Masked())
			}
		}
	}
	if e.Mode == EgressNodeSNAT && len(e.VPC) == 0 {
		return fmt.Errorf("egress mode %q: no VPC CIDR: without one it would take the VPC for the outside", e.Mode)
	}
	return nil
}

// A NAT is what the node does with pods' packets to the outside, in the nftables table "inet nearpath".
//
// Before routing, a packet from a pod to the outside gets OutsideMark, and so leaves by the main table's default route.
// Packets that answer a connection from outside do not: that came in by the pod's ENI, as those of load balancers with
// pods as backends do, and the answer must leave there. This is why the ENI's table cannot say it. The mark is
// set after destination NAT (priority dstnat), whose outcome may be in the VPC. After routing, marked packets are
// masqueraded, with ports chosen at random: two sockets racing for one port would lose one's first packet.
type NAT struct {
	Uplinks []string // names, sorted
	// Pods are the pods' subnets and Direct the networks that are not outside: sorted, none within another.
	Pods, Direct []netip.Prefix
}

// The changes to masquerading that Build asks for.
type (
	// SetNAT makes our nftables table, or makes it anew, in one transaction.
	SetNAT struct{ NAT NAT }
	// DeleteNAT deletes our nftables table.
	DeleteNAT struct{}
)

func (o SetNAT) String() string    { return "nft '" + o.NAT.String() + "'" }
func (o DeleteNAT) String() string { return "nft delete table inet " + natTable }

// natTable is the name of our nftables table, of family inet.
const natTable = "nearpath"

// String is the input of nft that makes the table.
func (n NAT) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "add table inet %s; delete table inet %s; table inet %s {", natTable, natTable, natTable)
	for _, f := range n.families() {
		fmt.Fprintf(&b, " set pods%d { type ipv%d_addr; flags interval; elements = { %s }; };", f, f, list(of(f, n.Pods)))
		fmt.Fprintf(&b, " set direct%d { type ipv%d_addr; flags interval; elements = { %s }; };", f, f, list(of(f, n.Direct)))
	}
	b.WriteString(" chain outside { type filter hook prerouting priority dstnat + 1;")
	for _, f := range n.families() {
		ip := map[Family]string{IPv4: "ip", IPv6: "ip6"}[f]
		fmt.Fprintf(&b, " iifgroup != %d %s saddr @pods%d %s daddr != @direct%d ct direction original meta mark set meta mark | %#x;",
			LinkGroup, ip, f, ip, f, OutsideMark)
	}
	b.WriteString(" }; chain masquerade { type nat hook postrouting priority srcnat;")
	for _, name := range n.Uplinks {
		fmt.Fprintf(&b, " meta mark & %#x == %#x oifname %q masquerade fully-random;", OutsideMark, OutsideMark, name)
	}
	b.WriteString(" }; }")
	return b.String()
}

func list(prefixes []netip.Prefix) string {
	texts := make([]string, len(prefixes))
	for i, p := range prefixes {
		texts[i] = p.String()
	}
	return strings.Join(texts, ", ")
}

func (n NAT) equal(o NAT) bool {
	return slices.Equal(n.Uplinks, o.Uplinks) && slices.Equal(n.Pods, o.Pods) && slices.Equal(n.Direct, o.Direct)
}

// families are those that have pods.
func (n NAT) families() (families []Family) {
	for _, f := range []Family{IPv4, IPv6} {
		if len(of(f, n.Pods)) > 0 {
			families = append(families, f)
		}
	}
	return families
}

func of(f Family, prefixes []netip.Prefix) []netip.Prefix {
	return slices.DeleteFunc(slices.Clone(prefixes), func(p netip.Prefix) bool { return familyOf(p.Addr()) != f })
}

// disjoint sorts the prefixes and leaves out what is within another: intervals of a set must not overlap.
func disjoint(prefixes []netip.Prefix) (out []netip.Prefix) {
	for _, p := range slices.SortedFunc(slices.Values(prefixes), func(a, b netip.Prefix) int {
		return cmp.Or(a.Addr().Compare(b.Addr()), cmp.Compare(a.Bits(), b.Bits()))
	}) {
		if len(out) == 0 || !out[len(out)-1].Overlaps(p) {
			out = append(out, p)
		}
	}
	return out
}

// masquerade is the NAT that is wanted. A family that has no uplink is not in it: there its packets would go nowhere.
// One that had an uplink keeps it: a default route comes back, as after a DHCP client's restart, and until then packets
// that are not translated would only set up connections that break.
func (f Found) masquerade(wanted Wanted) (n NAT, needed bool) {
	if wanted.Egress.Mode != EgressNodeSNAT {
		return NAT{}, false
	}
	var subnets []netip.Prefix
	for _, e := range wanted.ENIs {
		for _, net := range f.nets(e) {
			subnets = append(subnets, net.Subnet)
		}
	}
	direct := slices.Concat(wanted.Egress.VPC, wanted.Egress.Services, wanted.Egress.Exempt, subnets)
	for _, family := range f.Families {
		uplinks, pods := f.natUplinks(wanted, family), of(family, subnets)
		if len(uplinks) == 0 || len(pods) == 0 || len(of(family, wanted.Egress.VPC)) == 0 {
			continue
		}
		n.Uplinks = append(n.Uplinks, uplinks...)
		n.Pods, n.Direct = append(n.Pods, pods...), append(n.Direct, of(family, direct)...)
	}
	slices.Sort(n.Uplinks)
	n.Uplinks = slices.Compact(n.Uplinks)
	n.Pods, n.Direct = disjoint(n.Pods), disjoint(n.Direct)
	return n, len(n.Uplinks) > 0
}

// natUplinks are the names of the family's uplinks, or while there is none of those that are in the NAT.
func (f Found) natUplinks(wanted Wanted, family Family) (names []string) {
	for _, l := range f.uplinksOf(family) {
		names = append(names, l.Name)
	}
	if len(names) > 0 || f.NAT == nil || !slices.Contains(f.NAT.families(), family) {
		return names
	}
	for _, name := range f.NAT.Uplinks {
		if l, ok := f.link(func(l Link) bool { return l.Name == name }); ok && !f.isENI(wanted, l.Index) {
			names = append(names, name)
		}
	}
	return names
}

// egress sets the rules of both families and the NAT. A mark means nothing without its rule, so that comes first
// and goes last.
func (b *builder) egress(wanted Wanted) {
	b.part = PartNode
	var main []Rule
	for _, f := range b.found.Families {
		main = append(main, mainRule(f))
	}
	b.rules(main, PriorityMain)
	if wanted.Egress.Mode == "" {
		return
	}
	b.part = PartEgress
	nat, needed := b.found.masquerade(wanted)
	if !needed && b.found.NAT != nil {
		b.add(DeleteNAT{})
	}
	var outside []Rule
	for _, f := range nat.families() {
		outside = append(outside, outsideRule(f))
	}
	b.rules(outside, PriorityOutside)
	if !needed {
		return
	}
	b.looseUplinks(nat)
	if b.found.NAT == nil || !b.found.NAT.equal(nat) {
		b.add(SetNAT{nat})
	}
}

// looseUplinks keeps the answers from being dropped: after translation they are for a pod, and the route that strict
// filtering (RFC 3704 section 2.2) asks for, from the pod and without the mark, leaves by the ENI. The kernel takes the
// larger value of the link's and the one for all. IPv6 has no such filter.
func (b *builder) looseUplinks(n NAT) {
	if !slices.Contains(n.families(), IPv4) {
		return
	}
	for _, l := range b.found.uplinksOf(IPv4) {
		if max(b.found.Sysctls[allRPFilter], b.found.Sysctls[rpFilter(l.Name)]) == "1" {
			b.sysctl(rpFilter(l.Name), "2")
		}
	}
}
