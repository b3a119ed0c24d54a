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
		z.failures, z.listed = 0, now
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
	if s.index.Listed(id) && (z.failures >= patience || !z.since.IsZero()) {
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
		s.replace(p, list)
	}
	s.log.Info("zone audited", "zone", id, "records", len(records), "differences", len(names))
	s.goOn(id, len(names), now)
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
	s.goOn(id, len(names), now)
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
