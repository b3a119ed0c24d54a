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
	Pods       []*Pod
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
		for _, pod := range all.Pods {
			e.PutPod(pod)
		}
		e.MarkSynced()
	})
}

func deleteMissing(e *Edit, all Objects) {
	have, want := e.next, all.keys()
	for name := range have.services.all() {
		if _, ok := want.services[name]; !ok {
			e.DeleteService(name)
		}
	}
	for name := range have.slices.all() {
		if _, ok := want.slices[name]; !ok {
			e.DeleteSlice(name)
		}
	}
	for name := range have.namespaces.all() {
		if _, ok := want.namespaces[name]; !ok {
			e.DeleteNamespace(name)
		}
	}
	for name := range have.pods.all() {
		if _, ok := want.pods[name]; !ok {
			e.DeletePod(name)
		}
	}
}

type objectKeys struct {
	services, slices, pods map[Name]struct{}
	namespaces             map[string]struct{}
}

func (o Objects) keys() objectKeys {
	k := objectKeys{
		services:   make(map[Name]struct{}, len(o.Services)),
		slices:     make(map[Name]struct{}, len(o.Slices)),
		pods:       make(map[Name]struct{}, len(o.Pods)),
		namespaces: make(map[string]struct{}, len(o.Namespaces)),
	}
	for _, svc := range o.Services {
		k.services[svc.Name] = struct{}{}
	}
	for _, slice := range o.Slices {
		k.slices[slice.Name] = struct{}{}
	}
	for _, pod := range o.Pods {
		k.pods[pod.Name] = struct{}{}
	}
	for _, name := range o.Namespaces {
		k.namespaces[name] = struct{}{}
	}
	return k
}
