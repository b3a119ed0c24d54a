package externaldns

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/nearpath/nearpath/internal/aliyun"
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

	yield      time.Time // until then nothing is added
	rivalUntil time.Time // until then a rival goes ahead
	yields     int

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

// listing lists a zone: for the first time, or as an audit.
func (s *Syncer) listing(id string, z *zoneWatch) job {
	known := s.index.Listed(id)
	return func(ctx context.Context) {
		started := time.Now()
		limited, cancel := context.WithTimeout(ctx, listTimeout)
		shown, err := list(limited, s.read, id, known)
		cancel()
		s.mu.Lock()
		defer s.mu.Unlock()
		defer s.kick()
		now := time.Now()
		if s.watch.zones[id] != z || ctx.Err() != nil {
			return // the lead was lost meanwhile, or it is the end
		}
		touched := z.touched
		z.listing, z.touched, z.tried = false, nil, true
		s.metrics.listed(err)
		if err != nil {
			s.listingFailed(id, z, err, now)
			if errors.Is(err, errDrift) && s.index.Listed(id) {
				s.merge(id, recordsOf(shown, started), touched, now)
			}
			return
		}
		s.report("listing "+id, nil)
		z.failures, z.yield, z.listed = 0, time.Time{}, now
		z.listAt = now.Add(s.cfg.Audit - rand.N(s.cfg.Audit/10+1))
		records := recordsOf(shown, started)
		if s.index.Listed(id) {
			s.audited(id, records, touched, now)
			return
		}
		s.index.SetZone(id, records)
		z.log.begin(started)
		_, owned := s.index.Count(id)
		s.log.Info("zone listed", "zone", id, "records", len(records), "owned", owned, "duration", now.Sub(started))
		s.planAll(now)
	}
}

func (s *Syncer) listingFailed(id string, z *zoneWatch, err error, now time.Time) {
	z.failures++
	z.listAt = now.Add(backoff(z.failures, time.Second, lastRetry))
	if s.index.Listed(id) && z.failures >= patience {
		z.listAt = now.Add(s.cfg.Audit / 8) // it changes too fast; its change log tells of edits
	}
	s.log.Warn("zone is not listed", "zone", id, "err", err, "failures", z.failures)
	if errors.Is(err, aliyun.ErrZoneGone) {
		s.gone(id, now)
	}
	if z.failures >= patience && !s.index.Listed(id) || !errors.Is(err, errDrift) {
		s.report("listing "+id, []Problem{{zoneObject(id), "ZoneUnreadable", fmt.Sprintf("zone %s cannot be listed: %v", id, err)}})
	}
}

// gone bars a zone that a call was told is gone, and looks for it soon.
func (s *Syncer) gone(id string, now time.Time) {
	z := s.watch.zone(id)
	z.gone++
	s.zones = s.zones.bar(id, barredGone)
	s.watch.discoverAt = earlier(s.watch.discoverAt, now.Add(backoff(z.gone, time.Second, s.cfg.Poll)))
}

func earlier(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}

// audited takes an accepted listing of a zone that is known. Places that were written to since it began are left out.
func (s *Syncer) audited(id string, records []Record, touched map[Place]struct{}, now time.Time) {
	shown := map[Place][]Record{}
	for _, r := range records {
		shown[r.Place] = append(shown[r.Place], r)
	}
	for p := range s.index.Zone(id) {
		if _, ok := shown[p]; !ok {
			shown[p] = nil
		}
	}
	var names []string
	for p, list := range shown {
		if _, ok := touched[p]; ok {
			continue
		}
		slices.SortFunc(list, compareIDs)
		if !sameRecords(s.index.At(p), list) {
			names = append(names, s.zones.name(p))
		}
		s.replace(p, list, now)
	}
	s.log.Info("zone audited", "zone", id, "records", len(records), "differences", len(names))
	s.resume(id, names, now)
}

// merge takes what a listing shows of a zone that changes too fast for it. What is there is there; what is not shown may
// be there all the same.
func (s *Syncer) merge(id string, records []Record, touched map[Place]struct{}, now time.Time) {
	names := map[string]struct{}{}
	for _, r := range records {
		if _, ok := touched[r.Place]; ok {
			continue
		}
		if !slices.ContainsFunc(s.index.At(r.Place), func(have Record) bool { return sameRecords([]Record{have}, []Record{r}) }) {
			names[s.zones.name(r.Place)] = struct{}{}
		}
		s.index.Put(r)
	}
	s.watch.zone(id).yield = time.Time{}
	s.resume(id, slices.Collect(maps.Keys(names)), now)
}

// resume plans names that a listing shows to be different, and those that waited for it.
func (s *Syncer) resume(id string, names []string, now time.Time) {
	slices.Sort(names)
	s.touchAll(names, laneBacklog, now)
	for _, it := range s.queue.items {
		if it.zoneID == id && it.at >= 0 {
			s.put(it, s.decide(it, now), now)
		}
	}
}

// poll reads the change log of a zone.
func (s *Syncer) poll(id string, z *zoneWatch, since time.Time) job {
	return func(ctx context.Context) {
		limited, cancel := context.WithTimeout(ctx, callTimeout)
		changes, err := s.read.Changes(limited, id, since)
		cancel()
		s.mu.Lock()
		defer s.mu.Unlock()
		defer s.kick()
		now := time.Now()
		if s.watch.zones[id] != z || ctx.Err() != nil {
			return
		}
		z.polling = false
		if err != nil {
			s.log.Warn("change log is not read", "zone", id, "err", err)
			return // the next round tries again
		}
		s.hints(id, z, z.log.news(changes, now, func(c aliyun.ZoneChange) Place {
			if places := s.placesOf(id, c); len(places) > 0 {
				return places[0]
			}
			return Place{ZoneID: id}
		}), now)
	}
}

// hints follows changes of others. They cause no write by themselves: what they name is looked at.
func (s *Syncer) hints(id string, z *zoneWatch, news []aliyun.ZoneChange, now time.Time) {
	places := map[Place]struct{}{}
	lost := false
	for _, c := range news {
		found := s.placesOf(id, c)
		for _, p := range found {
			places[p] = struct{}{}
		}
		lost = lost || len(found) == 0
	}
	all, _ := s.index.Count(id)
	if lost && now.Sub(z.listed) < listPolls*s.cfg.Poll {
		lost = false // a log that names nothing must not have the zone listed all the time
		z.listAt = earlier(z.listAt, z.listed.Add(listPolls*s.cfg.Poll))
	}
	if lost || len(places) > max(20, all/pageSize) {
		if !z.listing && now.Before(z.listAt) {
			z.listAt = now
		}
		return
	}
	var names []string
	for p := range places {
		s.doubts[p] = struct{}{}
		names = append(names, s.zones.name(p))
	}
	slices.Sort(names)
	s.touchAll(names, laneAudit, now)
}

// placesOf returns where a change may have been: the record's place as known, and the host, which the log may name in
// full.
func (s *Syncer) placesOf(id string, c aliyun.ZoneChange) (list []Place) {
	if p, ok := s.index.Place(c.RecordID); ok {
		list = append(list, p)
	}
	rr := canonicalName(c.RR)
	if rr == "" {
		return list
	}
	relative := Place{id, rr}
	if full := rrOf(rr, s.zones.byID[id].Name); full != "" {
		list = append(list, Place{id, full})
		if len(s.index.At(relative)) == 0 {
			return list
		}
	}
	return append(list, relative)
}
