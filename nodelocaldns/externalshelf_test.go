package nodelocaldns

import (
	"fmt"
	"math"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/nearpath/nearpath/bpf"
)

func shelfKey(name string, scope uint32) bpf.AnswerKey {
	return bpf.AnswerKey{Name: name + ".example.", Type: 1, Scope: scope}
}

var shelfStart = time.Unix(1_000_000, 0)

// fill puts answers of a TTL into a shelf: each is asked for twice.
func fill(t *testing.T, s *shelf, now time.Time, ttl time.Duration, keys ...bpf.AnswerKey) {
	t.Helper()
	for _, key := range keys {
		if s.asked(now, key, now.Add(ttl), false) {
			t.Fatalf("%v is put when it is asked for once", key)
		}
		if !s.asked(now, key, now.Add(ttl), false) {
			t.Fatalf("%v is not put when it is asked for again", key)
		}
		s.placed(now, key, now.Add(ttl), false, nil)
	}
}

func TestShelfPutsWhatIsAskedForAgainWithinItsTTL(t *testing.T) {
	t.Parallel()
	s := newShelf(8, 4)
	now, key := shelfStart, shelfKey("a", 0)
	if s.asked(now, key, now.Add(10*time.Second), false) {
		t.Error("put at the first question")
	}
	if s.asked(now.Add(10*time.Second), key, now.Add(20*time.Second), false) {
		t.Error("put at a question after the first answer's end")
	}
	if s.asked(now.Add(15*time.Second), shelfKey("a", 7), now.Add(20*time.Second), false) {
		t.Error("put for a scope when another scope asked")
	}
	if !s.asked(now.Add(19*time.Second), key, now.Add(20*time.Second), false) {
		t.Error("not put at a question within the TTL")
	}
}

func TestShelfRefreshesWhatIsAskedFor(t *testing.T) {
	t.Parallel()
	s := newShelf(8, 4)
	hot, cold, once := shelfKey("hot", 0), shelfKey("cold", 0), shelfKey("once", 0)
	fill(t, s, shelfStart, 100*time.Second, hot, cold, once)
	if ops := s.plan(shelfStart.Add(79 * time.Second)); len(ops) > 0 {
		t.Errorf("ops %v before a fifth of the life is left", ops)
	}
	now := shelfStart.Add(80 * time.Second)
	s.counted(now.Add(-time.Second), hot, 2)
	s.counted(now, once, 1)
	if ops := s.plan(now); fmt.Sprint(ops) != "[ask again hot.example. type 1]" {
		t.Errorf("ops %v, want only the hot one asked for", ops)
	}
	if ops := s.plan(now.Add(10 * time.Second)); len(ops) > 0 {
		t.Errorf("ops %v while a refresh is under way", ops)
	}
	s.answered(now, hot) // the cache gave the old answer
	if ops := s.plan(now.Add(5 * time.Second)); len(ops) != 1 {
		t.Errorf("ops %v, want another attempt when a quarter of what was left is over", ops)
	}
	s.placed(now, hot, now.Add(100*time.Second), false, nil)
	s.answered(now, hot)
	if ops := s.plan(now.Add(79 * time.Second)); slices.ContainsFunc(ops, func(o externalOp) bool { return o.verb == askAgain }) {
		t.Errorf("ops %v for an answer that was just refreshed", ops)
	}
	if ops := s.plan(shelfStart.Add(160 * time.Second)); len(ops) != 2 || ops[0].verb != dropEnded || ops[1].verb != dropEnded {
		t.Errorf("ops %v, want the two that ended a minute ago dropped", ops)
	}
}

func TestShelfRefreshesNothingThatWasAskedForLongAgo(t *testing.T) {
	t.Parallel()
	s := newShelf(8, 4)
	key := shelfKey("burst", 0)
	fill(t, s, shelfStart, 1000*time.Second, key)
	s.counted(shelfStart.Add(time.Second), key, 1000)
	if ops := s.plan(shelfStart.Add(980 * time.Second)); len(ops) > 0 {
		t.Errorf("ops %v for what was asked for 16 minutes ago", ops)
	}
}

func TestShelfKeepsAStaleAnswerOnlyWhileItIsAskedFor(t *testing.T) {
	t.Parallel()
	s := newShelf(8, 4)
	key := shelfKey("stale", 0)
	fill(t, s, shelfStart, 10*time.Second, key)
	now := shelfStart.Add(10 * time.Second)
	if !s.asked(now, key, now.Add(staleLease), true) {
		t.Fatal("a stale answer is not put for one that has ended")
	}
	s.placed(now, key, now.Add(staleLease), true, nil)
	if s.asked(now, key, now, true) {
		t.Error("put again for nothing")
	}
	s.counted(now, key, 1)
	if ops := s.plan(now.Add(2 * time.Second)); len(ops) != 1 || ops[0].verb != askAgain {
		t.Errorf("ops %v, want a stale answer asked for early", ops)
	}
	if !s.asked(now, key, now.Add(time.Second), false) {
		t.Error("a fresh answer does not replace a stale one")
	}
}

