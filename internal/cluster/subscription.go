package cluster

import (
	"context"
	"maps"
	"slices"
)

// A Change is a Snapshot and what is different in it from the one the subscriber saw last, of the kinds it follows.
type Change struct {
	Snapshot *Snapshot
	// Full says that the subscriber must look at everything: its first Change, and one that has grown larger than
	// the cluster. The names are nil then.
	Full bool
	// Services names, sorted, each Service that was itself put or deleted or had a slice put or deleted.
	Services []Name
	// Namespaces names, sorted, each namespace that came, went or got other labels.
	Namespaces []string
	// Pods names, sorted, each pod that was put or deleted.
	Pods []Name
	// The others likewise.
	Nodes, ServiceCIDRs                           []string
	Ingresses, HTTPRoutes, Gateways, DNSEndpoints []Name
	PolicyPods                                    []Name
	PolicyNodes                                   []string
	NetworkPolicies                               []Name
	ClusterNetworkPolicies                        []string
	CalicoPolicies                                []Name // without a namespace: a GlobalNetworkPolicy
	CalicoTiers                                   []string
	CalicoNetworkSets                             []Name // without a namespace: a GlobalNetworkSet
}

// A Subscription follows a Store. One goroutine at a time may call Next; Close is safe at any time.
type Subscription struct {
	store  *Store
	kinds  kindSet
	policy bool          // waits for what policies read
	signal chan struct{} // holds a token when there is something to take

	// Guarded by store.mu.
	full bool
	seen touched // by writes since the last Change
}

// Subscribe starts to follow these kinds, every kind when none is given: a subscriber sleeps through changes of others,
// whose state its Snapshot may lag behind on. If kinds that are read for policies are given, its first Change comes when the
// Snapshot is PolicySynced, too. Whoever subscribes must call Close.
func (s *Store) Subscribe(kinds ...Kind) *Subscription {
	s.mu.Lock()
	defer s.mu.Unlock()
	sub := &Subscription{
		store: s, kinds: kindsOf(kinds), policy: slices.ContainsFunc(kinds, Kind.forPolicies), signal: make(chan struct{}, 1), full: true,
	}
	s.subscriptions[sub] = struct{}{}
	if sub.begins(s.Snapshot()) {
		sub.signal <- struct{}{}
	}
	return sub
}

// begins reports whether there can be a first Change.
func (s *Subscription) begins(now *Snapshot) bool {
	return now.synced && (now.policySynced || !s.policy)
}

// Close ends the Subscription; a Next that waits goes on waiting for its context.
func (s *Subscription) Close() {
	s.store.mu.Lock()
	defer s.store.mu.Unlock()
	delete(s.store.subscriptions, s)
}

// Next waits until there is something new and returns all of it as one Change. The first Change comes when the Store is
// synced, never before (see Subscribe), and is Full. The only error is the context's.
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
		c.fill(&s.seen)
	}
	s.full = false
	s.seen.forget()
	return c
}

func (c *Change) fill(seen *touched) {
	for kind, to := range map[Kind]*[]Name{
		Services: &c.Services, Pods: &c.Pods, Ingresses: &c.Ingresses, HTTPRoutes: &c.HTTPRoutes, Gateways: &c.Gateways,
		DNSEndpoints: &c.DNSEndpoints, PolicyPods: &c.PolicyPods, NetworkPolicies: &c.NetworkPolicies,
		CalicoPolicies: &c.CalicoPolicies, CalicoNetworkSets: &c.CalicoNetworkSets,
	} {
		*to = slices.SortedFunc(maps.Keys(seen[kind]), compareNames)
	}
	for kind, to := range map[Kind]*[]string{
		Namespaces: &c.Namespaces, Nodes: &c.Nodes, ServiceCIDRs: &c.ServiceCIDRs, PolicyNodes: &c.PolicyNodes,
		ClusterNetworkPolicies: &c.ClusterNetworkPolicies, CalicoTiers: &c.CalicoTiers,
	} {
		for name := range seen[kind] {
			*to = append(*to, name.Name)
		}
		slices.Sort(*to)
	}
}

// note adds what an edit touched. The caller holds store.mu.
func (s *Subscription) note(e *Edit) {
	news := e.of(s.kinds)
	if news.nothing() && !e.synced && (!e.policySynced || !s.policy) {
		return
	}
	if !s.full {
		s.seen.add(news)
		s.full = s.seen.overgrown(&e.next)
	}
	if !s.begins(&e.next) {
		return
	}
	select {
	case s.signal <- struct{}{}:
	default:
	}
}
