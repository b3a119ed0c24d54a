package cni

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"time"

	"github.com/nearpath/nearpath/internal/hostnet"
)

// secondLook is how long something must look orphaned before it is believed to be.
const secondLook = 30 * time.Second

// A Watch remembers since when things look orphaned. The zero value is ready; it is not safe for concurrent use.
type Watch[K comparable] struct{ since map[K]time.Time }

// Observe takes what looks orphaned now and returns what did so on an earlier look, at least 30 seconds before. What
// does not look orphaned any more is forgotten.
func (w *Watch[K]) Observe(now time.Time, suspects []K) []K {
	next := make(map[K]time.Time, len(suspects))
	var due []K
	for _, k := range suspects {
		first, seen := w.since[k]
		if !seen {
			first = now
		}
		next[k] = first
		if seen && now.Sub(first) >= secondLook {
			due = append(due, k)
		}
	}
	w.since = next
	return due
}

// orphans lists the leases without a link on the node: their pod is gone, for links go with the pod's namespace.
func orphans(leases []Leased, links map[string]int) []Key {
	var keys []Key
	for _, l := range leases {
		if _, ok := links[l.Attachment.HostLink()]; !ok {
			keys = append(keys, l.Attachment.Key)
		}
	}
	return keys
}

// strayRules lists the addresses that have a rule of ours and no lease.
func strayRules(leases []Leased, rules map[netip.Addr]int) []netip.Addr {
	leased := make(map[netip.Addr]bool, len(leases))
	for _, l := range leases {
		for _, addr := range l.Lease.Addrs {
			leased[addr] = true
		}
	}
	var strays []netip.Addr
	for addr := range rules {
		if !leased[addr] {
			strays = append(strays, addr)
		}
	}
	return strays
}

// lost lists the leases whose link is there and of whose rules or routes on the node one is not, or leads elsewhere.
func lost(leases []Leased, state hostState) []Leased {
	var found []Leased
	for _, l := range leases {
		link, ok := state.links[l.Attachment.HostLink()]
		if !ok {
			continue
		}
		for _, addr := range l.Lease.Addrs {
			if state.rules[addr] != hostnet.Table(l.Lease.Slot) || state.routes[addr] != link {
				found = append(found, l)
				break
			}
		}
	}
	return found
}

// A Collector keeps the node's side of pods as ADD and DEL left it, a Task. It deletes attachments whose pod has gone
// without a DEL, and rules that nobody owns: after a reboot of the node, for one, no runtime deletes what it no longer
// knows. And it puts back rules and routes of pods that somebody else deleted, as network managers do when they restart:
// without them a pod's packets leave by the uplink, and the VPC drops them.
type Collector struct {
	server   *Server
	interval time.Duration
	log      *slog.Logger
	ready    chan struct{}

	keys  Watch[Key]
	rules Watch[netip.Addr]
}

// lookEvery is how long a pod may be without its rules and routes.
const lookEvery = 5 * time.Second

// NewCollector looks every interval; zero means 5 seconds.
func NewCollector(s *Server, interval time.Duration) *Collector {
	return &Collector{server: s, interval: cmp.Or(interval, lookEvery), log: s.log, ready: make(chan struct{})}
}

// Ready is closed at once: nothing waits for a collection.
func (c *Collector) Ready() <-chan struct{} { return c.ready }

func (c *Collector) String() string { return "collector of vanished pods" }

// Run looks until the context ends.
func (c *Collector) Run(ctx context.Context) error {
	close(c.ready)
	ticker := time.NewTicker(c.interval)
	defer ticker.Stop()
	for {
		if err := c.Sweep(ctx, time.Now()); err != nil && ctx.Err() == nil {
			c.log.Warn("collection failed", "err", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
	}
}

// Sweep looks once and deletes what looked orphaned before. It is not safe for concurrent use, Run included.
func (c *Collector) Sweep(ctx context.Context, now time.Time) error {
	s := c.server
	// Leases first: a pod added in between has a link and no lease here, which is no suspect.
	leases := s.config.Addresses.List()
	state, err := readHost(s.host)
	if err != nil {
		return err
	}
	var errs []error
	for _, l := range lost(leases, state) {
		errs = append(errs, c.restore(ctx, l))
	}
	for _, k := range c.keys.Observe(now, orphans(leases, state.links)) {
		errs = append(errs, c.collect(ctx, k))
	}
	// Whoever was waited for above may have leased an address meanwhile.
	stray := c.rules.Observe(now, strayRules(leases, state.rules))
	since := strayRules(s.config.Addresses.List(), state.rules)
	for _, addr := range stray {
		if !slices.Contains(since, addr) {
			continue
		}
		c.log.Warn("rule without a lease, deleting it", "ip", addr)
		errs = append(errs, namespaces{host: s.host}.apply(Unplan(Key{}, []netip.Addr{addr})[:1]))
	}
	return errors.Join(errs...)
}

// restore looks again once no verb is at work on the container, and makes the node's side of it anew.
func (c *Collector) restore(ctx context.Context, l Leased) error {
	ctx, cancel := context.WithTimeout(ctx, lookEvery)
	defer cancel()
	s, k := c.server, l.Attachment.Key
	release, err := s.locks.take(ctx, k)
	if err != nil {
		return err
	}
	defer release()
	state, err := readHost(s.host)
	if err != nil {
		return err
	}
	lease, ok := s.config.Addresses.Lookup(k)
	if !ok || len(lost([]Leased{{l.Attachment, lease}}, state)) == 0 {
		return nil
	}
	c.log.Warn("rules or routes of a pod were gone, putting them back", "container", k.ContainerID, "ips", lease.Addrs)
	if err := (namespaces{host: s.host}).apply(hostRoutes(k, lease)); err != nil {
		return fmt.Errorf("put back rules and routes of %s: %w", k, err)
	}
	return nil
}

// collect looks again once no verb is at work on the container.
func (c *Collector) collect(ctx context.Context, k Key) error {
	ctx, cancel := context.WithTimeout(ctx, lookEvery) // one verb that hangs must not stop the others' collection
	defer cancel()
	release, err := c.server.locks.take(ctx, k)
	if err != nil {
		return err
	}
	defer release()
	state, err := readHost(c.server.host)
	if _, there := state.links[k.HostLink()]; err != nil || there {
		return err
	}
	c.log.Info("pod has vanished, deleting it", "container", k.ContainerID)
	if err := c.server.removeLocked(ctx, Attachment{Key: k}); err != nil {
		return fmt.Errorf("collect %s: %w", k, err)
	}
	return nil
}