func TestShelfKeepsHotOverCold(t *testing.T) {
	t.Parallel()
	s := newShelf(4, 2)
	now := shelfStart
	keys := []bpf.AnswerKey{shelfKey("a", 0), shelfKey("b", 0), shelfKey("c", 0), shelfKey("d", 0)}
	fill(t, s, now, time.Hour, keys...)
	for i, key := range keys {
		s.counted(now, key, uint64(i*10))
	}
	newcomer := shelfKey("new", 0)
	for range 3 {
		if s.asked(now, newcomer, now.Add(time.Hour), false) {
			t.Fatal("put without room")
		}
	}
	if ops := s.makeRoom(now); fmt.Sprint(ops) != "[drop colder a.example. type 1]" {
		t.Fatalf("ops %v, want the coldest dropped", ops)
	}
	s.gone(keys[0])
	if !s.asked(now, newcomer, now.Add(time.Hour), false) {
		t.Fatal("not put with room")
	}
	s.placed(now, newcomer, now.Add(time.Hour), false, nil)
	other := shelfKey("other", 0)
	for range 4 {
		s.asked(now, other, now.Add(time.Hour), false)
	}
	if ops := s.makeRoom(now); len(ops) > 0 {
		t.Errorf("ops %v for a name that is not twice as hot", ops)
	}
}

func TestShelfBoundsEachScope(t *testing.T) {
	t.Parallel()
	s := newShelf(100, 2)
	now := shelfStart
	fill(t, s, now, time.Hour, shelfKey("a", 7), shelfKey("b", 7), shelfKey("z", 0))
	third := shelfKey("c", 7)
	for range 4 {
		if s.asked(now, third, now.Add(time.Hour), false) {
			t.Fatal("a third one under a scope with room for two")
		}
	}
	if ops := s.makeRoom(now); fmt.Sprint(ops) != "[drop colder a.example. type 1 scope 7]" {
		t.Errorf("ops %v, want one of the scope dropped", ops)
	}
	fill(t, s, now, time.Hour, shelfKey("c", 8))
}

func TestShelfBelievesTheKernelThatItIsFull(t *testing.T) {
	t.Parallel()
	s := newShelf(100, 64)
	now := shelfStart
	fill(t, s, now, time.Hour, shelfKey("a", 0))
	s.full(now, shelfKey("b", 0))
	s.asked(now, shelfKey("b", 0), now.Add(time.Hour), false)
	if s.asked(now, shelfKey("b", 0), now.Add(time.Hour), false) {
		t.Error("put into a map that was full")
	}
	if ops := s.makeRoom(now); len(ops) != 1 {
		t.Errorf("ops %v, want room made where the kernel has none", ops)
	}
	later := now.Add(fullFor)
	s.asked(later, shelfKey("b", 0), later.Add(time.Hour), false)
	if !s.asked(later, shelfKey("b", 0), later.Add(time.Hour), false) {
		t.Error("not tried again")
	}
}

// A shelfModel is what a shelf must do, without heaps and halves.
type shelfModel struct {
	shelf *shelf
	now   time.Time
	asked map[bpf.AnswerKey]time.Time // the end of the last answer
	held  map[bpf.AnswerKey]*modelEntry
}

type modelEntry struct {
	ends            time.Time
	hits            uint64
	asking, doubted bool
}

func (m *shelfModel) ask(t *rapid.T, key bpf.AnswerKey) {
	ends := m.now.Add(rapid.SampledFrom([]time.Duration{time.Second, 5 * time.Second, 30 * time.Second, 300 * time.Second}).Draw(t, "ttl"))
	put := m.shelf.asked(m.now, key, ends, false)
	e := m.held[key]
	switch {
	case put && e == nil && !m.now.Before(m.asked[key]):
		t.Fatalf("%v is put at the first question", key)
	case put && e != nil && !e.doubted && m.now.Before(e.ends) && ends.Sub(e.ends) < time.Second:
		t.Fatalf("%v is put though what is held is as good", key)
	case !put && e != nil && !m.now.Before(e.ends):
		t.Fatalf("%v is not put though what is held has ended", key)
	}
	m.asked[key] = ends
	if put {
		m.place(key, ends)
	}
}

func (m *shelfModel) place(key bpf.AnswerKey, ends time.Time) {
	m.shelf.placed(m.now, key, ends, false, nil)
	e := m.held[key]
	if e == nil {
		e = &modelEntry{}
		m.held[key] = e
	}
	e.ends, e.hits, e.doubted = ends, 0, false
	delete(m.asked, key)
}

