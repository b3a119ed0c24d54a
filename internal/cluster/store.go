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

// A Refusal is of an object that cannot be read. Its last good state stays.
type Refusal struct {
	Kind string // as the API calls it, or see the kinds of policies
	Name Name
	Err  error

	instead func(*Edit) // puts what is in force where no good state is known; nil for nothing
}

// Objects is everything a source knows.
type Objects struct {
	Refused []Refusal

	Services   []*Service
	Slices     []*EndpointSlice
	Namespaces []string
	Pods       []*Pod

	NamespaceLabels map[string]map[string]string
	Nodes           []*Node
	ServiceCIDRs    []*ServiceCIDR
	Ingresses       []*Ingress
	HTTPRoutes      []*HTTPRoute
	Gateways        []*Gateway
	DNSEndpoints    []*DNSEndpoint

	// What follows is read for policies.
	LeavingNamespaces      map[string]bool
	PolicyPods             []*PolicyPod
	PolicyNodes            []*PolicyNode
	NetworkPolicies        []*NetworkPolicy
	ClusterNetworkPolicies []*ClusterNetworkPolicy
	CalicoPolicies         []*CalicoPolicy
	CalicoTiers            []*CalicoTier
	CalicoNetworkSets      []*CalicoNetworkSet
}

// NewStore returns a Store whose Snapshot is empty and not synced.
func NewStore() *Store {
	s := &Store{subscriptions: make(map[*Subscription]struct{})}
	s.snapshot.Store(newSnapshot())
	return s
}

// NewNameStore returns a Store whose Snapshots find objects by name only, ServiceByIP and its like nothing: the memory of
// the address indexes is saved. It is for readers of whole clusters.
func NewNameStore() *Store {
	s := NewStore()
	s.Snapshot().namesOnly = true
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
