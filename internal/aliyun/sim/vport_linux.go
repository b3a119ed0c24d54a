package sim

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"path/filepath"
	"slices"
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

// A vport is the VPC's side of an ENI. Its methods run in the VPC's namespace and never at once.
type vport struct {
	name  string
	guard SourceGuard

	index int // of the link; zero before create
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
	p.index = link.Attrs().Index
	if err := netlink.LinkSetAlias(link, eniID); err != nil {
		return fmt.Errorf("name link %s after %s: %w", p.name, eniID, err)
	}
	return nil
}

// open makes the port carry traffic of the ENI's addresses. The guard is on before the link is up.
func (p *vport) open(port Port) error {
	for key, value := range map[string]string{
		"rp_filter":      "0",
		"forwarding":     "1",
		"proxy_arp":      "1",
		"send_redirects": "0",
	} {
		if err := setSysctl(filepath.Join("conf", p.name, key), value); err != nil {
			return err
		}
	}
	// By default the kernel waits up to 0.8 s before it answers for another.
	if err := setSysctl(filepath.Join("neigh", p.name, "proxy_delay"), "0"); err != nil {
		return err
	}
	if err := p.guard.Attach(p.index); err != nil {
		return err
	}
	if err := netlink.LinkSetUp(p.link()); err != nil {
		return fmt.Errorf("set link %s up: %w", p.name, err)
	}
	for _, a := range port.Addrs {
		if err := p.addAddr(a); err != nil {
			return err
		}
	}
	return nil
}

// addAddr lets the address in and routes it to the instance.
func (p *vport) addAddr(a netip.Addr) error {
	p.addrs = append(p.addrs, a)
	if err := p.guard.Allow(p.index, a); err != nil {
		return err
	}
	if err := netlink.NeighSet(p.neigh(a)); err != nil {
		return fmt.Errorf("add neighbour %s on %s: %w", a, p.name, err)
	}
	if err := netlink.RouteReplace(p.route(a)); err != nil {
		return fmt.Errorf("route %s to %s: %w", a, p.name, err)
	}
	return nil
}

// removeAddrs undoes addAddr, whole or in part.
func (p *vport) removeAddrs(addrs []netip.Addr) error {
	var errs []error
	for _, a := range addrs {
		errs = append(errs,
			ignoreGone(netlink.RouteDel(p.route(a)), "remove the route of", a),
			ignoreGone(netlink.NeighDel(p.neigh(a)), "remove neighbour", a),
			p.guard.Deny(p.index, a))
	}
	p.addrs = slices.DeleteFunc(p.addrs, func(a netip.Addr) bool { return slices.Contains(addrs, a) })
	return errors.Join(errs...)
}

// remove takes the pair away; the kernel takes routes and neighbours with it. It may be gone already.
func (p *vport) remove() error {
	if p.index == 0 {
		return nil
	}
	var errs []error
	for _, a := range p.addrs {
		errs = append(errs, p.guard.Deny(p.index, a))
	}
	errs = append(errs, p.guard.Detach(p.index))
	link, err := netlink.LinkByName(p.name)
	if err == nil {
		err = netlink.LinkDel(link)
	}
	if _, gone := errors.AsType[netlink.LinkNotFoundError](err); err != nil && !gone && !errors.Is(err, unix.ENODEV) {
		errs = append(errs, fmt.Errorf("delete link %s: %w", p.name, err))
	}
	return errors.Join(errs...)
}

func (p *vport) link() netlink.Link {
	return &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: p.name, Index: p.index}}
}

func (p *vport) route(a netip.Addr) *netlink.Route {
	return &netlink.Route{LinkIndex: p.index, Dst: ipNet(netip.PrefixFrom(a, 32)), Scope: netlink.SCOPE_LINK}
}

func (p *vport) neigh(a netip.Addr) *netlink.Neigh {
	return &netlink.Neigh{
		LinkIndex: p.index, Family: netlink.FAMILY_V4, State: netlink.NUD_PERMANENT, IP: a.AsSlice(), HardwareAddr: p.mac,
	}
}

// ignoreGone wraps an error unless it says that the object or its link does not exist.
func ignoreGone(err error, op string, a netip.Addr) error {
	if err == nil || errors.Is(err, unix.ESRCH) || errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENODEV) {
		return nil
	}
	return fmt.Errorf("%s %s: %w", op, a, err)
}

// bootPrimary does what the operating system of an instance does at boot. It runs in the instance's namespace.
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
	addr := &netlink.Addr{IPNet: ipNet(netip.PrefixFrom(p.Addrs[0], p.Subnet.Bits()))}
	if err := netlink.AddrAdd(link, addr); err != nil {
		return fmt.Errorf("add %s to %s: %w", p.Addrs[0], name, err)
	}
	if err := netlink.LinkSetUp(link); err != nil {
		return fmt.Errorf("set %s up: %w", name, err)
	}
	route := &netlink.Route{LinkIndex: link.Attrs().Index, Gw: p.Gateway.AsSlice()}
	if err := netlink.RouteAdd(route); err != nil {
		return fmt.Errorf("route everything to %s: %w", p.Gateway, err)
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
