package bpf

import (
	"errors"
	"fmt"
	"net/netip"
	"sync"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/cilium/ebpf/rlimit"
)

// A SourceGuard drops IP frames that enter a link with a source address the link may not use. The simulated VPC
// guards its ports with it. It is not pinned: closing it lifts the guard. Methods are safe for concurrent use.
type SourceGuard struct {
	objs guardObjects

	mu    sync.Mutex
	links map[int]link.Link // by ifindex
}

// NewSourceGuard loads the guard. It needs tcx links (Linux 6.6).
func NewSourceGuard() (*SourceGuard, error) {
	if err := rlimit.RemoveMemlock(); err != nil {
		return nil, fmt.Errorf("lift the locked-memory limit: %w", err)
	}
	g := &SourceGuard{links: map[int]link.Link{}}
	if err := loadGuardObjects(&g.objs, nil); err != nil {
		return nil, fmt.Errorf("load the source guard: %w", err)
	}
	return g, nil
}

// Attach guards the link, which must be in the calling thread's network namespace. Nothing is allowed yet.
func (g *SourceGuard) Attach(ifindex int) error {
	if err := g.objs.GuardDrops.Update(uint32(ifindex), uint64(0), ebpf.UpdateAny); err != nil {
		return fmt.Errorf("count drops of link %d: %w", ifindex, err)
	}
	l, err := link.AttachTCX(link.TCXOptions{Interface: ifindex, Program: g.objs.GuardSource, Attach: ebpf.AttachTCXIngress})
	if err != nil {
		return fmt.Errorf("guard link %d: %w", ifindex, err)
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.links[ifindex] = l
	return nil
}

// Detach forgets a link that is about to go or is gone. Its allowed addresses must be denied first.
func (g *SourceGuard) Detach(ifindex int) error {
	g.mu.Lock()
	l := g.links[ifindex]
	delete(g.links, ifindex)
	g.mu.Unlock()
	if l == nil {
		return nil
	}
	return errors.Join(l.Close(), ignoreMissing(g.objs.GuardDrops.Delete(uint32(ifindex))))
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

// Close lifts the guard from all links.
func (g *SourceGuard) Close() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	var errs []error
	for i, l := range g.links {
		errs = append(errs, l.Close())
		delete(g.links, i)
	}
	return errors.Join(append(errs, g.objs.Close())...)
}

func guardKey(ifindex int, addr netip.Addr) guardGuardKey {
	return guardGuardKey{Addr: words(addr), Ifindex: uint32(ifindex)}
}
