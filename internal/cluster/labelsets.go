package cluster

import (
	"hash/maphash"
	"maps"
	"slices"
	"sync"
)

// youngSets is how many sets of labels are remembered at least.
const youngSets = 4096

// labelSets makes objects with equal labels share one map of them: pods of a ReplicaSet do, and a map costs more than all
// else that is kept of a pod. The zero value is ready for use, by any number of goroutines.
type labelSets struct{ contentSets[map[string]string] }

// shared returns labels, or a map equal to them that others have.
func (l *labelSets) shared(labels map[string]string) map[string]string {
	if len(labels) == 0 {
		return nil
	}
	return l.contentSets.shared(labels, func(h *maphash.Hash) {
		for _, key := range slices.Sorted(maps.Keys(labels)) {
			maphash.WriteComparable(h, [2]string{key, labels[key]})
		}
	}, func(a, b map[string]string) bool { return maps.Equal(a, b) })
}

// portSets is labelSets for named ports.
type portSets struct{ contentSets[[]NamedPort] }

func (p *portSets) shared(ports []NamedPort) []NamedPort {
	if len(ports) == 0 {
		return nil
	}
	return p.contentSets.shared(ports, func(h *maphash.Hash) {
		for _, port := range ports {
			maphash.WriteComparable(h, port)
		}
	}, func(a, b []NamedPort) bool { return slices.Equal(a, b) })
}

// contentSets returns for equal contents one value. It forgets what has not been seen for a while; who shares the value keeps
// it.
type contentSets[V any] struct {
	mu         sync.Mutex
	hash       maphash.Hash
	young, old map[uint64]V // by their hash: of two with one hash, the first is shared
}

// shared returns value, or one equal to it that others have.
func (l *contentSets[V]) shared(value V, write func(*maphash.Hash), equal func(a, b V) bool) V {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.hash.Reset()
	write(&l.hash)
	key := l.hash.Sum64()
	set, ok := l.young[key]
	if ok && equal(set, value) {
		return set
	}
	if ok {
		return value
	}
	if set, ok = l.old[key]; !ok || !equal(set, value) {
		set = value
	}
	if l.young == nil || len(l.young) >= max(youngSets, len(l.old)) {
		l.young, l.old = make(map[uint64]V), l.young
	}
	l.young[key] = set
	return set
}
