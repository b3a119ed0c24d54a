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
// ARP and neighbour solicitations for all of them on every port but the owner's, so what an instance sends to a neighbour
// of its vSwitch is routed too, as in the real VPC. An ENI whose link goes with a namespace it was moved to comes back to
// its instance, as a device would. Methods are safe for concurrent use.
type VPC struct {
	netns string
	guard SourceGuard
	log   *slog.Logger
	ndp   neighbours
	watch *watcher

	mu    sync.Mutex // guards the fields below
	seq   int
	ipv6  bool              // some vSwitch has it
	ports map[string]*vport // by ENI ID
}

// NewVPC prepares the namespace: forwarding, and the addresses the VPC itself answers on. Close it.
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
		return dropUnrouted(netip.IPv4Unspecified())
	})
	if err == nil {
		v.watch, err = watchLinks(v.netns, v.lost, v.ready)
	}
	if err != nil {
		return nil, fmt.Errorf("prepare the VPC in %s: %w", cfg.NetNS, err)
	}
	return v, nil
}

// routeEverything makes the namespace a router that does not judge sources; that is the guard's part. A new namespace may
// have inherited settings of the host.
func routeEverything() error {
	for _, s := range [][2]string{
		{"ipv4/ip_forward", "1"},
		{"ipv4/conf/all/rp_filter", "0"}, // the larger of "all" and the link's counts
		{"ipv4/conf/default/rp_filter", "0"},
		{"ipv4/conf/all/send_redirects", "0"},
		{"ipv4/conf/default/send_redirects", "0"},
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
func dropUnrouted(unspecified netip.Addr) error {
	everywhere := ipNet(netip.PrefixFrom(unspecified, 0))
	err := netlink.RouteReplace(&netlink.Route{Dst: everywhere, Type: unix.RTN_BLACKHOLE, Priority: 1<<31 - 1})
	if err != nil {
		return fmt.Errorf("add the blackhole route to %s: %w", everywhere, err)
	}
	return nil
}

// routeIPv6 turns on what a VPC without IPv6 has no need for.
func routeIPv6() error {
	for _, key := range []string{"all/disable_ipv6", "default/disable_ipv6", "lo/disable_ipv6"} {
		if err := setSysctl("ipv6/conf/"+key, "0"); err != nil {
			return err
		}
	}
	if err := setSysctl("ipv6/conf/all/forwarding", "1"); err != nil {
		return err
	}
	return dropUnrouted(netip.IPv6Unspecified())
}

func addLocalAddr(a netip.Addr) error {
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return fmt.Errorf("find lo: %w", err)
	}
	if err := netlink.AddrReplace(lo, &netlink.Addr{IPNet: ipNet(netip.PrefixFrom(a, a.BitLen()))}); err != nil {
		return fmt.Errorf("add %s to lo: %w", a, err)
	}
	return nil
}

// AddVSwitch implements Fabric.
func (v *VPC) AddVSwitch(n Net) error {
	v.mu.Lock()
	first := n.Gateway.Is6() && !v.ipv6
	v.ipv6 = v.ipv6 || n.Gateway.Is6()
	v.mu.Unlock()
	return inNetNS(v.netns, func() error {
		if first {
			if err := routeIPv6(); err != nil {
				return err
			}
		}
		if n.Gateway.Is6() {
			v.ndp.addGateway(n.Gateway)
		}
		return addLocalAddr(n.Gateway)
	})
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
	port := &vport{name: fmt.Sprintf("vport%d", v.seq), guard: v.guard, ndp: &v.ndp, ipv6: v.ipv6, spec: p}
	v.ports[p.ENIID] = port // reserves the ID; calls about one ENI do not overlap
	v.mu.Unlock()

	port.op.Lock()
	err := v.plug(port, p)
	port.op.Unlock()
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
		return port.open(p.Addrs)
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
	port := v.port(eniID)
	if port == nil {
		return nil
	}
	port.op.Lock()
	defer port.op.Unlock()
	if err := inNetNS(v.netns, port.remove); err != nil {
		return fmt.Errorf("unplug %s: %w", eniID, err)
	}
	port.gone = true
	v.mu.Lock()
	defer v.mu.Unlock()
	delete(v.ports, eniID)
	return nil
}

func (v *VPC) port(eniID string) *vport {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.ports[eniID]
}

// ready answers for neighbours again on a link whose carrier came: the kernel forgets them with each loss of it.
func (v *VPC) ready(ifindex int) {
	if err := inNetNS(v.netns, func() error { return v.ndp.refresh(ifindex) }); err != nil {
		v.log.Warn("port does not answer for neighbours", "ifindex", ifindex, "err", err)
	}
}

// lost gives an ENI whose link went without Unplug a new one, in the namespace of its instance. That is where a device goes
// when the namespace it was moved to ends; a veth ends with it.
func (v *VPC) lost(ifindex int) {
	v.mu.Lock()
	var port *vport
	for _, p := range v.ports {
		if int(p.index.Load()) == ifindex {
			port = p
		}
	}
	v.mu.Unlock()
	if port == nil {
		return
	}
	port.op.Lock()
	defer port.op.Unlock()
	if port.gone || int(port.index.Load()) != ifindex {
		return
	}
	addrs := slices.Clone(port.addrs)
	err := inNetNS(v.netns, func() error {
		if err := port.remove(); err != nil {
			return err
		}
		if _, err := port.create(port.spec); err != nil {
			return err
		}
		return port.open(addrs)
	})
	if err != nil { // the instance itself may be gone
		v.log.Warn("ENI does not come back", "eni", port.spec.ENIID, "err", err)
		return
	}
	v.log.Info("ENI came back", "eni", port.spec.ENIID, "netns", port.spec.NetNS, "port", port.name)
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
	port := v.port(eniID)
	if port == nil {
		return fmt.Errorf("change addresses of %s: it is not plugged", eniID)
	}
	port.op.Lock()
	defer port.op.Unlock()
	if err := inNetNS(v.netns, func() error { return fn(port) }); err != nil {
		return fmt.Errorf("change addresses of %s: %w", eniID, err)
	}
	return nil
}

// Dropped counts the frames of the ENI that the guard dropped.
func (v *VPC) Dropped(eniID string) (uint64, error) {
	port := v.port(eniID)
	if port == nil {
		return 0, fmt.Errorf("count drops of %s: it is not plugged", eniID)
	}
	return v.guard.Dropped(int(port.index.Load()))
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
	v.watch.close()
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
