package sim

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// maxENINames bounds the search for a free name in the instance.
const maxENINames = 64

// portMAC is the address of the VPC's side of every link, which is what the real VPC answers ARP with.
const portMAC = "ee:ff:ff:ff:ff:ff"

// carrierTimeout is far longer than the kernel takes to start the queue of a link.
const carrierTimeout = 5 * time.Second

// mtu of the real VPC's links.
const mtu = 1500

// A vport is the VPC's side of an ENI. Its methods run in the VPC's namespace, with op held.
type vport struct {
	name  string
	guard SourceGuard
	ndp   *neighbours
	ipv6  bool
	spec  Port
	index atomic.Int32 // of the link; zero before create

	op    sync.Mutex // guards the fields below, and orders what is done with the link
	gone  bool       // unplugged
	mac   net.HardwareAddr
	addrs []netip.Addr // routed or on the way
}

// create makes the pair and returns the name of the instance's side. The instance's side is made in its namespace, with
// its final name: nobody sees it elsewhere or under another one.
func (p *vport) create(port Port) (string, error) {
	mac, err := net.ParseMAC(port.MAC)
	if err != nil {
		return "", fmt.Errorf("read the MAC: %w", err)
	}
	p.mac = mac
	own, err := net.ParseMAC(portMAC)
	if err != nil {
		return "", fmt.Errorf("read the MAC of the port: %w", err)
	}
	target, err := netns.GetFromPath(port.NetNS)
	if err != nil {
		return "", fmt.Errorf("open network namespace %s: %w", port.NetNS, err)
	}
	defer target.Close()
	veth := &netlink.Veth{
		LinkAttrs:        netlink.LinkAttrs{Name: p.name, HardwareAddr: own, MTU: mtu, TxQLen: -1},
		PeerHardwareAddr: mac, PeerNamespace: netlink.NsFd(int(target)), PeerMTU: mtu,
	}
	first, last := 1, maxENINames
	if port.Primary {
		first, last = 0, 0
	}
	for i := first; i <= last; i++ {
		veth.PeerName = fmt.Sprintf("eth%d", i)
		if err = netlink.LinkAdd(veth); err == nil {
			return veth.PeerName, p.find(port.ENIID)
		}
		if !errors.Is(err, unix.EEXIST) {
			break
		}
	}
	return "", fmt.Errorf("add the link pair %s and %s: %w", p.name, veth.PeerName, err)
}

func (p *vport) find(eniID string) error {
	link, err := netlink.LinkByName(p.name)
	if err != nil {
		return fmt.Errorf("find link %s: %w", p.name, err)
	}
	p.index.Store(int32(link.Attrs().Index)) //nolint:gosec // the kernel's type is int
	if err := netlink.LinkSetAlias(link, eniID); err != nil {
		return fmt.Errorf("name link %s after %s: %w", p.name, eniID, err)
	}
	return nil
}

// open makes the port carry traffic of the ENI's addresses. The guard is on before the link is up.
func (p *vport) open(addrs []netip.Addr) error {
	if err := p.setSysctls(); err != nil {
		return err
	}
	if err := p.guard.Attach(p.ifindex()); err != nil {
		return err
	}
	for _, a := range p.unrouted() {
		if err := p.guard.Allow(p.ifindex(), a); err != nil {
			return err
		}
	}
	if err := netlink.LinkSetUp(p.link()); err != nil {
		return fmt.Errorf("set link %s up: %w", p.name, err)
	}
	if p.ipv6 {
		if err := p.ndp.addPort(p.ifindex()); err != nil {
			return err
		}
	}
	for _, a := range addrs {
		if err := p.addAddr(a); err != nil {
			return err
		}
	}
	return nil
}

func (p *vport) setSysctls() error {
	settings := [][2]string{
		{filepath.Join("ipv4/conf", p.name, "rp_filter"), "0"},
		{filepath.Join("ipv4/conf", p.name, "forwarding"), "1"},
		{filepath.Join("ipv4/conf", p.name, "proxy_arp"), "1"},
		{filepath.Join("ipv4/conf", p.name, "send_redirects"), "0"},
		// By default the kernel waits up to 0.8 s before it answers for another.
		{filepath.Join("ipv4/neigh", p.name, "proxy_delay"), "0"},
	}
	if p.ipv6 {
		settings = append(settings, [][2]string{
			{filepath.Join("ipv6/conf", p.name, "forwarding"), "1"},
			{filepath.Join("ipv6/conf", p.name, "proxy_ndp"), "1"},
			{filepath.Join("ipv6/conf", p.name, "accept_dad"), "0"}, // its address answers at once
			{filepath.Join("ipv6/neigh", p.name, "proxy_delay"), "0"},
		}...)
	}
	for _, s := range settings {
		if err := setSysctl(s[0], s[1]); err != nil {
			return err
		}
	}
	return nil
}

// unrouted are sources that are no address of the ENI and yet its own: IPv6 asks for neighbours with the link-local
// address that follows from the MAC (RFC 4291, appendix A), and with none at all before it has one.
func (p *vport) unrouted() []netip.Addr {
	if !p.ipv6 {
		return nil
	}
	m := p.mac
	return []netip.Addr{
		netip.IPv6Unspecified(),
		netip.AddrFrom16([16]byte{0: 0xfe, 1: 0x80, 8: m[0] ^ 2, 9: m[1], 10: m[2], 11: 0xff, 12: 0xfe, 13: m[3], 14: m[4], 15: m[5]}),
	}
}

