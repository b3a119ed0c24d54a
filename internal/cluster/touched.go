package cluster

import "maps"

// A Kind is a kind of object that a Subscription follows.
type Kind uint8

// The kinds a Subscription may follow.
const (
	Services   Kind = iota // with their EndpointSlices
	Namespaces             // their coming and going
	Pods                   // of this node
)

// A kindSet has bit k set for Kind k.
type kindSet uint8

// kindsOf reads an empty list as every kind.
func kindsOf(list []Kind) kindSet {
	if len(list) == 0 {
		list = []Kind{Services, Namespaces, Pods}
	}
	var set kindSet
	for _, k := range list {
		set |= 1 << k
	}
	return set
}

func (s kindSet) has(k Kind) bool { return s&(1<<k) != 0 }

// touched is the keys of what is different between two Snapshots. The zero value is nothing.
type touched struct {
	services, pods map[Name]struct{}
	namespaces     map[string]struct{}
}

func (t *touched) touchService(name Name)     { put(&t.services, name) }
func (t *touched) touchPod(name Name)         { put(&t.pods, name) }
func (t *touched) touchNamespace(name string) { put(&t.namespaces, name) }

func put[K comparable](set *map[K]struct{}, key K) {
	if *set == nil {
		*set = make(map[K]struct{})
	}
	(*set)[key] = struct{}{}
}

func (t *touched) nothing() bool { return len(t.services)+len(t.pods)+len(t.namespaces) == 0 }

// of returns what is touched of these kinds; the maps stay shared.
func (t *touched) of(kinds kindSet) touched {
	var some touched
	if kinds.has(Services) {
		some.services = t.services
	}
	if kinds.has(Namespaces) {
		some.namespaces = t.namespaces
	}
	if kinds.has(Pods) {
		some.pods = t.pods
	}
	return some
}

// add leaves the maps of more alone.
func (t *touched) add(more touched) {
	addAll(&t.services, more.services)
	addAll(&t.pods, more.pods)
	addAll(&t.namespaces, more.namespaces)
}

func addAll[K comparable](set *map[K]struct{}, more map[K]struct{}) {
	if *set == nil {
		*set = make(map[K]struct{}, len(more))
	}
	maps.Copy(*set, more)
}

// forget keeps the maps' room for what comes next.
func (t *touched) forget() {
	clear(t.services)
	clear(t.pods)
	clear(t.namespaces)
}

// overgrown keeps the keys of deleted objects from piling up behind a subscriber that stands still.
func (t *touched) overgrown(now *Snapshot) bool {
	const slack = 1024
	return len(t.services) > now.services.len()+slack || len(t.pods) > now.pods.len()+slack ||
		len(t.namespaces) > now.namespaces.len()+slack
}
