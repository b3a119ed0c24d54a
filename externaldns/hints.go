package externaldns

import (
	"context"
	"slices"
	"time"

	"github.com/nearpath/nearpath/internal/aliyun"
)

// poll reads the change log of a zone.
func (s *Syncer) poll(id string, z *zoneWatch, since time.Time) job {
	return func(ctx context.Context) {
		started := time.Now()
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
		z.log.read = started
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
