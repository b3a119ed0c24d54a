package nodelocaldns

import (
	"cmp"
	"container/heap"
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/nearpath/nearpath/bpf"
)

const (
	// minHits is how often an answer must have been given since it was put there for another one to be fetched before it
	// ends: fetching it costs one upstream question, and so does the first question after its end.
	minHits = 2
	// minLead and maxLead bound how long before its end an answer is looked at; a fifth of its life otherwise. The
	// cache prefetches within a part of the TTL that we do not know, so it may be asked several times.
	minLead, maxLead = time.Second, 30 * time.Second
	// minPause is between two attempts to refresh an answer; a quarter of what is left of it otherwise.
	minPause = 100 * time.Millisecond
	// keepExpired is how long an answer that has ended keeps its place: when its name is asked again, it is back at the
	// first question. The kernel does not give it meanwhile.
	keepExpired = time.Minute
	// staleLease is how long the kernel may give a stale answer before userspace must have said so again.
	staleLease = 5 * time.Second
	staleLead  = 3 * time.Second
	// heatHalf is when a hit counts half.
	heatHalf = time.Minute
	// maxWaiting bounds how many names without a place are compared with those that have one.
	maxWaiting = 1024
	// fullFor is how long the kernel's word that it has no room is believed.
	fullFor = time.Minute
)

// An externalOp is what is to be done about an external answer.
type externalOp struct {
	verb externalVerb
	key  bpf.AnswerKey
}

type externalVerb uint8

const (
	askAgain    externalVerb = iota // ask userspace, and put what it says
	dropEnded                       // it ended a while ago
	dropColder                      // another name has more use for the place
	dropDoubted                     // it may not hold any more, and nobody has asked for it
)

func (v externalVerb) String() string {
	return [...]string{"ask again", "drop ended", "drop colder", "drop doubted"}[v]
}

func (o externalOp) String() string { return fmt.Sprintf("%s %v", o.verb, o.key) }

// heat is a count of hits of which each is worth half after heatHalf.
type heat struct {
	value float64
	at    time.Time
}

func (h heat) now(now time.Time) float64 {
	if h.value == 0 {
		return 0
	}
	return h.value * math.Exp2(-max(now.Sub(h.at), 0).Seconds()/heatHalf.Seconds())
}

func (h *heat) add(now time.Time, hits uint64) {
	h.value, h.at = h.now(now)+float64(hits), now
}

// A shelf decides which external answers the kernel holds: those asked for twice within their TTL, the hotter ones where
// there is no room for all. It is told of questions and of hits, and never looks at a clock. It is not safe for concurrent use.
type shelf struct {
	room, perScope int

	held   map[bpf.AnswerKey]*shelved
	scopes map[uint32]int // how many are held, by scope
	due    dueHeap        // all that is held, by when it must be looked at
	// seen and seenBefore are names that were asked for and are not held, with the end of their answer. Two maps of
	// bounded size forget the oldest half at once.
	seen, seenBefore map[bpf.AnswerKey]time.Time
	waiting          map[bpf.AnswerKey]*heat // asked for twice, without a place
	fullUntil        time.Time
	fullAt           int // how many were held when the kernel had no room
}

// A shelved answer is in the kernel's map.
type shelved struct {
	key       bpf.AnswerKey
	put, ends time.Time
	stale     bool
	asking    bool      // it is being refreshed
	doubted   bool      // it may not hold any more
	hits      uint64    // since it was put, as last read
	last      time.Time // when hits were last found to have grown, or it was put
	heat      heat      // over its whole time here
	names     []string  // other names that the answer is made of
	due       time.Time // when it must be looked at
	index     int       // in the heap
}

func newShelf(room, perScope int) *shelf {
	return &shelf{
		room: room, perScope: perScope,
		held: map[bpf.AnswerKey]*shelved{}, scopes: map[uint32]int{},
		seen: map[bpf.AnswerKey]time.Time{}, waiting: map[bpf.AnswerKey]*heat{},
	}
}

// asked tells of a question that userspace answered, and of the end of that answer. It returns whether the answer should be put into the kernel.
func (s *shelf) asked(now time.Time, key bpf.AnswerKey, ends time.Time, stale bool) bool {
	if e := s.held[key]; e != nil {
		e.heat.add(now, 1)
		e.last = now
		return s.newer(now, e, ends, stale)
	}
	if !s.again(now, key, ends) {
		return false
	}
	if s.hasRoom(now, key.Scope) {
		return true
	}
	s.wait(now, key)
	return false
}

// newer is whether an answer is better than the one that is held. The cache's TTLs are whole seconds, so the same answer
// may seem to end up to a second later than before.
func (s *shelf) newer(now time.Time, e *shelved, ends time.Time, stale bool) bool {
	switch {
	case !now.Before(e.ends), e.doubted:
		return true
	case stale:
		return e.stale && ends.After(e.ends)
	}
	return e.stale || ends.Sub(e.ends) >= time.Second
}

