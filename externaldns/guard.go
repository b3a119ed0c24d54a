package externaldns

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"time"
)

// Limits are the mass-delete guard's. Zero fields have the defaults named below.
type Limits struct {
	// Floor and Percent: within Window a zone may lose Percent of our records, but Floor in any case. More is held, all of it.
	Floor   int           // 10
	Percent int           // 20
	Window  time.Duration // 10 min
	// Grace ends a hold by itself; zero: only a release does, or that there is nothing left to hold.
	Grace time.Duration
	// DeletesPerMinute bounds deletes in a zone, whoever allowed them.
	DeletesPerMinute int // 600
}

func (l Limits) complete() Limits {
	l.Floor, l.Percent = cmp.Or(l.Floor, 10), cmp.Or(l.Percent, 20)
	l.Window, l.DeletesPerMinute = cmp.Or(l.Window, 10*time.Minute), cmp.Or(l.DeletesPerMinute, 600)
	return l
}

// most is how many of n records may go.
func (l Limits) most(n int) int { return max(l.Floor, n*l.Percent/100) }

// A Hold keeps deletes in a zone from being done. Everything else goes on.
type Hold struct {
	ZoneID string
	Reason string
	Since  time.Time
	// Pending is how many records it holds.
	Pending int
}

func (h Hold) String() string {
	return fmt.Sprintf("zone %s: %d deletes are held: %s", h.ZoneID, h.Pending, h.Reason)
}

// A guard decides whether records may be deleted. What it looks at is the size that a zone is going to have, not how many
// deletes there are: names that come and go as fast make no loss, and a name that is renamed none either, unless it is one
// change that renames many. It knows no clock.
type guard struct {
	Limits
	zones   map[string]*zoneGuard
	sources map[string]*source
}

type zoneGuard struct {
	owned    highest
	hold     *Hold     // nil: none
	byHand   bool      // the hold is an operator's: only a release ends it
	released time.Time // until then nothing is held
	tokens   float64   // deletes that may be done now
	at       time.Time // when they were counted
}

// A source is a kind of object, as far as names are wanted for it.
type source struct {
	names highest
	now   int
	gone  time.Time // when the last name went; zero: it has names, or had few
}

func newGuard(l Limits) *guard {
	return &guard{Limits: l.complete(), zones: map[string]*zoneGuard{}, sources: map[string]*source{}}
}

func (g *guard) zone(id string, now time.Time) *zoneGuard {
	z := g.zones[id]
	if z == nil {
		z = &zoneGuard{tokens: g.burst(), at: now}
		g.zones[id] = z
	}
	return z
}

// burst is what may be deleted at once after a pause: six seconds' worth.
func (g *guard) burst() float64 { return max(1, float64(g.DeletesPerMinute)/10) }

// A load is what is known and planned of a zone.
type load struct {
	owned    int // records of ours
	removals int // of them, planned to go
	adds     int // planned to come
	batch    int // removals that the latest change alone asks for
}

// judge looks at a zone after something was planned or done, and holds its deletes, or lets go. It reports whether that
// is a change.
func (g *guard) judge(id string, l load, now time.Time) (changed bool) {
	z := g.zone(id, now)
	z.owned.add(l.owned, now, g.Window)
	reason := g.reason(z, l, now)
	if z.hold != nil {
		z.hold.Pending = l.removals
		// A batch is over once it is planned, what it asks for is not.
		over := reason == "" && l.removals <= g.most(l.owned) || g.Grace > 0 && now.Sub(z.hold.Since) >= g.Grace
		if z.byHand || !over {
			return false
		}
		if reason != "" {
			z.released = now.Add(g.Window) // grace, or it would be held again at once
		}
		z.hold = nil
		return true
	}
	if reason == "" || now.Before(z.released) {
		return false
	}
	z.hold = &Hold{ZoneID: id, Reason: reason, Since: now, Pending: l.removals}
	return true
}

