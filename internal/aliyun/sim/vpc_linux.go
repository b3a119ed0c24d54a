package sim

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"sync"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// VPCConfig is what NewVPC needs.
type VPCConfig struct {
	// NetNS is the path of an existing network namespace that becomes the VPC. The VPC has it for itself.
	NetNS string
	// Guard drops what an ENI sends with a source that is not its own; nil: nothing is dropped. The VPC does not close it.
	Guard SourceGuard
	// Addrs are further addresses the VPC answers on, beside MetadataAddr: name servers, for one.
	Addrs  []netip.Addr
	Logger *slog.Logger // nil: discard
}

// A VPC is a Fabric of real links, in a network namespace that routes between them. Each ENI is a veth pair: one end is
// the instance's, the other, the port, stays in the VPC. The VPC routes every private address to its port and answers
// ARP for all of them on every port, so what an instance sends to a neighbour of its vSwitch is routed too, as in the
// real VPC. Methods are safe for concurrent use.
type VPC struct {
	netns string
	guard SourceGuard
	log   *slog.Logger

	mu    sync.Mutex // guards the fields below
	seq   int
	ports map[string]*vport // by ENI ID
}

// NewVPC prepares the namespace: forwarding, and the addresses the VPC itself answers on.
func NewVPC(cfg VPCConfig) (*VPC, error) {
	v := &VPC{netns: cfg.NetNS, guard: cfg.Guard, log: cfg.Logger, ports: map[string]*vport{}}
	if v.log == nil {
		v.log = slog.New(slog.DiscardHandler)
	}
	if v.guard == nil {
		v.guard = noGuard{}
	}
	err := inNetNS(v.netns, func() error {
		if err := routeEverything(); err != nil {
			return err
		}
		for _, a := range append([]netip.Addr{MetadataAddr}, cfg.Addrs...) {
			if err := addLocalAddr(a); err != nil {
				return err
			}
		}
		return dropUnrouted()
	})
	if err != nil {
		return nil, fmt.Errorf("prepare the VPC in %s: %w", cfg.NetNS, err)
	}
	return v, nil
}

// routeEverything makes the namespace a router that does not judge sources; that is the guard's part. A new namespace may
// have inherited settings of the host.
func routeEverything() error {
	for _, s := range [][2]string{
		{"ip_forward", "1"},
		{"conf/all/rp_filter", "0"}, // the larger of "all" and the link's counts
		{"conf/default/rp_filter", "0"},
		{"conf/all/send_redirects", "0"},
		{"conf/default/send_redirects", "0"},
	} {
		if err := setSysctl(s[0], s[1]); err != nil {
			return err
		}
	}
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return fmt.Errorf("find lo: %w", err)
	}
	if err := netlink.LinkSetUp(lo); err != nil {
		return fmt.Errorf("set lo up: %w", err)
	}
	return nil
}

// dropUnrouted makes the VPC swallow what it has no route for, without an ICMP error, as the real one does. The metric is
// the largest, so that any other default route goes before it.
func dropUnrouted() error {
	_, everywhere, err := net.ParseCIDR("0.0.0.0/0")
	if err != nil {
		return fmt.Errorf("parse the default route: %w", err)
	}
	err = netlink.RouteReplace(&netlink.Route{Dst: everywhere, Type: unix.RTN_BLACKHOLE, Priority: 1<<31 - 1})
	if err != nil {
		return fmt.Errorf("add the blackhole route: %w", err)
	}
	return nil
}

func addLocalAddr(a netip.Addr) error {
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return fmt.Errorf("find lo: %w", err)
	}
	if err := netlink.AddrReplace(lo, &netlink.Addr{IPNet: ipNet(netip.PrefixFrom(a, 32))}); err != nil {
		return fmt.Errorf("add %s to lo: %w", a, err)
	}
	return nil
}

// AddVSwitch implements Fabric.
func (v *VPC) AddVSwitch(_ netip.Prefix, gateway netip.Addr) error {
	return inNetNS(v.netns, func() error { return addLocalAddr(gateway) })
}

// Plug implements Fabric. The ENI appears in the instance as eth0 if it is primary, with its primary address, up and
// with a default route; else under the first free name from eth1 on, down and without an address.
func (v *VPC) Plug(p Port) error {
	v.mu.Lock()
	if v.ports[p.ENIID] != nil {
		v.mu.Unlock()
		return fmt.Errorf("plug %s: it is plugged", p.ENIID)
	}
	v.seq++
	port := &vport{name: fmt.Sprintf("vport%d", v.seq), guard: v.guard}
	v.ports[p.ENIID] = port // reserves the ID; calls about one ENI do not overlap
	v.mu.Unlock()

	err := v.plug(port, p)
	if err == nil {
		return nil
	}
	if undo := v.Unplug(p.ENIID); undo != nil {
		v.log.Error("undo of a failed plug failed", "eni", p.ENIID, "err", undo)
	}
	return fmt.Errorf("plug %s into %s: %w", p.ENIID, p.NetNS, err)
}

