package cluster

import "maps"

// touched is the keys of what is different between two Snapshots, by kind. The zero value is nothing. Objects without a
// namespace have a Name without one.
type touched [kindCount]map[Name]struct{}

func (t *touched) touch(kind Kind, name Name) {
	if t[kind] == nil {
		t[kind] = make(map[Name]struct{})
	}
	t[kind][name] = struct{}{}
}

func (t *touched) nothing() bool {
	for _, names := range t {
		if len(names) > 0 {
			return false
		}
	}
	return true
}

// of returns what is touched of these kinds; the maps stay shared.
func (t *touched) of(kinds kindSet) touched {
	var some touched
	for kind, names := range t {
		if kinds.has(Kind(kind)) {
			some[kind] = names
		}
	}
	return some
}

// add leaves the maps of more alone.
func (t *touched) add(more touched) {
	for kind, names := range more {
		if t[kind] == nil && len(names) > 0 {
			t[kind] = make(map[Name]struct{}, len(names))
		}
		maps.Copy(t[kind], names)
	}
}

// forget keeps the maps' room for what comes next.
func (t *touched) forget() {
	for _, names := range t {
		clear(names)
	}
}

// overgrown keeps the keys of deleted objects from piling up behind a subscriber that stands still.
func (t *touched) overgrown(now *Snapshot) bool {
	const slack = 1024
	for kind, names := range t {
		if len(names) > now.count(Kind(kind))+slack {
			return true
		}
	}
	return false
}
