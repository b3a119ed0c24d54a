package cluster

import (
	"context"
	"maps"
	"slices"
)

// A Change is a Snapshot and what is different in it from the one the subscriber saw last.
type Change struct {
	Snapshot *Snapshot
	// Full says that the subscriber must look at everything: its first Change, and one that has grown larger than
	// the cluster. Services and Namespaces are nil then.
	Full bool
	// Services names, sorted, each Service that was itself put or deleted or had a slice put or deleted.
	Services []Name
	// Namespaces names, sorted, each namespace that came or went.
	Namespaces []string
}

// A Subscription follows a Store. One goroutine at a time may call Next; Close is safe at any time.
type Subscription struct {
	store  *Store
	signal chan struct{} // holds a token when there is something to take

	// Guarded by store.mu.
	full       bool
	services   map[Name]struct{}
	namespaces map[string]struct{}
}

// Subscribe starts to follow the Store. Whoever subscribes must call Close.
func (s *Store) Subscribe() *Subscription {
	s.mu.Lock()
	defer s.mu.Unlock()
	sub := &Subscription{
		store:      s,
		signal:     make(chan struct{}, 1),
		full:       true,
		services:   make(map[Name]struct{}),
		namespaces: make(map[string]struct{}),
	}
	s.subscriptions[sub] = struct{}{}
	if s.Snapshot().Synced() {
		sub.signal <- struct{}{}
	}
	return sub
}

// Close ends the Subscription; a Next that waits goes on waiting for its context.
func (s *Subscription) Close() {
	s.store.mu.Lock()
	defer s.store.mu.Unlock()
	delete(s.store.subscriptions, s)
}

// Next waits until there is something new and returns all of it as one Change. The first Change comes when the Store is
// synced, never before, and is Full. The only error is the context's.
func (s *Subscription) Next(ctx context.Context) (Change, error) {
	select {
	case <-ctx.Done():
		return Change{}, context.Cause(ctx)
	case <-s.signal:
		return s.take(), nil
	}
}

func (s *Subscription) take() Change {
	s.store.mu.Lock()
	defer s.store.mu.Unlock()
	// A write between the receive and the lock has put its token back: what it touched is taken here.
	select {
	case <-s.signal:
	default:
	}
	c := Change{Snapshot: s.store.Snapshot(), Full: s.full}
	if !s.full {
		c.Services = slices.SortedFunc(maps.Keys(s.services), compareNames)
		c.Namespaces = slices.Sorted(maps.Keys(s.namespaces))
	}
	s.full = false
	clear(s.services)
	clear(s.namespaces)
	return c
}

// note adds what an edit touched. The caller holds store.mu.
func (s *Subscription) note(e *Edit) {
	if !s.full {
		maps.Copy(s.services, e.services)
		maps.Copy(s.namespaces, e.namespaces)
		s.full = s.overgrown(&e.next)
	}
	if !e.next.synced {
		return
	}
	select {
	case s.signal <- struct{}{}:
	default:
	}
}

// overgrown keeps the keys of deleted objects from piling up behind a subscriber that stands still.
func (s *Subscription) overgrown(now *Snapshot) bool {
	const slack = 1024
	return len(s.services) > now.services.len()+slack || len(s.namespaces) > now.namespaces.len()+slack
}
