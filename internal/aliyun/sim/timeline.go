package sim

import (
	"slices"
	"time"
)

// A viewer sees changes of ENIs with a lag of its own.
type viewer int

const (
	byAPI viewer = iota
	byMetadata
	viewers
)

// A timeline is what an ENI was, with when each viewer sees it. It is empty while no viewer lags.
type timeline []moment

type moment struct {
	seen  [viewers]time.Time // never before the moment that precedes it
	state *eniState          // nil: gone
}

// note records a change of the ENI that was just made. The caller holds c.mu.
func (c *Cloud) note(e *eni) {
	lags := [viewers]Latency{byAPI: c.cfg.DescribeLag, byMetadata: c.cfg.MetadataLag}
	if lags == [viewers]Latency{} {
		return
	}
	now := c.cfg.Now()
	e.changes++
	rng := c.rng("lag "+e.ID, e.changes)
	var m moment
	for v, lag := range lags {
		m.seen[v] = now.Add(lag.draw(rng))
		if n := len(e.past); n > 0 && e.past[n-1].seen[v].After(m.seen[v]) {
			m.seen[v] = e.past[n-1].seen[v]
		}
	}
	if !e.gone {
		state := e.eniState
		m.state = &state
	}
	e.past = append(e.past.since(now), m)
	if e.gone {
		c.ghosts = append(c.ghosts, e)
	}
}

// since drops what every viewer has seen replaced.
func (t timeline) since(now time.Time) timeline {
	first := 0
	for i, m := range t {
		if !slices.ContainsFunc(m.seen[:], now.Before) {
			first = i
		}
	}
	return slices.Clone(t[first:])
}

// at returns what the viewer sees; nil: nothing.
func (t timeline) at(v viewer, now time.Time) *eniState {
	var state *eniState
	for _, m := range t {
		if now.Before(m.seen[v]) {
			break
		}
		state = m.state
	}
	return state
}

// shown returns the ENIs as the viewer sees them now, oldest first. The caller holds c.mu.
func (c *Cloud) shown(v viewer) []*eniState {
	now := c.cfg.Now()
	c.ghosts = slices.DeleteFunc(c.ghosts, func(e *eni) bool { return len(e.past.since(now)) <= 1 })
	var all []*eniState
	for _, e := range append(c.sortedENIs(), c.ghosts...) {
		state := &e.eniState
		if len(e.past) > 0 {
			state = e.past.at(v, now)
		}
		if state != nil {
			all = append(all, state)
		}
	}
	slices.SortFunc(all, func(a, b *eniState) int { return a.seq - b.seq })
	return all
}
