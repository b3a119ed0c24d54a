package hostnet

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/containernetworking/plugins/pkg/netlinksafe"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/nearpath/nearpath/internal/sysctl"
)

const sysctlRoot = "/proc/sys"

// read asks the kernel, in the namespace of the calling thread, for what Build looks at, except for the NAT and programs.
func read(wanted Wanted) (Found, error) {
	links, err := netlinksafe.LinkList()
	if err != nil {
		return Found{}, fmt.Errorf("list links: %w", err)
	}
	found := Found{Families: families(), Uplinks: map[Family][]int{}}
	for _, l := range links {
		found.Links = append(found.Links, linkFrom(l))
	}
	for _, f := range found.Families {
		if err := readRoutes(wanted, &found, f); err != nil {
			return Found{}, err
		}
		if err := readRules(&found, f); err != nil {
			return Found{}, err
		}
	}
	if err := readAddrs(wanted, &found); err != nil {
		return Found{}, err
	}
	found.Sysctls, err = readSysctls(sysctlKeys(wanted, found))
	return found, err
}

// families are those of the running kernel, which may have been started with ipv6.disable=1.
func families() []Family {
	if _, err := os.Stat(filepath.Join(sysctlRoot, "net/ipv6")); err != nil {
		return []Family{IPv4}
	}
	return []Family{IPv4, IPv6}
}

// kernel is the family's number for the kernel (AF_INET, AF_INET6).
func (f Family) kernel() int {
	if f == IPv6 {
		return netlink.FAMILY_V6
	}
	return netlink.FAMILY_V4
}

func linkFrom(l netlink.Link) Link {
	a := l.Attrs()
	link := Link{
		Index: a.Index, Name: a.Name, MAC: a.HardwareAddr.String(), MTU: a.MTU, Group: int(a.Group),
		Up: a.Flags&net.FlagUp != 0, Running: a.OperState == netlink.OperUp || a.OperState == netlink.OperUnknown,
		Kind: l.Type(), Parent: a.ParentIndex, Master: a.MasterIndex, NoARP: a.RawFlags&unix.IFF_NOARP != 0,
	}
	if v, ok := l.(*netlink.IPVlan); ok {
		link.IPVlan = IPVlanPort{IPVlanMode(v.Mode), int(v.Flag)}
	}
	return link
}

func readRoutes(wanted Wanted, found *Found, f Family) error {
	all, err := netlinksafe.RouteListFiltered(f.kernel(), &netlink.Route{Table: unix.RT_TABLE_UNSPEC}, netlink.RT_FILTER_TABLE)
	if err != nil {
		return fmt.Errorf("list IPv%d routes: %w", f, err)
	}
	all = slices.DeleteFunc(all, func(r netlink.Route) bool { return !isDefault(r.Dst) || r.Type != unix.RTN_UNICAST })
	for _, r := range all {
		if r.Protocol == Protocol {
			gateway, _ := netip.AddrFromSlice(r.Gw)
			found.Routes = append(found.Routes, Route{Table: r.Table, Link: r.LinkIndex, Gateway: gateway.Unmap()})
		}
	}
	for _, r := range all {
		if r.Table == tableMain && found.isENI(wanted, r.LinkIndex) { // not one of several paths
			gateway, _ := netip.AddrFromSlice(r.Gw)
			found.ENIDefaults = append(found.ENIDefaults, MainRoute{f, r.LinkIndex, gateway.Unmap(), r.Priority, int(r.Protocol)})
		}
	}
	if uplinks := uplinksOf(all, func(index int) bool { return found.isENI(wanted, index) }); len(uplinks) > 0 {
		found.Uplinks[f] = uplinks
	}
	return nil
}

// uplinksOf are the links of the main table's default routes, the best route's first. A route of an ENI is not one of
// the node's: images that run a DHCP client on every link make them.
func uplinksOf(defaults []netlink.Route, isENI func(index int) bool) (indices []int) {
	for _, r := range slices.SortedStableFunc(slices.Values(defaults), func(a, b netlink.Route) int { return cmp.Compare(a.Priority, b.Priority) }) {
		if r.Table != tableMain {
			continue
		}
		for _, index := range linksOf(r) {
			if !isENI(index) && !slices.Contains(indices, index) {
				indices = append(indices, index)
			}
		}
	}
	return indices
}

// linksOf are the links of all paths of a route.
func linksOf(r netlink.Route) (indices []int) {
	if r.LinkIndex != 0 {
		return []int{r.LinkIndex}
	}
	for _, path := range r.MultiPath {
		indices = append(indices, path.LinkIndex)
	}
	return indices
}

