package externaldns

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
)

// A Status is what the Syncer knows and does, for readiness and the CLI.
type Status struct {
	Leading bool
	Synced  bool
	// Discovered says that the zones are known.
	Discovered bool
	Zones      []ZoneStatus
	// Pending counts names with something to do, by lane: dead, fresh, backlog, audit.
	Pending  [lanes]int
	Holds    []Hold
	Problems []Problem
	// Failing are kinds of calls that are stopped because they fail.
	Failing []string
}

// A ZoneStatus is that of a zone in scope.
type ZoneStatus struct {
	ID, Name string
	// Barred says why nothing is written to the zone; empty: it is.
	Barred         string
	Listed         bool
	Records, Owned int
}

// Status returns what there is now.
func (s *Syncer) Status() Status {
	s.mu.Lock()
	defer s.mu.Unlock()
	st := Status{
		Leading: s.leading, Synced: s.synced, Discovered: s.zones != nil, Pending: s.queue.depth(), Holds: s.guard.holds(),
	}
	for _, z := range s.zones.all() {
		records, owned := s.index.Count(z.ID)
		st.Zones = append(st.Zones, ZoneStatus{z.ID, z.Name, z.barred, s.index.Listed(z.ID), records, owned})
	}
	for _, key := range slices.Sorted(maps.Keys(s.problems)) {
		st.Problems = append(st.Problems, s.problems[key]...)
	}
	for key, b := range s.breakers {
		if !b.until.IsZero() {
			st.Failing = append(st.Failing, fmt.Sprintf("%s of zone %s: %v", key.class.action(), key.zoneID, b.err))
		}
	}
	slices.Sort(st.Failing)
	return st
}

// Detail says in a few lines what keeps names from being published; empty: nothing does.
func (st Status) Detail() string {
	var lines []string
	add := func(format string, args ...any) { lines = append(lines, fmt.Sprintf(format, args...)) }
	if !st.Leading {
		return "another replica leads"
	}
	if !st.Synced {
		add("objects are not synced")
	}
	if !st.Discovered {
		add("zones are not known")
	}
	for _, z := range st.Zones {
		switch {
		case z.Barred != "":
			add("zone %s (%s): %s", z.ID, z.Name, z.Barred)
		case !z.Listed:
			add("zone %s (%s) is not listed", z.ID, z.Name)
		}
	}
	for _, h := range st.Holds {
		lines = append(lines, h.String())
	}
	lines = append(lines, st.Failing...)
	if n := len(st.Problems); n > 0 {
		add("%d problems, the first: %s", n, st.Problems[0])
	}
	return strings.Join(lines, "\n")
}

// Release lets the deletes of a zone pass that are planned now or within the guard's window.
func (s *Syncer) Release(zoneID string) error {
	return s.command(zoneID, func(now time.Time) {
		s.guard.release(zoneID, now)
		s.report("hold "+zoneID, nil)
		for kind := range s.guard.sources {
			s.tellSource(kind, now)
		}
	})
}

// Hold keeps the deletes of a zone from being done until they are released.
func (s *Syncer) Hold(zoneID, reason string) error {
	return s.command(zoneID, func(now time.Time) {
		s.guard.stop(zoneID, reason, now)
		s.judge(zoneID, 0, now)
	})
}

func (s *Syncer) command(zoneID string, do func(time.Time)) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.leading {
		return fmt.Errorf("another replica leads: ask that one about zone %s", zoneID)
	}
	if !s.zones.has(zoneID) {
		return fmt.Errorf("zone %q is not in scope: name one of those that status lists", zoneID)
	}
	now := time.Now()
	do(now)
	s.reconsider(now)
	s.kick()
	return nil
}