// addAddr lets the address in and routes it to the instance.
func (p *vport) addAddr(a netip.Addr) error {
	p.addrs = append(p.addrs, a)
	if err := p.guard.Allow(p.ifindex(), a); err != nil {
		return err
	}
	if err := netlink.NeighSet(p.neigh(a)); err != nil {
		return fmt.Errorf("add neighbour %s on %s: %w", a, p.name, err)
	}
	if err := netlink.RouteReplace(p.route(a)); err != nil {
		return fmt.Errorf("route %s to %s: %w", a, p.name, err)
	}
	if a.Is6() {
		return p.ndp.addAddr(a, p.ifindex())
	}
	return nil
}

// removeAddrs undoes addAddr, whole or in part.
func (p *vport) removeAddrs(addrs []netip.Addr) error {
	var errs []error
	for _, a := range addrs {
		if a.Is6() {
			errs = append(errs, p.ndp.removeAddr(a))
		}
		errs = append(errs,
			ignoreGone(netlink.RouteDel(p.route(a)), "remove the route of", a),
			ignoreGone(netlink.NeighDel(p.neigh(a)), "remove neighbour", a),
			p.guard.Deny(p.ifindex(), a))
	}
	p.addrs = slices.DeleteFunc(p.addrs, func(a netip.Addr) bool { return slices.Contains(addrs, a) })
	return errors.Join(errs...)
}

// remove takes the pair away; the kernel takes routes and neighbours with it. It may be gone already.
func (p *vport) remove() error {
	if p.ifindex() == 0 {
		return nil
	}
	var errs []error
	for _, a := range slices.Concat(p.addrs, p.unrouted()) {
		if a.Is6() {
			errs = append(errs, p.ndp.removeAddr(a))
		}
		errs = append(errs, p.guard.Deny(p.ifindex(), a))
	}
	p.addrs = nil
	p.ndp.removePort(p.ifindex())
	errs = append(errs, p.guard.Detach(p.ifindex()))
	link, err := netlink.LinkByName(p.name)
	if err == nil {
		err = netlink.LinkDel(link)
	}
	if _, gone := errors.AsType[netlink.LinkNotFoundError](err); err != nil && !gone && !errors.Is(err, unix.ENODEV) {
		errs = append(errs, fmt.Errorf("delete link %s: %w", p.name, err))
	}
	p.index.Store(0)
	return errors.Join(errs...)
}

func (p *vport) ifindex() int { return int(p.index.Load()) }

func (p *vport) link() netlink.Link {
	return &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: p.name, Index: p.ifindex()}}
}

func (p *vport) route(a netip.Addr) *netlink.Route {
	r := &netlink.Route{LinkIndex: p.ifindex(), Dst: ipNet(netip.PrefixFrom(a, a.BitLen()))}
	if a.Is4() {
		r.Scope = netlink.SCOPE_LINK // IPv6 has no scopes
	}
	return r
}

func (p *vport) neigh(a netip.Addr) *netlink.Neigh {
	return &netlink.Neigh{
		LinkIndex: p.ifindex(), Family: netlinkFamily(a), State: netlink.NUD_PERMANENT, IP: a.AsSlice(), HardwareAddr: p.mac,
	}
}

func netlinkFamily(a netip.Addr) int {
	if a.Is4() {
		return netlink.FAMILY_V4
	}
	return netlink.FAMILY_V6
}

// ignoreGone wraps an error unless it says that the object or its link does not exist.
func ignoreGone(err error, op string, a netip.Addr) error {
	if err == nil || errors.Is(err, unix.ESRCH) || errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENODEV) {
		return nil
	}
	return fmt.Errorf("%s %s: %w", op, a, err)
}

// bootPrimary does what the operating system of an instance does at boot, with IPv4 alone: IPv6 it would have to ask the
// metadata service for. It runs in the instance's namespace.
func bootPrimary(name string, p Port) error {
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return fmt.Errorf("find lo: %w", err)
	}
	if err := netlink.LinkSetUp(lo); err != nil {
		return fmt.Errorf("set lo up: %w", err)
	}
	link, err := netlink.LinkByName(name)
	if err != nil {
		return fmt.Errorf("find %s: %w", name, err)
	}
	addr := &netlink.Addr{IPNet: ipNet(netip.PrefixFrom(p.Addrs[0], p.Nets[0].Subnet.Bits()))}
	if err := netlink.AddrAdd(link, addr); err != nil {
		return fmt.Errorf("add %s to %s: %w", p.Addrs[0], name, err)
	}
	if err := netlink.LinkSetUp(link); err != nil {
		return fmt.Errorf("set %s up: %w", name, err)
	}
	route := &netlink.Route{LinkIndex: link.Attrs().Index, Gw: p.Nets[0].Gateway.AsSlice()}
	if err := netlink.RouteAdd(route); err != nil {
		return fmt.Errorf("route everything to %s: %w", p.Nets[0].Gateway, err)
	}
	return waitOperational(name)
}

// waitOperational waits until a link whose both ends are up passes frames. The kernel starts its queue a moment after the
// carrier came, and drops what is sent before.
func waitOperational(name string) error {
	for start := time.Now(); ; time.Sleep(time.Millisecond) {
		link, err := netlink.LinkByName(name)
		if err != nil {
			return fmt.Errorf("find %s: %w", name, err)
		}
		if link.Attrs().OperState == netlink.OperUp {
			return nil
		}
		if time.Since(start) > carrierTimeout {
			return fmt.Errorf("wait for %s: it is %s", name, link.Attrs().OperState)
		}
	}
}