func isDefault(dst *net.IPNet) bool {
	if dst == nil {
		return true
	}
	ones, _ := dst.Mask.Size()
	return ones == 0
}

func readRules(found *Found, f Family) error {
	all, err := netlinksafe.RuleList(f.kernel())
	if err != nil {
		return fmt.Errorf("list IPv%d rules: %w", f, err)
	}
	for _, r := range all {
		if r.Protocol == Protocol && r.Src == nil {
			found.Rules = append(found.Rules, Rule{
				Family: f, Priority: r.Priority, Table: r.Table, Mark: r.Mark, Mask: maskOf(r),
				SuppressPrefixLen: r.SuppressPrefixlen, SuppressIfGroup: r.SuppressIfgroup,
			})
		}
	}
	return nil
}

func maskOf(r netlink.Rule) uint32 {
	if r.Mask == nil {
		return 0
	}
	return *r.Mask
}

// readAddrs leaves out addresses that cannot be used (yet) because another machine may have them.
func readAddrs(wanted Wanted, found *Found) error {
	addrs, err := netlinksafe.AddrList(nil, netlink.FAMILY_ALL)
	if err != nil {
		return fmt.Errorf("list addresses: %w", err)
	}
	found.Addrs, found.Global = map[int][]netip.Prefix{}, map[int][]netip.Addr{}
	uplinks := found.uplinks()
	for _, a := range addrs {
		addr, ok := netip.AddrFromSlice(a.IP)
		link, known := found.link(func(l Link) bool { return l.Index == a.LinkIndex })
		if !ok || !known || a.Flags&(unix.IFA_F_TENTATIVE|unix.IFA_F_DADFAILED) != 0 {
			continue
		}
		bits, _ := a.Mask.Size()
		prefix := netip.PrefixFrom(addr.Unmap(), bits)
		if prefix.Addr().IsGlobalUnicast() {
			found.Global[link.Index] = append(found.Global[link.Index], prefix.Addr())
		}
		if link.Name == "lo" {
			found.Loopback = append(found.Loopback, prefix)
		}
		_, companion := link.companionSlot()
		eni := link.Group == LinkGroup || slices.ContainsFunc(wanted.ENIs, link.isOf) // a former one, too
		ofENI := eni && familyOf(prefix.Addr()) == IPv4 && (a.Scope == unix.RT_SCOPE_HOST || prefix.Addr() == noAddr)
		if companion || ofENI || slices.Contains(uplinks, link) {
			found.Addrs[link.Index] = append(found.Addrs[link.Index], prefix)
		}
	}
	return nil
}

// readStuck is for ENIs whose links carried no frames when the kernel was read last.
func readStuck(found *Found, absent []ENI) error {
	for _, e := range absent {
		link, ok := found.eniLink(e)
		if !ok || !link.Running {
			continue
		}
		neighbours, err := netlink.NeighList(link.Index, netlink.FAMILY_ALL)
		if err != nil {
			return fmt.Errorf("list neighbours of %s: %w", link.Name, err)
		}
		for _, n := range neighbours {
			if addr, ok := netip.AddrFromSlice(n.IP); ok && n.State&(netlink.NUD_INCOMPLETE|netlink.NUD_FAILED) != 0 {
				found.Stuck = append(found.Stuck, Neighbour{link.Index, addr.Unmap()})
			}
		}
	}
	return nil
}

// readSysctls leaves out keys that the kernel does not have.
func readSysctls(keys []string) (map[string]string, error) {
	values := make(map[string]string, len(keys))
	for _, key := range keys {
		raw, err := os.ReadFile(filepath.Join(sysctlRoot, key))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("read sysctl %s: %w", key, err)
		}
		values[key] = strings.TrimSpace(string(raw))
	}
	return values, nil
}

// apply makes every change that it can: the parts of the network do not depend on one another.
func apply(steps []Step, programs Programs, o *outcome) {
	for _, s := range steps {
		if err := applyOne(s.Op, programs); err != nil {
			o.add(s, fmt.Errorf("%s: %w", s, err))
		}
	}
}

func applyOne(op Op, programs Programs) error {
	switch o := op.(type) {
	case Attach:
		return programs.Attach(o.Role, o.Index)
	case Detach:
		return programs.Detach(o.Role, o.Index)
	case SetNode:
		return programs.SetNode(o)
	case SetNAT:
		return setNAT(o.NAT)
	case DeleteNAT:
		return deleteNAT()
	case SetRoute:
		return netlink.RouteReplace(kernelRoute(o.Route))
	case DeleteRoute:
		return ignore(netlink.RouteDel(kernelRoute(o.Route)), unix.ESRCH)
	case DeleteMainRoute:
		return ignore(netlink.RouteDel(kernelMainRoute(o.Route)), unix.ESRCH)
	case AddRule:
		return ignore(netlink.RuleAdd(kernelRule(o.Rule)), unix.EEXIST)
	case DeleteRule:
		return ignore(netlink.RuleDel(kernelRule(o.Rule)), unix.ENOENT)
	case Refuse:
		return o.Err
	default:
		return applyLink(op)
	}
}

