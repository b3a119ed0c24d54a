package cloudlab

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"

	"github.com/nearpath/nearpath/test/netlab"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// An Internet is one host outside the VPC and the way there. Its methods may be called from any goroutine.
//
// The VPC's gateway lets out what it is told to, and does not translate: the host sees the address that a packet has when it
// comes to the gateway, which is what has an SNAT entry, an EIP or an IPv6 gateway's bandwidth there, or has not.
type Internet struct {
	NetNS *netlab.NetNS
	Addrs []netip.Addr // of the host, IPv4 first; RFC 5737 and RFC 3849 keep them out of use
	vpc   *netlab.NetNS
}

// internetRoutes is the routing table of the VPC that leads out, internetRule the priority of the rules that lead there.
const (
	internetRoutes = 77
	internetRule   = 100
)

var (
	internetMAC = net.HardwareAddr{0x02, 0, 0, 0, 0x77, 0x01}
	gatewayMAC  = net.HardwareAddr{0x02, 0, 0, 0, 0x77, 0x02}
)

// Internet makes a host outside, in a namespace of the lab called internet. Nothing is let out yet.
func (c *Cloud) Internet() (*Internet, error) {
	outside, err := c.lab.NetNS("internet")
	if err != nil {
		return nil, err
	}
	i := &Internet{
		NetNS: outside, vpc: c.vpc,
		Addrs: []netip.Addr{netip.MustParseAddr("203.0.113.10"), netip.MustParseAddr("2001:db8:ffff::10")},
	}
	target, err := os.Open(outside.Path())
	if err != nil {
		return nil, err
	}
	defer target.Close()
	err = c.vpc.Do(func() error {
		pair := &netlink.Veth{
			LinkAttrs: netlink.LinkAttrs{Name: "internet", HardwareAddr: gatewayMAC, TxQLen: -1},
			PeerName:  "eth0", PeerHardwareAddr: internetMAC, PeerNamespace: netlink.NsFd(int(target.Fd())), //nolint:gosec // a descriptor fits
		}
		if err := netlink.LinkAdd(pair); err != nil {
			return fmt.Errorf("link the VPC and the internet: %w", err)
		}
		return i.connectGateway(pair)
	})
	if err == nil {
		err = outside.Do(i.connectHost)
	}
	if err != nil {
		return nil, fmt.Errorf("make the internet: %w", err)
	}
	return i, nil
}

// connectGateway runs in the VPC.
func (i *Internet) connectGateway(link netlink.Link) error {
	if err := setSysctls("ipv4/conf/internet/rp_filter=0", "ipv6/conf/internet/disable_ipv6=0", "ipv6/conf/internet/forwarding=1"); err != nil {
		return err
	}
	if err := netlink.LinkSetUp(link); err != nil {
		return err
	}
	index := link.Attrs().Index
	for _, a := range i.Addrs {
		if err := neighbour(index, a, internetMAC); err != nil {
			return err
		}
		route := &netlink.Route{LinkIndex: index, Dst: host(a), Table: internetRoutes}
		if a.Is4() {
			route.Scope = netlink.SCOPE_LINK
		}
		if err := netlink.RouteAdd(route); err != nil {
			return fmt.Errorf("route %s: %w", a, err)
		}
	}
	return nil
}

// connectHost runs on the internet.
func (i *Internet) connectHost() error {
	if err := setSysctls("ipv6/conf/all/disable_ipv6=0", "ipv6/conf/eth0/disable_ipv6=0", "ipv4/conf/all/rp_filter=0", "ipv4/conf/eth0/rp_filter=0"); err != nil {
		return err
	}
	link, err := netlink.LinkByName("eth0")
	if err != nil {
		return err
	}
	if err := netlink.LinkSetUp(link); err != nil {
		return err
	}
	index := link.Attrs().Index
	for n, gateway := range []netip.Addr{netip.MustParseAddr("203.0.113.1"), netip.MustParseAddr("2001:db8:ffff::1")} {
		if err := netlink.AddrAdd(link, &netlink.Addr{IPNet: host(i.Addrs[n]), Flags: unix.IFA_F_NODAD}); err != nil {
			return fmt.Errorf("add %s: %w", i.Addrs[n], err)
		}
		if err := neighbour(index, gateway, gatewayMAC); err != nil {
			return err
		}
		route := &netlink.Route{LinkIndex: index, Gw: gateway.AsSlice(), Flags: int(netlink.FLAG_ONLINK)}
		if err := netlink.RouteAdd(route); err != nil {
			return fmt.Errorf("route everything to %s: %w", gateway, err)
		}
	}
	return nil
}

// LetOut makes the gateway pass on what comes from the network.
func (i *Internet) LetOut(from netip.Prefix) error {
	return i.vpc.Do(func() error { return ignoreExist(netlink.RuleAdd(letOut(from))) })
}

// KeepIn takes LetOut back.
func (i *Internet) KeepIn(from netip.Prefix) error {
	return i.vpc.Do(func() error { return netlink.RuleDel(letOut(from)) })
}

func letOut(from netip.Prefix) *netlink.Rule {
	r := netlink.NewRule()
	r.Priority, r.Table = internetRule, internetRoutes
	r.Family = netlink.FAMILY_V4
	if from.Addr().Is6() {
		r.Family = netlink.FAMILY_V6
	}
	r.Src = &net.IPNet{IP: from.Addr().AsSlice(), Mask: net.CIDRMask(from.Bits(), from.Addr().BitLen())}
	return r
}

func ignoreExist(err error) error {
	if errors.Is(err, unix.EEXIST) {
		return nil
	}
	return err
}

func host(a netip.Addr) *net.IPNet {
	return &net.IPNet{IP: a.AsSlice(), Mask: net.CIDRMask(a.BitLen(), a.BitLen())}
}

// neighbour saves asking for a MAC address that is known.
func neighbour(link int, a netip.Addr, mac net.HardwareAddr) error {
	family := netlink.FAMILY_V4
	if a.Is6() {
		family = netlink.FAMILY_V6
	}
	err := netlink.NeighSet(&netlink.Neigh{LinkIndex: link, Family: family, State: netlink.NUD_PERMANENT, IP: a.AsSlice(), HardwareAddr: mac})
	if err != nil {
		return fmt.Errorf("add neighbour %s: %w", a, err)
	}
	return nil
}
