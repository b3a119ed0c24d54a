package cluster

import (
	"maps"
	"slices"
	"strconv"
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
	return l.contentSets.shared(labels, func(text []byte) []byte {
		for _, key := range slices.Sorted(maps.Keys(labels)) {
			text = append(append(append(append(text, key...), 0), labels[key]...), 0) // neither has a zero byte
		}
		return text
	})
}

// portSets is labelSets for named ports.
type portSets struct{ contentSets[[]NamedPort] }

func (p *portSets) shared(ports []NamedPort) []NamedPort {
	if len(ports) == 0 {
		return nil
	}
	return p.contentSets.shared(ports, func(text []byte) []byte {
		for _, port := range ports {
			text = strconv.AppendUint(append(append(text, port.Name...), 0), uint64(port.Protocol)<<16|uint64(port.Port), 16)
			text = append(text, 0)
		}
		return text
	})
}

// contentSets returns for equal contents one value. It forgets what has not been seen for a while; who shares the value keeps
// it.
type contentSets[V any] struct {
	mu         sync.Mutex
	young, old map[string]V // by their text
	text       []byte       // room for one
}

// shared returns value, or one with the same text that others have.
func (l *contentSets[V]) shared(value V, appendText func([]byte) []byte) V {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.text = appendText(l.text[:0])
	if set, ok := l.young[string(l.text)]; ok {
		return set
	}
	set, ok := l.old[string(l.text)]
	if !ok {
		set = value
	}
	if l.young == nil || len(l.young) >= max(youngSets, len(l.old)) {
		l.young, l.old = make(map[string]V), l.young
	}
	l.young[string(l.text)] = set
	return set
}