// again notes that a name was asked for, and returns whether it was before, within the TTL of the answer.
func (s *shelf) again(now time.Time, key bpf.AnswerKey, ends time.Time) bool {
	before, ok := s.seen[key]
	if !ok {
		before = s.seenBefore[key]
	}
	if len(s.seen) >= s.room {
		s.seen, s.seenBefore = make(map[bpf.AnswerKey]time.Time), s.seen
	}
	s.seen[key] = ends
	return now.Before(before)
}

func (s *shelf) hasRoom(now time.Time, scope uint32) bool {
	if now.Before(s.fullUntil) && len(s.held) >= s.fullAt {
		return false
	}
	return len(s.held) < s.room && (scope == 0 || s.scopes[scope] < s.perScope)
}

func (s *shelf) wait(now time.Time, key bpf.AnswerKey) {
	h := s.waiting[key]
	if h == nil {
		if len(s.waiting) >= maxWaiting {
			return
		}
		h = new(heat)
		s.waiting[key] = h
	}
	h.add(now, 1)
}

// full tells that the kernel's map had no room, for others use it too.
func (s *shelf) full(now time.Time, key bpf.AnswerKey) {
	s.fullUntil, s.fullAt = now.Add(fullFor), len(s.held)
	s.wait(now, key)
}

// placed tells that an answer is in the kernel's map.
func (s *shelf) placed(now time.Time, key bpf.AnswerKey, ends time.Time, stale bool, names []string) {
	e := s.held[key]
	if e == nil {
		e = &shelved{key: key}
		s.held[key] = e
		s.scopes[key.Scope]++
		if h := s.waiting[key]; h != nil {
			e.heat = *h
		}
		heap.Push(&s.due, e)
	}
	s.unsee(key)
	e.put, e.ends, e.stale, e.hits, e.last, e.names, e.doubted = now, ends, stale, 0, now, names, false
	s.lookAt(e, ends.Add(-e.lead()))
}

// gone tells that an answer is not in the kernel's map any more.
func (s *shelf) gone(key bpf.AnswerKey) {
	e := s.held[key]
	if e == nil {
		return
	}
	heap.Remove(&s.due, e.index)
	delete(s.held, key)
	if s.scopes[key.Scope]--; s.scopes[key.Scope] == 0 {
		delete(s.scopes, key.Scope)
	}
}

// unsee drops what is known of a name that is not held.
func (s *shelf) unsee(key bpf.AnswerKey) {
	delete(s.seen, key)
	delete(s.seenBefore, key)
	delete(s.waiting, key)
}

// forget drops what is known of names that are not held: what was said of them does not hold any more.
func (s *shelf) forget() {
	clear(s.seen)
	clear(s.seenBefore)
	clear(s.waiting)
}

// doubtPace is between two answers that are doubted at once.
const doubtPace = time.Millisecond

// doubt has all answers asked for again, the hottest first, and removes those that nobody has asked for of late: who answers has changed.
func (s *shelf) doubt(now time.Time) {
	all := s.coldest(now)
	slices.Reverse(all)
	for i, c := range all {
		e := s.held[c.key]
		e.doubted = true
		s.lookAt(e, now.Add(time.Duration(i)*doubtPace))
	}
}

// counted tells how many hits the kernel has counted since an answer was put.
func (s *shelf) counted(now time.Time, key bpf.AnswerKey, hits uint64) {
	e := s.held[key]
	if e == nil || hits == e.hits {
		return
	}
	if hits > e.hits {
		e.heat.add(now, hits-e.hits)
		e.last = now
	}
	e.hits = hits
}

// answered tells that the question of an askAgain was answered; what it said was told by placed or gone before.
func (s *shelf) answered(now time.Time, key bpf.AnswerKey) {
	e := s.held[key]
	if e == nil {
		return
	}
	e.asking = false
	if e.doubted {
		s.lookAt(e, now.Add(time.Second))
	} else if left := e.ends.Sub(now); left <= e.lead() {
		s.lookAt(e, now.Add(max(minPause, left/4)))
	}
}

// lead is how long before its end an answer is looked at.
func (e *shelved) lead() time.Duration {
	if e.stale {
		return staleLead
	}
	return min(max(e.ends.Sub(e.put)/5, minLead), maxLead)
}

// wanted is whether somebody still asks.
func (e *shelved) wanted(now time.Time) bool {
	if e.stale {
		return e.hits > 0
	}
	return e.hits >= minHits && now.Sub(e.last) <= max(e.ends.Sub(e.put)/2, 5*time.Second)
}

func (s *shelf) lookAt(e *shelved, due time.Time) {
	e.due = due
	heap.Fix(&s.due, e.index)
}

// next returns when plan has something to look at; zero when nothing is held.
func (s *shelf) next() time.Time {
	if len(s.due) == 0 {
		return time.Time{}
	}
	return s.due[0].due
}

