package cluster

import (
	"maps"
	"slices"
	"sync"
)

// youngSets is how many sets of labels are remembered at least.
const youngSets = 4096

// labelSets makes objects with equal labels share one map of them: pods of a ReplicaSet do, and a map costs more than all
// else that is kept of a pod. It forgets what has not been seen for a while; who shares the map keeps it. The zero value is
// ready for use, by any number of goroutines.
type labelSets struct {
	mu         sync.Mutex
	young, old map[string]map[string]string // by their text
	text       []byte                       // room for one
}

// shared returns labels, or a map equal to them that others have.
func (l *labelSets) shared(labels map[string]string) map[string]string {
	if len(labels) == 0 {
		return nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.text = l.text[:0]
	for _, key := range slices.Sorted(maps.Keys(labels)) {
		l.text = append(append(append(append(l.text, key...), 0), labels[key]...), 0) // neither has a zero byte
	}
	if set, ok := l.young[string(l.text)]; ok {
		return set
	}
	set, ok := l.old[string(l.text)]
	if !ok {
		set = labels
	}
	if l.young == nil || len(l.young) >= max(youngSets, len(l.old)) {
		l.young, l.old = make(map[string]map[string]string), l.young
	}
	l.young[string(l.text)] = set
	return set
}
