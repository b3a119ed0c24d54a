package answers

import (
	"context"
	"hash/maphash"
	"maps"
	"math"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/coredns/coredns/plugin"
	"github.com/coredns/coredns/plugin/cache"
	"github.com/coredns/coredns/plugin/pkg/dnsutil"
	"github.com/coredns/coredns/plugin/pkg/response"
	"github.com/miekg/dns"
)

const (
	// maxForgotten bounds the names that go past the cache.
	maxForgotten = 256
	// rounding is how much later an answer may seem to end each time that it is given: the cache's TTLs are whole seconds,
	// and it takes a while until we look at the clock.
	rounding = 1500 * time.Millisecond
	// halfEnds is half of the answers whose end is known. With more in the cache, some stale ones pass for fresh once.
	halfEnds = 16384
)

// A tap stands before and behind `cache`, which has no way to drop an answer and does not say which ones are stale. What
// the cache gives first of an answer that it got says when that one ends, with all that the cache makes of TTLs; what it
// gives with a later end, without having got another one, is stale.
type tap struct {
	cache *cache.Cache // the real one
	seed  maphash.Seed
	now   func() time.Time

	mu sync.Mutex // guards what follows
	// ends are by question; the older half of them is in endsBefore.
	ends, endsBefore map[uint64]end
	forgotten        map[string]time.Time // folded names that go past the cache, until when
}

// insert puts a tap around the cache that a chain has. The plugins before it point to it, so it becomes a shell without
// zones, which passes everything on; call it when all plugins are set up, and before the server serves.
func insert(c *cache.Cache) *tap {
	inner := *c
	t := &tap{
		cache: &inner, seed: maphash.MakeSeed(), now: time.Now,
		ends: map[uint64]end{}, forgotten: map[string]time.Time{},
	}
	behind := inner.Next
	inner.Next = plugin.HandlerFunc(func(ctx context.Context, w dns.ResponseWriter, r *dns.Msg) (int, error) {
		return plugin.NextOrFailure(name, behind, ctx, &learner{ResponseWriter: w, tap: t}, r)
	})
	c.Zones, c.Next = nil, plugin.HandlerFunc(t.serve)
	return t
}

// An end is what is known of an answer in the cache.
type end struct {
	at  time.Time // zero when nothing was given yet
	got kind      // of an answer that the cache got since, of which nothing was given
}

type kind uint8

const (
	nothing kind = iota
	positive
	negative
)

// kindOf returns nothing for what the cache does not take for an answer.
func kindOf(m *dns.Msg, now time.Time) kind {
	if len(m.Question) != 1 || m.Truncated {
		return nothing
	}
	switch t, _ := response.Typify(m, now.UTC()); t {
	case response.NoError:
		return positive
	case response.NameError, response.NoData:
		return negative
	}
	return nothing
}

// serve is a question on its way to the cache.
func (t *tap) serve(ctx context.Context, w dns.ResponseWriter, r *dns.Msg) (int, error) {
	if len(r.Question) == 1 && t.isForgotten(r.Question[0].Name) {
		return plugin.NextOrFailure(name, t.cache.Next, ctx, w, r)
	}
	if note, ok := ctx.Value(staleKey{}).(*staleNote); ok {
		w = &judge{ResponseWriter: w, tap: t, note: note}
	}
	return t.cache.ServeDNS(ctx, w, r)
}

func (t *tap) isForgotten(name string) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.forgotten) == 0 {
		return false
	}
	name = strings.ToLower(name)
	until, ok := t.forgotten[name]
	if ok && !t.now().Before(until) {
		delete(t.forgotten, name)
		return false
	}
	return ok
}

// forget has a name go past the cache until everything that it knows of the name now has ended: an hour is how long
// `cache` keeps anything unless told otherwise.
func (t *tap) forget(name string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.forgotten) >= maxForgotten {
		delete(t.forgotten, slices.MinFunc(slices.Collect(maps.Keys(t.forgotten)), func(a, b string) int {
			return t.forgotten[a].Compare(t.forgotten[b])
		}))
	}
	t.forgotten[strings.ToLower(name)] = t.now().Add(dnsutil.MaximumDefaultTTL)
}

func (t *tap) key(q dns.Question) uint64 {
	var h maphash.Hash
	h.SetSeed(t.seed)
	_, _ = h.WriteString(strings.ToLower(q.Name))
	_, _ = h.Write([]byte{byte(q.Qtype >> 8), byte(q.Qtype)})
	return h.Sum64()
}

// end returns what is known of a question, with mu held.
func (t *tap) end(key uint64) end {
	e, ok := t.ends[key]
	if !ok {
		e = t.endsBefore[key]
	}
	return e
}

func (t *tap) setEnd(key uint64, e end) {
	if len(t.ends) >= halfEnds {
		t.ends, t.endsBefore = make(map[uint64]end), t.ends
	}
	t.ends[key] = e
}

// got notes that the cache gets an answer.
func (t *tap) got(m *dns.Msg) {
	k := kindOf(m, t.now())
	if k == nothing {
		return
	}
	key := t.key(m.Question[0])
	t.mu.Lock()
	defer t.mu.Unlock()
	e := t.end(key)
	e.got = k
	t.setEnd(key, e)
}

// gives returns whether an answer that the cache gives is stale.
func (t *tap) gives(m *dns.Msg) bool {
	now := t.now()
	k := kindOf(m, now)
	if k == nothing {
		return false
	}
	typ, _ := response.Typify(m, now.UTC())
	ends := now.Add(dnsutil.MinimalTTLWithMaximum(m, typ, math.MaxInt32*time.Second))
	key := t.key(m.Question[0])
	t.mu.Lock()
	defer t.mu.Unlock()
	e := t.end(key)
	if e.at.IsZero() || e.got == k {
		t.setEnd(key, end{at: ends})
		return false
	}
	return ends.After(e.at.Add(rounding))
}

// A learner is the cache's writer towards the upstream.
type learner struct {
	dns.ResponseWriter
	tap *tap
}

// WriteMsg implements dns.ResponseWriter. A client that waits for the answer is given it within the write, one that asks
// later after it; in between, another one may still be given what the cache had.
func (l *learner) WriteMsg(m *dns.Msg) error {
	l.tap.got(m)
	defer l.tap.got(m)
	return l.ResponseWriter.WriteMsg(m)
}

// A staleNote says whether an answer is made of stale ones.
type staleNote struct{ stale atomic.Bool } // lookups of a search run at once

type staleKey struct{}

func withStaleNote(ctx context.Context) (context.Context, *staleNote) {
	n := new(staleNote)
	return context.WithValue(ctx, staleKey{}, n), n
}

// A judge is the writer that the cache answers to.
type judge struct {
	dns.ResponseWriter
	tap  *tap
	note *staleNote
}

// WriteMsg implements dns.ResponseWriter.
func (j *judge) WriteMsg(m *dns.Msg) error {
	if j.tap.gives(m) {
		j.note.stale.Store(true)
	}
	return j.ResponseWriter.WriteMsg(m)
}