func (v *VPC) plug(port *vport, p Port) error {
	var name string
	err := inNetNS(v.netns, func() (err error) {
		if name, err = port.create(p); err != nil {
			return err
		}
		return port.open(p)
	})
	if err != nil {
		return err
	}
	if p.Primary {
		if err := inNetNS(p.NetNS, func() error { return bootPrimary(name, p) }); err != nil {
			return err
		}
		if err := inNetNS(v.netns, func() error { return waitOperational(port.name) }); err != nil {
			return err
		}
	}
	v.log.Info("ENI plugged", "eni", p.ENIID, "netns", p.NetNS, "ifname", name, "port", port.name)
	return nil
}

// Unplug implements Fabric. The link may have gone with the namespace of the instance.
func (v *VPC) Unplug(eniID string) error {
	v.mu.Lock()
	port := v.ports[eniID]
	v.mu.Unlock()
	if port == nil {
		return nil
	}
	if err := inNetNS(v.netns, port.remove); err != nil {
		return fmt.Errorf("unplug %s: %w", eniID, err)
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	delete(v.ports, eniID)
	return nil
}

// AddAddrs implements Fabric.
func (v *VPC) AddAddrs(eniID string, addrs []netip.Addr) error {
	return v.change(eniID, func(port *vport) error {
		for i, a := range addrs {
			if err := port.addAddr(a); err != nil {
				return errors.Join(err, port.removeAddrs(addrs[:i+1]))
			}
		}
		return nil
	})
}

// RemoveAddrs implements Fabric.
func (v *VPC) RemoveAddrs(eniID string, addrs []netip.Addr) error {
	return v.change(eniID, func(port *vport) error { return port.removeAddrs(addrs) })
}

func (v *VPC) change(eniID string, fn func(*vport) error) error {
	v.mu.Lock()
	port := v.ports[eniID]
	v.mu.Unlock()
	if port == nil {
		return fmt.Errorf("change addresses of %s: it is not plugged", eniID)
	}
	if err := inNetNS(v.netns, func() error { return fn(port) }); err != nil {
		return fmt.Errorf("change addresses of %s: %w", eniID, err)
	}
	return nil
}

// Dropped counts the frames of the ENI that the guard dropped.
func (v *VPC) Dropped(eniID string) (uint64, error) {
	v.mu.Lock()
	port := v.ports[eniID]
	v.mu.Unlock()
	if port == nil {
		return 0, fmt.Errorf("count drops of %s: it is not plugged", eniID)
	}
	return v.guard.Dropped(port.index)
}

// Listen opens a listener inside the VPC, for services that instances reach: the metadata service at MetadataAddr, the
// API.
func (v *VPC) Listen(ctx context.Context, network, address string) (net.Listener, error) {
	var l net.Listener
	err := inNetNS(v.netns, func() (err error) {
		l, err = new(net.ListenConfig).Listen(ctx, network, address)
		return err
	})
	return l, err
}

// ListenPacket is Listen for datagrams.
func (v *VPC) ListenPacket(ctx context.Context, network, address string) (net.PacketConn, error) {
	var pc net.PacketConn
	err := inNetNS(v.netns, func() (err error) {
		pc, err = new(net.ListenConfig).ListenPacket(ctx, network, address)
		return err
	})
	return pc, err
}

// Close unplugs every ENI. The namespace stays, with its addresses on lo.
func (v *VPC) Close() error {
	v.mu.Lock()
	var ids []string
	for id := range v.ports {
		ids = append(ids, id)
	}
	v.mu.Unlock()
	slices.Sort(ids)
	var errs []error
	for _, id := range ids {
		errs = append(errs, v.Unplug(id))
	}
	return errors.Join(errs...)
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

// noGuard lets everything pass.
type noGuard struct{}

func (noGuard) Attach(int) error            { return nil }
func (noGuard) Detach(int) error            { return nil }
func (noGuard) Allow(int, netip.Addr) error { return nil }
func (noGuard) Deny(int, netip.Addr) error  { return nil }
func (noGuard) Dropped(int) (uint64, error) { return 0, nil }
func (noGuard) Close() error                { return nil }
