package externaldns

import (
	"testing"
	"time"

	"pgregory.net/rapid"
)

func at(d time.Duration) time.Time { return time.Unix(1_000_000, 0).Add(d) }

func TestGuardHoldsMassDeletes(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		l    load
		held bool
	}{
		"nothing":               {load{owned: 1000}, false},
		"a few of few":          {load{owned: 10, removals: 10, batch: 10}, false},
		"more than the floor":   {load{owned: 20, removals: 11, batch: 11}, true},
		"a fifth":               {load{owned: 1000, removals: 200, batch: 200}, false},
		"more than a fifth":     {load{owned: 1000, removals: 201, batch: 1}, true},
		"replaced bit by bit":   {load{owned: 1000, removals: 500, adds: 500, batch: 5}, false},
		"replaced by one":       {load{owned: 1000, removals: 500, adds: 500, batch: 500}, true},
		"all, at the beginning": {load{owned: 1000, removals: 1000, batch: 1000}, true},
	} {
		g := newGuard(Limits{})
		if changed := g.judge("z", c.l, at(0)); changed != c.held || (len(g.holds()) > 0) != c.held {
			t.Errorf("%s: holds %v", name, g.holds())
		}
		if reason, _ := g.delete("z", at(0)); (reason != "") != c.held {
			t.Errorf("%s: a delete is held because of %q", name, reason)
		}
		if reason, _ := g.delete("other", at(0)); reason != "" {
			t.Errorf("%s: another zone suffers: %s", name, reason)
		}
	}
}

func TestGuardHoldEnds(t *testing.T) {
	t.Parallel()
	all := load{owned: 100, removals: 100, batch: 100}
	later := load{owned: 100, removals: 100}
	hold := func(l Limits) *guard {
		g := newGuard(l)
		g.judge("z", all, at(0))
		return g
	}
	g := hold(Limits{})
	if g.judge("z", later, at(24*time.Hour)); len(g.holds()) == 0 {
		t.Error("a hold ended by itself")
	}
	if changed := g.judge("z", load{owned: 100, removals: 5}, at(24*time.Hour)); !changed || len(g.holds()) > 0 {
		t.Error("a hold of little goes on")
	}
	g = hold(Limits{})
	g.release("z", at(time.Minute))
	if g.judge("z", all, at(2*time.Minute)); len(g.holds()) > 0 {
		t.Error("a release did not last")
	}
	if g.judge("z", all, at(12*time.Minute)); len(g.holds()) == 0 {
		t.Error("a release lasts for ever")
	}
	g = hold(Limits{Grace: time.Hour})
	if g.judge("z", later, at(59*time.Minute)); len(g.holds()) == 0 {
		t.Error("the grace is too short")
	}
	if g.judge("z", later, at(time.Hour)); len(g.holds()) > 0 {
		t.Error("the grace does not end")
	}
	if g.judge("z", later, at(time.Hour+time.Second)); len(g.holds()) > 0 {
		t.Error("a hold comes back after its grace")
	}
	g = newGuard(Limits{})
	g.stop("z", "maintenance", at(0))
	if g.judge("z", load{owned: 100}, at(time.Hour)); len(g.holds()) == 0 {
		t.Error("an operator's hold ended by itself")
	}
}

func TestGuardSources(t *testing.T) {
	t.Parallel()
	g := newGuard(Limits{Grace: time.Hour})
	g.count("Ingress", 9, at(0))
	if g.count("Ingress", 0, at(0)); g.gone("Ingress", at(0)) {
		t.Error("a source with few names may go")
	}
	g.count("Service", 50, at(0))
	g.count("Service", 20, at(time.Second))
	if g.gone("Service", at(time.Second)) {
		t.Error("a source with names is gone")
	}
	g.count("Service", 0, at(2*time.Second))
	if !g.gone("Service", at(time.Minute)) || g.gone("Pod", at(time.Minute)) {
		t.Error("an empty source is not noticed, or another one")
	}
	if g.gone("Service", at(2*time.Hour)) {
		t.Error("the grace does not end")
	}
	if g.count("Service", 1, at(time.Minute)); g.gone("Service", at(time.Minute)) {
		t.Error("a source that is back is gone")
	}
}

func TestGuardBudget(t *testing.T) {
	t.Parallel()
	g, now, done := newGuard(Limits{DeletesPerMinute: 60}), at(0), 0
	for now.Before(at(time.Minute)) {
		if _, wait := g.delete("z", now); wait > 0 {
			now = now.Add(wait)
			continue
		}
		done++
	}
	if done < 60 || done > 66 {
		t.Errorf("%d deletes in a minute", done)
	}
}

// TestGuardBoundsLoss deletes and adds at random, each as soon as it may: no window loses more than it may.
func TestGuardBoundsLoss(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		g := newGuard(Limits{DeletesPerMinute: 1e6})
		l := load{owned: rapid.IntRange(0, 300).Draw(t, "owned")}
		now, history := at(0), []step{{at(0), l.owned}}
		for range rapid.IntRange(1, 60).Draw(t, "steps") {
			now = now.Add(time.Duration(rapid.IntRange(0, 180).Draw(t, "seconds")) * time.Second)
			l.batch = rapid.IntRange(0, min(40, l.owned-l.removals)).Draw(t, "lost")
			l.removals += l.batch
			l.adds = rapid.IntRange(0, 20).Draw(t, "adds")
			g.judge("z", l, now)
			if held, _ := g.delete("z", now); held == "" {
				l.owned -= l.removals
				l.removals = 0
			}
			l.owned += l.adds
			history = append(history, step{now, l.owned})
			peak, since := l.owned, now
			for i, s := range history {
				if i+1 == len(history) || history[i+1].since.After(now.Add(-g.Window)) {
					if s.n > peak {
						peak, since = s.n, s.since
					}
				}
			}
			if lost := peak - l.owned; lost > g.most(peak) {
				t.Fatalf("%d of %d records went since %v", lost, peak, now.Sub(since))
			}
		}
	})
}

func TestHighest(t *testing.T) {
	t.Parallel()
	var h highest
	for i, c := range []struct{ minute, n, most int }{{0, 5, 5}, {1, 9, 9}, {2, 3, 9}, {11, 3, 9}, {12, 4, 4}, {30, 4, 4}, {31, 1, 4}, {40, 1, 4}, {41, 1, 1}} {
		now := at(time.Duration(c.minute) * time.Minute)
		h.add(c.n, now, 10*time.Minute)
		if got := h.most(now, 10*time.Minute); got != c.most {
			t.Errorf("%d: the most at minute %d is %d, want %d", i, c.minute, got, c.most)
		}
	}
}
