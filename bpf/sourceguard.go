package bpf

import (
	"fmt"
	"net/netip"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/rlimit"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// A SourceGuard drops IP frames that enter a link with a source address the link may not use. The simulated VPC
// guards its ports with it. A link stays guarded for as long as it exists. Methods are safe for concurrent use.
type SourceGuard struct{ objs guardObjects }

// NewSourceGuard loads the guard.
func NewSourceGuard() (*SourceGuard, error) {
	if err := rlimit.RemoveMemlock(); err != nil {
		return nil, fmt.Errorf("lift the locked-memory limit: %w", err)
	}
	g := &SourceGuard{}
	if err := loadGuardObjects(&g.objs, nil); err != nil {
		return nil, fmt.Errorf("load the source guard: %w", err)
	}
	return g, nil
}

// Attach guards the link, which must be in the calling thread's network namespace. Nothing is allowed yet.
func (g *SourceGuard) Attach(ifindex int) error {
	if err := g.objs.GuardDrops.Update(uint32(ifindex), uint64(0), ebpf.UpdateAny); err != nil {
		return fmt.Errorf("count drops of link %d: %w", ifindex, full(err, g.objs.GuardDrops))
	}
	// A classifier, not a tcx link: it works on every kernel, and the guard's life is the link's anyway.
	qdisc := &netlink.Clsact{QdiscAttrs: netlink.QdiscAttrs{
		LinkIndex: ifindex, Handle: netlink.MakeHandle(0xffff, 0), Parent: netlink.HANDLE_CLSACT,
	}}
	if err := netlink.QdiscReplace(qdisc); err != nil {
		return fmt.Errorf("add clsact to link %d: %w", ifindex, err)
	}
	filter := &netlink.BpfFilter{
		FilterAttrs:  netlink.FilterAttrs{LinkIndex: ifindex, Parent: netlink.HANDLE_MIN_INGRESS, Priority: 1, Protocol: unix.ETH_P_ALL},
		Fd:           g.objs.GuardSource.FD(),
		Name:         guardProgGuardSource,
		DirectAction: true,
	}
	if err := netlink.FilterReplace(filter); err != nil {
		return fmt.Errorf("guard link %d: %w", ifindex, err)
	}
	return nil
}

// Detach forgets a link that is gone. Its allowed addresses must have been denied.
func (g *SourceGuard) Detach(ifindex int) error {
	return ignoreMissing(g.objs.GuardDrops.Delete(uint32(ifindex)))
}

// Allow lets frames from addr enter the link.
func (g *SourceGuard) Allow(ifindex int, addr netip.Addr) error {
	if err := g.objs.GuardSources.Update(guardKey(ifindex, addr), uint8(1), ebpf.UpdateAny); err != nil {
		return fmt.Errorf("allow %s on link %d: %w", addr, ifindex, full(err, g.objs.GuardSources))
	}
	return nil
}

// Deny takes Allow back.
func (g *SourceGuard) Deny(ifindex int, addr netip.Addr) error {
	if err := ignoreMissing(g.objs.GuardSources.Delete(guardKey(ifindex, addr))); err != nil {
		return fmt.Errorf("deny %s on link %d: %w", addr, ifindex, err)
	}
	return nil
}

// Dropped is how many frames of the link were dropped since Attach.
func (g *SourceGuard) Dropped(ifindex int) (uint64, error) {
	var n uint64
	if err := g.objs.GuardDrops.Lookup(uint32(ifindex), &n); err != nil {
		return 0, fmt.Errorf("read drops of link %d: %w", ifindex, err)
	}
	return n, nil
}

// Close gives up the handles; links that are guarded stay so.
func (g *SourceGuard) Close() error { return g.objs.Close() }

func guardKey(ifindex int, addr netip.Addr) guardGuardKey {
	return guardGuardKey{Addr: words(addr), Ifindex: uint32(ifindex)}
}