// reason says why the deletes of a zone should be held.
func (g *guard) reason(z *zoneGuard, l load, now time.Time) string {
	peak := z.owned.most(now, g.Window)
	loss := peak - (l.owned - l.removals + l.adds)
	switch {
	case l.removals == 0:
		return ""
	case l.batch > g.most(peak):
		return fmt.Sprintf("one change takes away %d of %d records, more than %d", l.batch, peak, g.most(peak))
	case loss > g.most(peak):
		return fmt.Sprintf("of %d records %d would be gone within %v, more than %d", peak, loss, g.Window, g.most(peak))
	}
	return ""
}

// delete draws a delete from the zone's budget. It says why it may not be done, or how long to wait.
func (g *guard) delete(id string, now time.Time) (held string, wait time.Duration) {
	held, wait = g.mayDelete(id, now)
	if held == "" && wait == 0 {
		g.zone(id, now).tokens--
	}
	return held, wait
}

// mayDelete says the same without drawing.
func (g *guard) mayDelete(id string, now time.Time) (held string, wait time.Duration) {
	z := g.zone(id, now)
	if z.hold != nil {
		return z.hold.Reason, 0
	}
	rate := float64(g.DeletesPerMinute) / 60
	z.tokens = min(g.burst(), z.tokens+now.Sub(z.at).Seconds()*rate)
	z.at = now
	if z.tokens < 1 {
		return "", max(time.Millisecond, time.Duration((1-z.tokens)/rate*float64(time.Second)))
	}
	return "", 0
}

// stop holds the deletes of a zone until they are released.
func (g *guard) stop(id, reason string, now time.Time) {
	z := g.zone(id, now)
	z.byHand = true
	z.hold = &Hold{ZoneID: id, Reason: reason, Since: now}
}

// release lets everything pass for one window that is planned in the zone by now and until then, and forgets which
// sources are gone.
func (g *guard) release(id string, now time.Time) {
	z := g.zone(id, now)
	z.hold, z.byHand, z.released = nil, false, now.Add(g.Window)
	for _, s := range g.sources {
		s.gone = time.Time{}
	}
}

// count tells how many names a source has now.
func (g *guard) count(kind string, n int, now time.Time) {
	s := g.sources[kind]
	if s == nil {
		s = &source{}
		g.sources[kind] = s
	}
	if n == 0 && s.now > 0 && s.names.most(now, g.Window) >= g.Floor {
		s.gone = now
	} else if n > 0 {
		s.gone = time.Time{}
	}
	s.now = n
	s.names.add(n, now, g.Window)
}

// gone reports whether a source that had names has none any more, and that is not long enough ago to be believed.
func (g *guard) gone(kind string, now time.Time) bool {
	s := g.sources[kind]
	return s != nil && !s.gone.IsZero() && (g.Grace == 0 || now.Sub(s.gone) < g.Grace)
}

// holds returns the holds there are, by zone.
func (g *guard) holds() (list []Hold) {
	for _, id := range slices.Sorted(maps.Keys(g.zones)) {
		if h := g.zones[id].hold; h != nil {
			list = append(list, *h)
		}
	}
	return list
}

// A highest knows the largest of what a number was within a window.
type highest struct{ steps []step }

// A step is what the number was from a time on. Steps fall: one that a later one reaches is of no interest.
type step struct {
	since time.Time
	n     int
}

func (h *highest) add(n int, now time.Time, window time.Duration) {
	if last := len(h.steps) - 1; last >= 0 && h.steps[last].n == n {
		return
	}
	h.forget(now, window)
	for len(h.steps) > 0 && h.steps[len(h.steps)-1].n <= n {
		h.steps = h.steps[:len(h.steps)-1]
	}
	h.steps = append(h.steps, step{now, n})
}

// forget drops the steps that ended before the window.
func (h *highest) forget(now time.Time, window time.Duration) {
	for len(h.steps) > 1 && !h.steps[1].since.After(now.Add(-window)) {
		h.steps = slices.Delete(h.steps, 0, 1)
	}
}

func (h *highest) most(now time.Time, window time.Duration) int {
	h.forget(now, window)
	if len(h.steps) == 0 {
		return 0
	}
	return h.steps[0].n
}
