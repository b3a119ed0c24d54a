package cluster

import (
	"hash/maphash"
	"iter"
	"slices"
)

const (
	cowFanoutBits = 4
	cowFanout     = 1 << cowFanoutBits
	cowLeafSize   = 8                  // a leaf with more entries is split
	cowMaxDepth   = 64 / cowFanoutBits // all bits of the hash are used up here: leaves grow
)

// A cowMap is a map whose versions share structure: put and delete return a new map, copy only the shards on the way
// to the key, and leave the receiver as it was. Any number of goroutines may use any version. Make one with newCOWMap.
type cowMap[K comparable, V any] struct {
	seed maphash.Seed
	root *cowShard[K, V]
	size int
}

// A cowShard holds either further shards or, when shards is nil, entries. It is never changed once it is in a map.
type cowShard[K comparable, V any] struct {
	shards  *[cowFanout]*cowShard[K, V]
	entries []cowEntry[K, V]
}

type cowEntry[K comparable, V any] struct {
	hash  uint64
	key   K
	value V
}

func newCOWMap[K comparable, V any]() cowMap[K, V] {
	return cowMap[K, V]{seed: maphash.MakeSeed()}
}

func (m cowMap[K, V]) len() int { return m.size }

func (m cowMap[K, V]) get(key K) (V, bool) {
	hash := maphash.Comparable(m.seed, key)
	s := m.root
	for bits := hash; s != nil && s.shards != nil; bits >>= cowFanoutBits {
		s = s.shards[bits%cowFanout]
	}
	if s != nil {
		if i := s.index(hash, key); i >= 0 {
			return s.entries[i].value, true
		}
	}
	var none V
	return none, false
}

func (m cowMap[K, V]) put(key K, value V) cowMap[K, V] {
	e := cowEntry[K, V]{maphash.Comparable(m.seed, key), key, value}
	root, added := m.root.put(e, 0)
	m.root = root
	if added {
		m.size++
	}
	return m
}

func (m cowMap[K, V]) delete(key K) cowMap[K, V] {
	root, deleted := m.root.delete(maphash.Comparable(m.seed, key), key, 0)
	if deleted {
		m.root = root
		m.size--
	}
	return m
}

// all yields every entry, in an order that means nothing.
func (m cowMap[K, V]) all() iter.Seq2[K, V] {
	return func(yield func(K, V) bool) { m.root.each(yield) }
}

func (s *cowShard[K, V]) index(hash uint64, key K) int {
	return slices.IndexFunc(s.entries, func(e cowEntry[K, V]) bool { return e.hash == hash && e.key == key })
}

func (s *cowShard[K, V]) put(e cowEntry[K, V], depth int) (_ *cowShard[K, V], added bool) {
	if s == nil {
		return &cowShard[K, V]{entries: []cowEntry[K, V]{e}}, true
	}
	if s.shards != nil {
		shards := *s.shards
		slot := e.hash >> (depth * cowFanoutBits) % cowFanout
		shards[slot], added = shards[slot].put(e, depth+1)
		return &cowShard[K, V]{shards: &shards}, added
	}
	if i := s.index(e.hash, e.key); i >= 0 {
		entries := slices.Clone(s.entries)
		entries[i] = e
		return &cowShard[K, V]{entries: entries}, false
	}
	entries := append(slices.Clip(slices.Clone(s.entries)), e)
	if len(entries) <= cowLeafSize || depth >= cowMaxDepth {
		return &cowShard[K, V]{entries: entries}, true
	}
	return splitShard(entries, depth), true
}

func splitShard[K comparable, V any](entries []cowEntry[K, V], depth int) *cowShard[K, V] {
	split := &cowShard[K, V]{shards: new([cowFanout]*cowShard[K, V])}
	for _, e := range entries {
		slot := &split.shards[e.hash>>(depth*cowFanoutBits)%cowFanout]
		*slot, _ = (*slot).put(e, depth+1)
	}
	return split
}

func (s *cowShard[K, V]) delete(hash uint64, key K, depth int) (_ *cowShard[K, V], deleted bool) {
	if s == nil {
		return nil, false
	}
	if s.shards != nil {
		return s.deleteBelow(hash, key, depth)
	}
	i := s.index(hash, key)
	if i < 0 {
		return s, false
	}
	if len(s.entries) == 1 {
		return nil, true
	}
	return &cowShard[K, V]{entries: slices.Concat(s.entries[:i], s.entries[i+1:])}, true
}

func (s *cowShard[K, V]) deleteBelow(hash uint64, key K, depth int) (*cowShard[K, V], bool) {
	slot := hash >> (depth * cowFanoutBits) % cowFanout
	below, deleted := s.shards[slot].delete(hash, key, depth+1)
	if !deleted {
		return s, false
	}
	shards := *s.shards
	shards[slot] = below
	if shards == ([cowFanout]*cowShard[K, V]{}) {
		return nil, true
	}
	return &cowShard[K, V]{shards: &shards}, true
}

func (s *cowShard[K, V]) each(yield func(K, V) bool) bool {
	if s == nil {
		return true
	}
	for _, e := range s.entries {
		if !yield(e.key, e.value) {
			return false
		}
	}
	if s.shards == nil {
		return true
	}
	for _, below := range s.shards {
		if !below.each(yield) {
			return false
		}
	}
	return true
}
