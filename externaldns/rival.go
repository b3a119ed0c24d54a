package externaldns

import (
	"math/rand/v2"
	"time"
)

// Rivals are two instances of one owner without a leader. Each would find at every name that the other was there first, at
// the price of two calls. So one that does, while it has much to do, lets the other go ahead for a while, lists, and goes on
// only when the other does not.
const (
	rivalsFrom = 20 // additions planned
	firstYield = 4 * time.Second
	lastYield  = 30 * time.Second
)

// A rivalry is what one instance knows of another in a zone.
type rivalry struct {
	yield time.Time // until then nothing is added
	since time.Time // of the present pause; zero: there is none
	times int       // pauses in a row
	ended time.Time
}

// suspect stops additions for a moment when one is there already: whether there is a rival is known after a look.
func (s *Syncer) suspect(zoneID string, now time.Time) {
	if l := s.loads[zoneID]; l == nil || l.adds < rivalsFrom {
		return
	}
	if z := s.watch.zone(zoneID); z.yield.Before(now) {
		z.yield = now.Add(settle)
	}
}

// rival is called when a value of ours was there that this instance has not written.
func (s *Syncer) rival(zoneID string, now time.Time) {
	z := s.watch.zone(zoneID)
	if l := s.loads[zoneID]; l == nil || l.adds < rivalsFrom || !z.since.IsZero() {
		return
	}
	if now.Sub(z.ended) > 2*lastYield {
		z.times = 0
	}
	s.log.Info("another instance writes the same records: it goes ahead", "zone", zoneID)
	s.pause(z, now)
}

// pause waits and lists then. Half of the pause is drawn, so that two do not go on together.
func (s *Syncer) pause(z *zoneWatch, now time.Time) {
	pause := min(firstYield<<min(z.times, 8), lastYield)
	z.times++
	z.since, z.listAt = now, now.Add(pause/2+rand.N(pause/2))
	z.yield = z.listAt.Add(listTimeout) // the listing ends it
}

// goOn is called after a listing that shows so many names with other records than were known. A rival at work makes about as
// many as the rate allows.
func (s *Syncer) goOn(zoneID string, differences int, now time.Time) {
	z := s.watch.zone(zoneID)
	if z.since.IsZero() {
		return
	}
	expected := s.cfg.Rate(classAdd.action()) * now.Sub(z.since).Seconds()
	if l := s.loads[zoneID]; l != nil && l.adds-differences >= rivalsFrom && float64(differences) > expected/4 {
		s.pause(z, now)
		return
	}
	z.since, z.ended, z.yield = time.Time{}, now, time.Time{}
}
