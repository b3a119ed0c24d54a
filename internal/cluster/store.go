package cluster

import (
	"sync"
	"sync/atomic"
	"time"
)

// A Store holds the newest Snapshot. One source writes, any number of readers read; all methods are safe for
// concurrent use.
type Store struct {
	snapshot atomic.Pointer[Snapshot]

	mu            sync.Mutex // serialises writes; guards what follows and the Subscriptions' fields
	subscriptions map[*Subscription]struct{}
}

// Objects is everything a source knows.
type Objects struct {
	Services   []*Service
	Slices     []*EndpointSlice
	Namespaces []string
}

// NewStore returns a Store whose Snapshot is empty and not synced.
func NewStore() *Store {
	s := &Store{subscriptions: make(map[*Subscription]struct{})}
	s.snapshot.Store(newSnapshot())
	return s
}

// Snapshot returns the newest Snapshot, never nil.
func (s *Store) Snapshot() *Snapshot { return s.snapshot.Load() }

// Update makes one new Snapshot of all changes f makes. f must not call the Store. When f changes nothing, the
// Snapshot stays the same and nobody is told.
func (s *Store) Update(f func(*Edit)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	e := Edit{next: *s.snapshot.Load()}
	f(&e)
	if !e.changed() {
		return
	}
	e.next.version++
	e.next.changed = time.Now()
	next := e.next // a copy, so that the Snapshot does not keep the touched keys alive
	s.snapshot.Store(&next)
	for sub := range s.subscriptions {
		sub.note(&e)
	}
}

// Replace makes the Snapshot hold exactly these objects and marks it synced. Only what differs is touched.
func (s *Store) Replace(all Objects) {
	s.Update(func(e *Edit) {
		deleteMissing(e, all)
		for _, name := range all.Namespaces {
			e.PutNamespace(name)
		}
		for _, slice := range all.Slices {
			e.PutSlice(slice)
		}
		for _, svc := range all.Services {
			e.PutService(svc)
		}
		e.MarkSynced()
	})
}

func deleteMissing(e *Edit, all Objects) {
	have := e.next
	services, slices, namespaces := all.keys()
	for name := range have.services.all() {
		if _, ok := services[name]; !ok {
			e.DeleteService(name)
		}
	}
	for name := range have.slices.all() {
		if _, ok := slices[name]; !ok {
			e.DeleteSlice(name)
		}
	}
	for name := range have.namespaces.all() {
		if _, ok := namespaces[name]; !ok {
			e.DeleteNamespace(name)
		}
	}
}

func (o Objects) keys() (services, slices map[Name]struct{}, namespaces map[string]struct{}) {
	services = make(map[Name]struct{}, len(o.Services))
	for _, svc := range o.Services {
		services[svc.Name] = struct{}{}
	}
	slices = make(map[Name]struct{}, len(o.Slices))
	for _, slice := range o.Slices {
		slices[slice.Name] = struct{}{}
	}
	namespaces = make(map[string]struct{}, len(o.Namespaces))
	for _, name := range o.Namespaces {
		namespaces[name] = struct{}{}
	}
	return services, slices, namespaces
}
