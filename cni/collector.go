package cni

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/nearpath/nearpath/internal/hostnet"
)

const (
	// lookEvery is how long a pod may be without what no event tells of.
	lookEvery = 5 * time.Second
	// assertEvery is how often the datapath is asked whether it still knows every pod.
	assertEvery = time.Minute
)

// A Collector keeps what belongs to pods as ADD and DEL left it, a Task. It deletes attachments whose pod has gone without a
// DEL: after a reboot of the node, for one, no runtime deletes what it no longer knows. It puts back routes and neighbours
// on the node that somebody else deleted, as network managers do when they restart, and links that were taken down:
// without them nobody reaches the pod. It tells the datapath again of pods that it has lost, and pods of new addresses of
// the node.
type Collector struct {
	server   *Server
	interval time.Duration
	log      *slog.Logger
	ready    chan struct{}

	keys     Watch[Key]
	unlinked Watch[Key]
	told     map[Key]bool // unlinked, and reported
	asserted time.Time

	failure   string // what the last look failed with
	failureAt time.Time
}

// NewCollector looks after every change that the kernel tells of, and every interval; zero means 5 seconds.
func NewCollector(s *Server, interval time.Duration) *Collector {
	return &Collector{server: s, interval: cmp.Or(interval, lookEvery), log: s.log, ready: make(chan struct{})}
}

// Ready is closed at once: nothing waits for a collection.
func (c *Collector) Ready() <-chan struct{} { return c.ready }

func (c *Collector) String() string { return "collector of vanished pods" }

// Run looks until the context ends.
func (c *Collector) Run(ctx context.Context) error {
	close(c.ready)
	events, stop, err := c.server.subscribe()
	if err != nil {
		return err
	}
	defer stop()
	for {
		now := time.Now()
		if err := c.Sweep(ctx, now); ctx.Err() == nil {
			c.complain(now, err)
		}
		if !hostnet.AwaitEvent(ctx, events, c.interval) {
			return nil
		}
	}
}

// complain says once a minute what stays wrong.
func (c *Collector) complain(now time.Time, err error) {
	text := ""
	if err != nil {
		text = err.Error()
	}
	if text == c.failure && now.Sub(c.failureAt) < time.Minute {
		return
	}
	c.failure, c.failureAt = text, now
	if err != nil {
		c.log.Warn("collection failed", "err", err)
	}
}

// Sweep looks once. It puts back what is missing, and deletes what looked orphaned before. It is not safe for concurrent
// use, Run included.
func (c *Collector) Sweep(ctx context.Context, now time.Time) error {
	s := c.server
	changes := s.podLinks.look()
	// Leases first: a pod added in between has a link and no lease here, which is no suspect.
	known, err := s.attached()
	errs := []error{err}
	state, err := readHost(s.host)
	if err != nil {
		return errors.Join(append(errs, err)...)
	}
	s.podLinks.replace(changes, linksOf(known, state))
	c.tellUnlinked(now, known, state)
	errs = append(errs, c.restoreAll(lost(known, state)), c.follow(known))
	if now.Sub(c.asserted) >= assertEvery {
		first := c.asserted.IsZero()
		c.asserted = now
		errs = append(errs, c.assert(ctx, known, first))
	}
	due := c.keys.Observe(now, orphans(known, state.links))
	for _, k := range slices.Concat(s.absent.due(now, state), due) {
		errs = append(errs, c.collect(ctx, k))
	}
	return errors.Join(append(errs, c.tidy(state))...)
}

// tellUnlinked reports once of each pod that is there and has no link on the node for a while: the pod must be made anew,
// which only its owner can do.
func (c *Collector) tellUnlinked(now time.Time, known []attached, state hostState) {
	names := map[Key]string{}
	var keys []Key
	for _, a := range known {
		if a.unlinked(state.links) {
			keys = append(keys, a.wiring.Key)
			names[a.wiring.Key] = a.name()
		}
	}
	told := map[Key]bool{}
	for _, k := range c.unlinked.Observe(now, keys) {
		told[k] = true
		if !c.told[k] {
			c.server.report("PodLinkDeleted", fmt.Sprintf("somebody deleted the link on the node of pod %s, which lacks connectivity until it is made anew", names[k]))
		}
	}
	c.told = told
}

// restoreAll puts back what is missing of pods on the node, and reports it once.
func (c *Collector) restoreAll(pods []attached) error {
	var errs []error
	var restored []string
	for _, a := range pods {
		done, err := c.restore(a.wiring.Key)
		if done {
			restored = append(restored, a.name())
		}
		errs = append(errs, err)
	}
	if len(restored) > 0 {
		c.server.report("PodRoutesRestored", fmt.Sprintf("somebody took links down, or deleted routes or neighbours, of %d pods; they are as they were: %v",
			len(restored), restored[:min(len(restored), 10)]))
	}
	return errors.Join(errs...)
}

// restore looks again when no verb is at work on the container, and makes the node's side of it anew. A verb that is at
// work leaves it right, or is followed by another look.
func (c *Collector) restore(k Key) (bool, error) {
	s := c.server
	release, ok := s.locks.try(k)
	if !ok {
		return false, nil
	}
	defer release()
	a, ok := s.attachedAs(k)
	if !ok {
		return false, nil
	}
	state, err := readHost(s.host)
	if err != nil || len(lost([]attached{a}, state)) == 0 {
		return false, err
	}
	if err := (namespaces{host: s.host}).apply(onHost(Plan(a.wiring))); err != nil {
		return false, fmt.Errorf("put back routes of %s: %w", k, err)
	}
	return true, nil
}

// collect looks again when no verb is at work on the container.
func (c *Collector) collect(ctx context.Context, k Key) error {
	s := c.server
	if s.absent.waits(k) {
		return nil
	}
	release, ok := s.locks.try(k)
	if !ok {
		return nil
	}
	defer release()
	state, err := readHost(s.host)
	if err != nil {
		return err
	}
	if a, ok := s.attachedAs(k); !ok || !a.vanished(state.links) {
		return nil
	}
	c.log.Info("pod has vanished, deleting it", "container", k.ContainerID)
	ctx, cancel := context.WithTimeout(ctx, undoTimeout) // one that hangs must not stop the others' collection
	defer cancel()
	if err := s.removeLocked(ctx, Attachment{Key: k}); err != nil {
		return fmt.Errorf("collect %s: %w", k, err)
	}
	return nil
}

// tidy takes from ENIs that the kernel returned to the node, because their pods' namespaces ended, what was the pods'.
func (c *Collector) tidy(state hostState) error {
	var errs []error
	for name, l := range state.links {
		k, ours := keyOf(l.alias)
		if !ours || name == k.HostLink() {
			continue
		}
		release, ok := c.server.locks.try(k)
		if !ok {
			continue
		}
		c.log.Info("ENI of a vanished pod is back", "link", name, "mac", l.mac)
		errs = append(errs, namespaces{host: c.server.host}.apply([]Op{TidyLink{l.mac, nameOnHost(l.mac)}}))
		release()
	}
	return errors.Join(errs...)
}
