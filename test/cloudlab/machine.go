package cloudlab

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
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
	gateway := gateway6(c.subnet6)
	if err := netlink.RouteAdd(&netlink.Route{LinkIndex: link.Attrs().Index, Gw: gateway.AsSlice()}); err != nil {
		return fmt.Errorf("route everything to %s: %w", gateway, err)
	}
	return nil
}

// gateway6 is the third last address of a vSwitch, see the package sim.
func gateway6(subnet netip.Prefix) netip.Addr {
	last := subnet.Masked().Addr().As16()
	for bit := subnet.Bits(); bit < 128; bit++ {
		last[bit/8] |= 0x80 >> (bit % 8)
	}
	last[15] -= 2
	return netip.AddrFrom16(last)
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