// ending returns the answers that plan will look at before their end: their hits should be counted first.
func (s *shelf) ending(now time.Time) []bpf.AnswerKey {
	var keys []bpf.AnswerKey
	s.walkDue(0, now, func(e *shelved) {
		if now.Before(e.ends) && !e.asking {
			keys = append(keys, e.key)
		}
	})
	return keys
}

// walkDue visits the part of the heap that is due.
func (s *shelf) walkDue(i int, now time.Time, visit func(*shelved)) {
	if i >= len(s.due) || s.due[i].due.After(now) {
		return
	}
	visit(s.due[i])
	s.walkDue(2*i+1, now, visit)
	s.walkDue(2*i+2, now, visit)
}

// plan returns what is to be done now about answers that end. An askAgain is to be followed by answered, a drop by gone;
// a drop that failed is planned again a second later.
func (s *shelf) plan(now time.Time) []externalOp {
	var ops []externalOp
	for len(s.due) > 0 && !s.due[0].due.After(now) {
		e := s.due[0]
		left := e.ends.Sub(now)
		switch {
		case now.Sub(e.ends) >= keepExpired:
			ops = append(ops, externalOp{dropEnded, e.key})
			s.lookAt(e, now.Add(time.Second))
		case left <= 0 || e.asking:
			s.lookAt(e, e.ends.Add(keepExpired))
		case e.doubted && e.heat.now(now) < 0.5:
			ops = append(ops, externalOp{dropDoubted, e.key})
			s.lookAt(e, now.Add(time.Second))
		case e.doubted || e.wanted(now):
			e.asking = true
			ops = append(ops, externalOp{askAgain, e.key})
			s.lookAt(e, e.ends.Add(keepExpired))
		default:
			s.lookAt(e, now.Add(max(minPause, left/4)))
		}
	}
	return ops
}

// makeRoom returns which answers should go for names that wait. An answer goes for a name with twice its heat, so that two
// of about the same do not take turns, and one that has ended goes for any.
func (s *shelf) makeRoom(now time.Time) []externalOp {
	waiting := s.waiters(now)
	if len(waiting) == 0 {
		return nil
	}
	victims := s.coldest(now)
	var ops []externalOp
	taken := map[bpf.AnswerKey]bool{}
	for _, w := range waiting {
		crowded := w.key.Scope != 0 && s.scopes[w.key.Scope] >= s.perScope
		i := slices.IndexFunc(victims, func(v candidate) bool {
			return !taken[v.key] && (!crowded || v.key.Scope == w.key.Scope)
		})
		if i < 0 || w.heat <= 2*victims[i].heat {
			continue
		}
		taken[victims[i].key] = true
		ops = append(ops, externalOp{dropColder, victims[i].key})
	}
	return ops
}

// A candidate is for a place, or to lose its own.
type candidate struct {
	key  bpf.AnswerKey
	heat float64
}

func hotterFirst(a, b candidate) int {
	return -cmp.Or(cmp.Compare(a.heat, b.heat), compareKeys(a.key, b.key))
}

// waiters returns the names that still wait, the hottest first.
func (s *shelf) waiters(now time.Time) []candidate {
	var waiting []candidate
	for key, h := range s.waiting {
		if heat := h.now(now); heat < 0.5 || s.hasRoom(now, key.Scope) {
			delete(s.waiting, key)
		} else {
			waiting = append(waiting, candidate{key, heat})
		}
	}
	slices.SortFunc(waiting, hotterFirst)
	return waiting
}

// coldest returns all that is held, the coldest first.
func (s *shelf) coldest(now time.Time) []candidate {
	victims := make([]candidate, 0, len(s.held))
	for key, e := range s.held {
		heat := e.heat.now(now)
		if !now.Before(e.ends) {
			heat = 0
		}
		victims = append(victims, candidate{key, heat})
	}
	slices.SortFunc(victims, func(a, b candidate) int { return hotterFirst(b, a) })
	return victims
}

func compareKeys(a, b bpf.AnswerKey) int {
	return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.Type, b.Type), cmp.Compare(a.Scope, b.Scope))
}

// A dueHeap has first what must be looked at first.
type dueHeap []*shelved

func (h dueHeap) Len() int           { return len(h) }
func (h dueHeap) Less(i, j int) bool { return h[i].due.Before(h[j].due) }
func (h dueHeap) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].index, h[j].index = i, j
}

// Push implements heap.Interface.
func (h *dueHeap) Push(x any) {
	e, _ := x.(*shelved)
	e.index = len(*h)
	*h = append(*h, e)
}

// Pop implements heap.Interface.
func (h *dueHeap) Pop() any {
	old := *h
	e := old[len(old)-1]
	old[len(old)-1] = nil
	*h = old[:len(old)-1]
	return e
}
