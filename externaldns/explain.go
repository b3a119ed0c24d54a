package externaldns

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// An Explanation is why a name is as it is.
type Explanation struct {
	Name string
	// Zone and Place are where it belongs; NoPlace says why it belongs nowhere.
	ZoneName string
	Place    Place
	NoPlace  string
	Barred   string
	Wants    []Want
	Rows     []Row // at all its places
	Ops      []Op
	Problems []Problem
	// State is what the Syncer does about it; empty when none was asked.
	State string
}

// Explain explains a name.
func (v *View) Explain(name string, desired Desired) Explanation {
	name = canonicalName(name)
	e := Explanation{Name: name, Wants: desired.For(name)}
	place, err := v.zones.find(name)
	if err != nil {
		e.NoPlace = err.Error()
	} else {
		e.Place, e.ZoneName, e.Barred = place, v.zones.byID[place.ZoneID].Name, v.zones.byID[place.ZoneID].barred
	}
	objects := map[string]Object{}
	for _, w := range e.Wants {
		objects[HashObject(w.Object)] = w.Object
	}
	for _, p := range v.zones.places(name) {
		for _, r := range v.index.At(p) {
			mark, _ := ParseRemark(r.Remark)
			e.Rows = append(e.Rows, Row{name, r, v.Policy.of(r.Remark), by(r.Remark), objects[mark.Hash]})
		}
	}
	_, plan := v.plan(name, desired)
	e.Ops, e.Problems = plan.Ops, plan.Problems
	return e
}

// Explain explains a name, with what is being done about it.
func (s *Syncer) Explain(name string) Explanation {
	e := s.View().Explain(name, s.cfg.Desired)
	s.mu.Lock()
	defer s.mu.Unlock()
	e.State = s.state(e.Name, time.Now())
	for _, p := range s.problems[e.Name] {
		if !slices.Contains(e.Problems, p) {
			e.Problems = append(e.Problems, p)
		}
	}
	e.Problems = append(e.Problems, s.problems["calls "+e.Name]...)
	return e
}

// state says what the Syncer does about a name.
func (s *Syncer) state(name string, now time.Time) string {
	it := s.queue.items[name]
	switch {
	case !s.leading:
		return "another replica leads"
	case !s.synced || s.zones == nil:
		return "objects or zones are not known yet"
	case it == nil:
		return "nothing to do"
	case it.busy:
		return "a call is in flight"
	case it.waiting != "":
		return "held: " + it.waiting
	case it.at >= 0:
		return fmt.Sprintf("waits for %v", it.due.Sub(now).Round(time.Second))
	}
	return fmt.Sprintf("queued, lane %s", it.lane)
}

// String prints the Explanation.
func (e Explanation) String() string {
	var b strings.Builder
	line := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	if e.NoPlace != "" {
		line("%s: %s", e.Name, e.NoPlace)
	} else {
		line("%s: host record %s in zone %s (%s)", e.Name, e.Place.RR, e.Place.ZoneID, e.ZoneName)
	}
	if e.Barred != "" {
		line("  %s", e.Barred)
	}
	for _, w := range e.Wants {
		line("  wanted: %d %s %s for %s", w.TTL, w.Type, w.Value, w.Object)
	}
	if len(e.Wants) == 0 {
		line("  nothing is wanted")
	}
	for _, r := range e.Rows {
		off := ""
		if !r.Record.Enabled {
			off = ", disabled"
		}
		line("  there: %d %s %s (record %d in %s, %s%s, remark %q)", r.Record.TTL, r.Record.Type, r.Record.Value, r.Record.ID, r.Record.ZoneID, r.Owner, off, r.Record.Remark)
	}
	for _, op := range e.Ops {
		line("  to do: %s", op)
	}
	for _, p := range e.Problems {
		line("  problem: %s", p)
	}
	if e.State != "" {
		line("  now: %s", e.State)
	}
	return b.String()
}
