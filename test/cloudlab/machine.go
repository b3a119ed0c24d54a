package cloudlab

import (
	"context"
	"fmt"
	"math"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"

	"github.com/nearpath/nearpath/internal/aliyun/sim"
	"github.com/nearpath/nearpath/test/netlab"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// A Machine is an instance and the network namespace that is its network stack.
type Machine struct {
	ID    string
	Addr  netip.Addr // IPv4
	Addr6 netip.Addr // with Options.IPv6, else the zero Addr
	NetNS *netlab.NetNS
}

// Addrs are the machine's addresses, IPv4 first.
func (m Machine) Addrs() []netip.Addr {
	if !m.Addr6.IsValid() {
		return []netip.Addr{m.Addr}
	}
	return []netip.Addr{m.Addr, m.Addr6}
}

// Machine runs an instance whose network stack is a new namespace of the lab with the given name.
func (c *Cloud) Machine(ctx context.Context, name string) (Machine, error) {
	ns, err := c.lab.NetNS(name)
	if err != nil {
		return Machine{}, err
	}
	spec := sim.InstanceSpec{Type: c.instanceType, VSwitchID: sim.DefaultNodeVSwitch, NetNS: ns.Path()}
	if c.subnet6.IsValid() {
		spec.IPv6s = 1
		// A new namespace may have inherited the setting of the host.
		if err := ns.Do(func() error {
			return setSysctls("ipv6/conf/all/disable_ipv6=0", "ipv6/conf/default/disable_ipv6=0", "ipv6/conf/lo/disable_ipv6=0")
		}); err != nil {
			return Machine{}, err
		}
	}
	instance, eni, err := c.sim.RunInstance(ctx, spec)
	if err != nil {
		return Machine{}, fmt.Errorf("run an instance for %s: %w", name, err)
	}
	m := Machine{ID: instance.ID, Addr: eni.PrimaryIP, NetNS: ns}
	if c.subnet6.IsValid() {
		m.Addr6 = eni.IPv6s[0]
		if err := ns.Do(func() error { return c.bootIPv6(m.Addr6) }); err != nil {
			return Machine{}, fmt.Errorf("give %s its IPv6 address: %w", name, err)
		}
	}
	return m, nil
}

// bootIPv6 does what the operating system of an instance does with the IPv6 address that the metadata service tells.
func (c *Cloud) bootIPv6(addr netip.Addr) error {
	link, err := netlink.LinkByName("eth0")
	if err != nil {
		return err
	}
	own := &netlink.Addr{IPNet: host(addr), Flags: unix.IFA_F_NODAD}
	own.Mask = net.CIDRMask(c.subnet6.Bits(), 128)
	if err := netlink.AddrAdd(link, own); err != nil {
		return fmt.Errorf("add %s: %w", addr, err)
	}
	gateway := gatewayOf(c.subnet6)
	if err := netlink.RouteAdd(&netlink.Route{LinkIndex: link.Attrs().Index, Gw: gateway.AsSlice()}); err != nil {
		return fmt.Errorf("route everything to %s: %w", gateway, err)
	}
	return nil
}

// SecondENI attaches an ENI to the machine that is not the agent's, and does what the owner of such a machine does: the link
// has its addresses, and what is sent from them leaves by it. The Machine is the same one by these addresses.
func (c *Cloud) SecondENI(m Machine) (Machine, error) {
	ipv6s := 0
	if m.Addr6.IsValid() {
		ipv6s = 1
	}
	eni, err := c.sim.AttachNew(m.ID, sim.DefaultPodVSwitch, ipv6s)
	if err != nil {
		return Machine{}, err
	}
	second := Machine{ID: m.ID, Addr: eni.PrimaryIP, NetNS: m.NetNS}
	gateways := []netip.Addr{gatewayOf(c.second.CIDR)}
	if ipv6s > 0 {
		second.Addr6 = eni.IPv6s[0]
		gateways = append(gateways, gatewayOf(c.second.IPv6CIDR))
	}
	err = m.NetNS.Do(func() error { return bootSecond(eni.MAC, second.Addrs(), gateways) })
	if err != nil {
		return Machine{}, fmt.Errorf("set up the second ENI of %s: %w", m.ID, err)
	}
	return second, nil
}

// RouteTo sends addresses that are nobody's to the machine's first ENI, as a route of the VPC does, whose next hop may send with
// any source.
func (c *Cloud) RouteTo(m Machine, addrs ...netip.Addr) error {
	for _, e := range c.sim.ENIs() {
		if e.PrimaryIP == m.Addr {
			return c.fabric.AddAddrs(e.ID, addrs)
		}
	}
	return fmt.Errorf("route %v to %s: no ENI has %s", addrs, m.ID, m.Addr)
}

// secondRoutes is the routing table of a machine's second ENI.
const secondRoutes = 102

// secondRule comes before the agent's rules, as those of a machine's distribution do.
const secondRule = 1000

// bootSecond runs on the machine. Each address is alone on the link: the way to its vSwitch stays as it was.
func bootSecond(mac string, addrs, gateways []netip.Addr) error {
	links, err := netlink.LinkList()
	if err != nil {
		return err
	}
	i := slices.IndexFunc(links, func(l netlink.Link) bool { return l.Attrs().HardwareAddr.String() == mac })
	if i < 0 {
		return fmt.Errorf("no link has the address %s", mac)
	}
	index := links[i].Attrs().Index
	if err := netlink.LinkSetUp(links[i]); err != nil {
		return err
	}
	for n, a := range addrs {
		addr := &netlink.Addr{IPNet: host(a), Flags: unix.IFA_F_NODAD}
		if a.Is6() { // not the machine's choice for what it sends to the vSwitch (RFC 6724, rule 8)
			addr.ValidLft, addr.PreferedLft = math.MaxUint32, 0
		}
		if err := netlink.AddrAdd(links[i], addr); err != nil {
			return fmt.Errorf("add %s: %w", a, err)
		}
		out := &netlink.Route{LinkIndex: index, Gw: gateways[n].AsSlice(), Table: secondRoutes, Flags: int(netlink.FLAG_ONLINK)}
		if err := netlink.RouteAdd(out); err != nil {
			return fmt.Errorf("route everything to %s: %w", gateways[n], err)
		}
		from := netlink.NewRule()
		from.Table, from.Src, from.Family, from.Priority = secondRoutes, host(a), netlink.FAMILY_V4, secondRule
		if a.Is6() {
			from.Family = netlink.FAMILY_V6
		}
		if err := netlink.RuleAdd(from); err != nil {
			return fmt.Errorf("route from %s: %w", a, err)
		}
	}
	return nil
}

// gatewayOf is the third last address of a vSwitch, see the package sim.
func gatewayOf(subnet netip.Prefix) netip.Addr {
	last := subnet.Masked().Addr().AsSlice()
	for bit := subnet.Bits(); bit < 8*len(last); bit++ {
		last[bit/8] |= 0x80 >> (bit % 8)
	}
	last[len(last)-1] -= 2
	gateway, _ := netip.AddrFromSlice(last)
	return gateway
}

// setSysctls writes settings of the form path=value below /proc/sys/net of the calling thread's namespace.
func setSysctls(settings ...string) error {
	for _, s := range settings {
		key, value, _ := strings.Cut(s, "=")
		if err := os.WriteFile("/proc/sys/net/"+key, []byte(value), 0o644); err != nil {
			return fmt.Errorf("set %s to %s: %w", key, value, err)
		}
	}
	return nil
}