// applyLink makes the changes to links, their addresses and settings.
func applyLink(op Op) error {
	switch o := op.(type) {
	case SetSysctl:
		return sysctl.Write(o.Key, o.Value)
	case SetGroup:
		return netlink.LinkSetGroup(byIndex(o.Link.Index), o.Group)
	case SetMTU:
		return netlink.LinkSetMTU(byIndex(o.Link.Index), o.MTU)
	case SetUp:
		return setUp(o.Link.Index)
	case SetNoARP:
		return netlink.LinkSetARPOff(byIndex(o.Link.Index))
	case DeleteNeighbour:
		n := netlink.Neigh{LinkIndex: o.Neighbour.Link, IP: o.Neighbour.Addr.AsSlice()}
		return ignore(netlink.NeighDel(&n), unix.ENOENT)
	case AddLoopback:
		return addLoopback(o.Addr)
	case AddCompanion:
		return addCompanion(o)
	case SetIPVlanPort:
		return setIPVlanPort(o.Link.Index, o.Port)
	case AddAddr:
		return ignore(netlink.AddrAdd(byIndex(o.Link.Index), kernelAddr(o.Addr)), unix.EEXIST)
	case DeleteAddr:
		return ignore(netlink.AddrDel(byIndex(o.Link.Index), kernelAddr(o.Addr)), unix.EADDRNOTAVAIL)
	case DeleteLink:
		return ignore(netlink.LinkDel(byIndex(o.Link.Index)), unix.ENODEV)
	default:
		panic(fmt.Sprintf("unknown op %T", op))
	}
}

// setUp asks for the link afterwards: since Linux 6.8 that carries out at once what else waits for up to a second
// (linkwatch_sync_dev), as IPv6 does, which gives the link its address then.
func setUp(index int) error {
	if err := netlink.LinkSetUp(byIndex(index)); err != nil {
		return err
	}
	_, err := netlink.LinkByIndex(index)
	return err
}

func byIndex(index int) netlink.Link {
	return &netlink.Device{LinkAttrs: netlink.LinkAttrs{Index: index}}
}

func kernelRoute(r Route) *netlink.Route {
	bits := r.Gateway.BitLen()
	return &netlink.Route{
		Table: r.Table, LinkIndex: r.Link, Gw: r.Gateway.AsSlice(), Protocol: Protocol,
		Flags: int(netlink.FLAG_ONLINK), Dst: &net.IPNet{IP: make(net.IP, bits/8), Mask: net.CIDRMask(0, bits)},
	}
}

func kernelMainRoute(r MainRoute) *netlink.Route {
	e := everything(r.Family)
	return &netlink.Route{
		Table: tableMain, LinkIndex: r.Link, Gw: r.Gateway.AsSlice(), Priority: r.Priority, Protocol: netlink.RouteProtocol(r.Protocol),
		Dst: &net.IPNet{IP: e.Addr().AsSlice(), Mask: net.CIDRMask(0, e.Addr().BitLen())}, Scope: netlink.SCOPE_NOWHERE,
	}
}

func kernelRule(r Rule) *netlink.Rule {
	k := netlink.NewRule()
	k.Family, k.Priority, k.Table, k.Protocol = r.Family.kernel(), r.Priority, r.Table, Protocol
	k.SuppressPrefixlen, k.SuppressIfgroup = r.SuppressPrefixLen, r.SuppressIfGroup
	if r.Mask != 0 {
		k.Mark, k.Mask = r.Mark, &r.Mask
	}
	return k
}

func addLoopback(addr netip.Prefix) error {
	lo, err := netlinksafe.LinkByName("lo")
	if err != nil {
		return err
	}
	if err := netlink.LinkSetUp(lo); err != nil {
		return err
	}
	a := kernelAddr(addr)
	if addr.Addr().Is6() {
		// Of a wide scope, but not to be chosen for what the node sends (RFC 6724, rule 3).
		a.ValidLft, a.PreferedLft = math.MaxUint32, 0
	}
	return ignore(netlink.AddrAdd(lo, a), unix.EEXIST)
}

// ignore drops an error that says that the change is made already.
func ignore(err, done error) error {
	if errors.Is(err, done) {
		return nil
	}
	return err
}
