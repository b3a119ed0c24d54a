package externaldns

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"
)

const (
	// listTimeout is for a zone of 100,000 records at a fraction of the usual rate.
	listTimeout = 10 * time.Minute
	// listingsAtOnce leaves budget to the searches for single names, which are the same action.
	listingsAtOnce = 2
	// patience is how many listings in a row may fail before it is a Problem.
	patience = 3
	// listPolls is how many polls lie between listings because of edits that the log does not place.
	listPolls = 5
)

// A watch is what is known of how old the knowledge of the zones is.
type watch struct {
	discoverAt  time.Time
	discovering bool
	failures    int
	zones       map[string]*zoneWatch
	turn        int // whose change log is read next though nothing hints at a change
}

func newWatch() watch { return watch{zones: map[string]*zoneWatch{}} }

// A zoneWatch is that of one zone.
type zoneWatch struct {
	listing  bool
	listAt   time.Time
	tried    bool // a listing has ended, well or not
	failures int
	listed   time.Time
	touched  map[Place]struct{} // written to since the listing began
	gone     int                // times in a row that a call was told so

	rivalry

	updated time.Time // by the cloud's clock, as it last said
	pollNow bool
	polling bool
	log     changeLog
}

func (w *watch) zone(id string) *zoneWatch {
	z := w.zones[id]
	if z == nil {
		z = &zoneWatch{}
		w.zones[id] = z
	}
	return z
}

// begin and end notes a write of ours, for a listing that is under way and for the change log.
func (z *zoneWatch) begin(p Place) {
	z.touch(p)
	if z.log.flying != nil {
		z.log.fly(p)
	}
}

func (z *zoneWatch) end(id int64, p Place, done bool, now time.Time) {
	z.touch(p)
	if z.log.flying != nil {
		z.log.land(id, p, done, now)
	}
}

func (z *zoneWatch) touch(p Place) {
	if z.touched != nil {
		z.touched[p] = struct{}{}
	}
}

// settled reports whether a listing was tried of every zone that may be listed.
func (w *watch) settled(zones *Zones) bool {
	return !slices.ContainsFunc(zones.all(), func(z zone) bool { return z.barred == "" && !w.zone(z.ID).tried })
}

// watchJobs returns the reads that are due beside those for names, and when the next one is.
func (s *Syncer) watchJobs(now time.Time) (jobs []job, next time.Time) {
	w := &s.watch
	next = now.Add(time.Hour)
	soon := func(t time.Time) {
		if t.Before(next) {
			next = t
		}
	}
	switch {
	case w.discovering:
	case now.Before(w.discoverAt):
		soon(w.discoverAt)
	default:
		w.discovering = true
		jobs = append(jobs, s.discover)
	}
	listings := 0
	for _, z := range w.zones {
		if z.listing {
			listings++
		}
	}
	for _, zone := range s.zones.all() {
		z := w.zone(zone.ID)
		switch {
		case zone.barred != "" || z.listing:
		case now.Before(z.listAt):
			soon(z.listAt)
		case listings < listingsAtOnce:
			listings++
			z.listing, z.touched = true, map[Place]struct{}{}
			jobs = append(jobs, s.listing(zone.ID, z))
		}
		if zone.barred == "" && z.pollNow && !z.polling && s.index.Listed(zone.ID) {
			z.pollNow, z.polling = false, true
			jobs = append(jobs, s.poll(zone.ID, z, z.log.since()))
		}
	}
	return jobs, next
}

// discover lists the account's zones: which there are, which are bound, and which have changed.
func (s *Syncer) discover(ctx context.Context) {
	limited, cancel := context.WithTimeout(ctx, callTimeout)
	list, err := s.read.DescribeZones(limited)
	cancel()
	s.mu.Lock()
	defer s.mu.Unlock()
	defer s.kick()
	now, w := time.Now(), &s.watch
	w.discovering = false
	if err != nil {
		if ctx.Err() != nil {
			return
		}
		w.failures++
		w.discoverAt = now.Add(backoff(w.failures, time.Second, lastRetry))
		s.log.Error("zones are not known", "err", err, "failures", w.failures)
		s.report("zones", []Problem{{Object{Kind: "PrivateZone"}, "CloudRefused", fmt.Sprintf("zones cannot be listed: %v", err)}})
		return
	}
	w.failures, w.discoverAt = 0, now.Add(s.cfg.Poll)
	zones, problems := s.zones.next(list, s.cfg.Scope)
	s.report("zones", problems)
	before := s.zones
	s.zones = zones
	s.choosePolls()
	if before == nil || !sameZones(before, zones) {
		s.planAll(now)
	}
}

// sameZones reports whether names are in the same places and those may be written to as before.
func sameZones(a, b *Zones) bool {
	return maps.EqualFunc(a.byID, b.byID, func(a, b zone) bool { return a.Name == b.Name && a.barred == b.barred }) &&
		maps.EqualFunc(a.byName, b.byName, slices.Equal[[]string])
}

// choosePolls has the change logs read of the zones that say they have changed, and of one zone in turn: whether a zone
// says so is not documented.
func (s *Syncer) choosePolls() {
	all := s.zones.all()
	for i, zone := range all {
		z := s.watch.zone(zone.ID)
		if s.index.Listed(zone.ID) {
			z.pollNow = z.pollNow || zone.Updated.After(z.updated) || i == s.watch.turn%len(all)
		}
		z.updated = zone.Updated
	}
	s.watch.turn++
}
