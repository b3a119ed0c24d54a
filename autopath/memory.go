package autopath

import (
	"sync"
	"time"
)

// maxRemembered bounds the memory of a Handler, about 150 bytes each.
const maxRemembered = 10_000

// A memory keeps where searches ended, for both address types, so that the next question of the same search asks for
// one name, and which names clients ask for after searches that failed. It never holds longer than the negative replies a search passed over may be cached: a client that walked
// through a cache would see the same.
type memory struct {
	mu     sync.Mutex // guards what follows
	ends   map[searched]end
	clears uint64 // how often it was cleared
	limit  int
}

// searched is what a search was for. Clients of one Scope share it.
type searched struct {
	scope Scope
	name  string // folded: a base without final dot, or the name of a question with it
}

// asAsked marks a name that a failed search has left to the client, which asks for it next. Taken for the beginning of
// another search, "web.shop" that failed would become a search for "web" in the namespace "shop".
const asAsked = -1

type end struct {
	candidate int // of a base; asAsked of a name
	until     time.Time
}

// recall returns where the search ended, and how much longer that holds.
func (m *memory) recall(of searched, now time.Time) (candidate int, ttl time.Duration, ok bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	e, ok := m.ends[of]
	if !ok {
		return 0, 0, false
	}
	if !now.Before(e.until) {
		delete(m.ends, of)
		return 0, 0, false
	}
	return e.candidate, e.until.Sub(now), true
}

// keep remembers an end that was found out when clears were as many. If there are more, what was seen may be no longer
// true.
func (m *memory) keep(of searched, candidate int, now time.Time, ttl time.Duration, clears uint64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.clears != clears || ttl <= 0 {
		return
	}
	if m.ends == nil {
		m.ends = make(map[searched]end)
	}
	if _, known := m.ends[of]; !known && len(m.ends) >= m.limit {
		m.evict(now)
	}
	m.ends[of] = end{candidate: candidate, until: now.Add(ttl)}
}

// evict makes room by a few entries in no order: those that have ended, or else the last one it saw.
func (m *memory) evict(now time.Time) {
	const looks = 8
	seen, removed := 0, false
	var last searched
	for of, e := range m.ends {
		if !now.Before(e.until) {
			delete(m.ends, of)
			removed = true
		}
		if seen++; seen == looks {
			last = of
			break
		}
		last = of
	}
	if !removed {
		delete(m.ends, last)
	}
}

func (m *memory) drop(of searched) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.ends, of)
}

func (m *memory) clear() {
	m.mu.Lock()
	defer m.mu.Unlock()
	clear(m.ends)
	m.clears++
}

func (m *memory) cleared() uint64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.clears
}