func (m *shelfModel) plan(t *rapid.T) {
	for _, key := range m.shelf.ending(m.now) {
		m.shelf.counted(m.now, key, m.held[key].hits)
	}
	for _, op := range m.shelf.plan(m.now) {
		e := m.held[op.key]
		switch {
		case e == nil:
			t.Fatalf("%v: it is not held", op)
		case op.verb == dropEnded && m.now.Sub(e.ends) < keepExpired:
			t.Fatalf("%v: it ends in %v", op, e.ends.Sub(m.now))
		case op.verb == askAgain && (e.asking || e.hits < minHits && !e.doubted || !m.now.Before(e.ends)),
			op.verb == dropDoubted && !e.doubted:
			t.Fatalf("%v: asking %v, hits %d, left %v", op, e.asking, e.hits, e.ends.Sub(m.now))
		case op.verb != askAgain:
			m.drop(op.key)
		default:
			e.asking = true
		}
	}
}

func (m *shelfModel) drop(key bpf.AnswerKey) {
	m.shelf.gone(key)
	delete(m.held, key)
}

// answer ends every refresh that is under way: with the same answer, or a fresh one.
func (m *shelfModel) answer(t *rapid.T) {
	for key, e := range m.held {
		if !e.asking {
			continue
		}
		if rapid.Bool().Draw(t, "fresh") {
			m.place(key, m.now.Add(30*time.Second))
		}
		e.asking = false
		m.shelf.answered(m.now, key)
	}
}

func (m *shelfModel) makeRoom(t *rapid.T) {
	hottest := 0.0
	for _, h := range m.shelf.waiting {
		hottest = max(hottest, h.now(m.now))
	}
	for _, op := range m.shelf.makeRoom(m.now) {
		e := m.shelf.held[op.key]
		if m.now.Before(e.ends) && 2*e.heat.now(m.now) >= hottest {
			t.Fatalf("%v: its heat is %f, and %f that of the hottest name that waits", op, e.heat.now(m.now), hottest)
		}
		m.drop(op.key)
	}
}

func (m *shelfModel) check(t *rapid.T) {
	s := m.shelf
	scopes, next := map[uint32]int{}, time.Unix(math.MaxInt32, 0)
	for key, e := range s.held {
		scopes[key.Scope]++
		if m.held[key] == nil || !m.held[key].ends.Equal(e.ends) {
			t.Fatalf("%v: held with the end %v, the model has %v", key, e.ends, m.held[key])
		}
		if e.due.Before(next) {
			next = e.due
		}
		if s.due[e.index] != e {
			t.Fatalf("%v is not in its place", key)
		}
	}
	if len(s.held) != len(m.held) || len(s.held) > s.room || len(s.due) != len(s.held) {
		t.Fatalf("%d held, %d in the model, %d due, room for %d", len(s.held), len(m.held), len(s.due), s.room)
	}
	if len(s.held) > 0 && !s.next().Equal(next) {
		t.Fatalf("due at %v, want %v", s.next(), next)
	}
	for scope, n := range scopes {
		if s.scopes[scope] != n || scope != 0 && n > s.perScope {
			t.Fatalf("scope %d has %d, counted as %d, may have %d", scope, n, s.scopes[scope], s.perScope)
		}
	}
	if len(s.scopes) != len(scopes) || len(s.seen) > s.room || len(s.seenBefore) > s.room || len(s.waiting) > maxWaiting {
		t.Fatalf("%d scopes of %d, %d+%d seen, %d waiting", len(s.scopes), len(scopes), len(s.seen), len(s.seenBefore), len(s.waiting))
	}
}

func TestShelfAgainstModel(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		m := &shelfModel{
			shelf: newShelf(rapid.IntRange(1, 6).Draw(t, "room"), rapid.IntRange(1, 3).Draw(t, "per scope")), now: shelfStart,
			asked: map[bpf.AnswerKey]time.Time{}, held: map[bpf.AnswerKey]*modelEntry{},
		}
		key := rapid.Custom(func(t *rapid.T) bpf.AnswerKey {
			return shelfKey(rapid.SampledFrom([]string{"a", "b", "c", "d", "e"}).Draw(t, "name"), rapid.Uint32Range(0, 2).Draw(t, "scope"))
		})
		t.Repeat(map[string]func(*rapid.T){
			"":     m.check,
			"ask":  func(t *rapid.T) { m.ask(t, key.Draw(t, "key")) },
			"plan": m.plan, "answer": m.answer, "make room": m.makeRoom,
			"hit": func(t *rapid.T) {
				k := key.Draw(t, "key")
				if e := m.held[k]; e != nil && m.now.Before(e.ends) {
					e.hits += rapid.Uint64Range(1, 5).Draw(t, "hits")
				}
			},
			"sweep": func(*rapid.T) {
				for k, e := range m.held {
					m.shelf.counted(m.now, k, e.hits)
				}
			},
			"doubt": func(*rapid.T) {
				m.shelf.doubt(m.now)
				for _, e := range m.held {
					e.doubted = true
				}
			},
			"drop": func(t *rapid.T) { m.drop(key.Draw(t, "key")) },
			"wait": func(t *rapid.T) {
				m.now = m.now.Add(time.Duration(rapid.IntRange(1, 20_000).Draw(t, "ms")) * time.Millisecond)
			},
		})
	})
}
