package externaldns

import "time"

// A call is the next step of a name: a write, or a search for its records at a place.
type call struct {
	class class
	op    Op    // of a write
	place Place // of a search
	name  string
}

func (c call) zoneID() string {
	if c.class == classFind {
		return c.place.ZoneID
	}
	return c.op.ZoneID
}

func (c call) String() string {
	if c.class == classFind {
		return "find " + c.place.String()
	}
	return c.op.String()
}

// A decision is what is next for a name: exactly one of these, or that there is nothing to do.
type decision struct {
	call    *call
	until   time.Time
	waiting string
}

func (d decision) nothing() bool { return d.call == nil && d.until.IsZero() && d.waiting == "" }

// decide finds the next step of a name. It changes nothing that decides over other names.
func (s *Syncer) decide(it *item, now time.Time) decision {
	p := s.plan(it, now)
	if place, ok := s.doubtful(it.name); ok {
		return s.allow(call{class: classFind, place: place, name: it.name}, now)
	}
	if len(p.Ops) == 0 {
		it.visit = 0
		return decision{}
	}
	if it.visit == 0 {
		if rested := it.wrote.Add(settle); now.Before(rested) && !it.wrote.IsZero() {
			return decision{until: rested}
		}
		it.visit = len(p.Ops)
	}
	return s.first(it, p, now)
}

// doubtful returns a place of the name that has to be looked at before it is planned.
func (s *Syncer) doubtful(name string) (Place, bool) {
	if len(s.doubts) == 0 {
		return Place{}, false
	}
	for _, p := range s.zones.places(name) {
		if _, ok := s.doubts[p]; ok && s.index.Listed(p.ZoneID) && s.zones.byID[p.ZoneID].barred == "" {
			return p, true
		}
	}
	return Place{}, false
}

// first returns the first Op of the plan that may be done. Ops are done in order, so one that waits keeps those after it
// waiting; but what is held or refused for long does not.
func (s *Syncer) first(it *item, p Plan, now time.Time) decision {
	var long decision
	refused := s.refused(p, now)
	for _, op := range p.Ops {
		if op.Flip && !refused.IsZero() {
			continue // it would make room for nothing
		}
		d := s.may(it, op, now)
		if d.call != nil {
			return d
		}
		quarantined := s.quarantined(op, now)
		if d.waiting == "" && quarantined.IsZero() {
			return d
		}
		if long.nothing() || !d.until.IsZero() && (long.until.IsZero() || d.until.Before(long.until)) {
			long = d
		}
	}
	if long.nothing() {
		long.until = refused
	}
	return long
}

// refused says until when additions of the plan are in quarantine; the zero time: none is.
func (s *Syncer) refused(p Plan, now time.Time) (until time.Time) {
	for _, op := range p.Ops {
		if q := s.quarantined(op, now); op.Verb == Add && !q.IsZero() {
			until = q
		}
	}
	return until
}

func (s *Syncer) quarantined(op Op, now time.Time) time.Time {
	if r := s.quarantine[keyOf(op)]; r != nil && op.Verb != Delete && now.Before(r.until) {
		return r.until
	}
	return time.Time{}
}

// may decides on one Op.
func (s *Syncer) may(it *item, op Op, now time.Time) decision {
	if barred := s.zones.byID[op.ZoneID].barred; barred != "" {
		return decision{waiting: barred}
	}
	if until := s.quarantined(op, now); !until.IsZero() {
		return decision{until: until}
	}
	if op.Verb == Delete && !op.Flip {
		if d := s.mayDelete(it, op, now); !d.nothing() {
			return d
		}
	}
	if op.Verb != Add && now.Sub(op.Have.Seen) > s.cfg.Stale {
		return s.allow(call{class: classFind, place: op.Place, name: it.name}, now)
	}
	if until := s.watch.zone(op.ZoneID).yield; op.Verb == Add && now.Before(until) {
		return decision{until: until}
	}
	return s.allow(call{class: class(op.Verb), op: op, name: it.name}, now)
}

// mayDelete asks the guard.
func (s *Syncer) mayDelete(it *item, op Op, now time.Time) decision {
	for _, kind := range it.lost {
		if s.guard.gone(kind, now) && now.After(s.guard.zone(op.ZoneID, now).released) {
			return decision{waiting: "there is no " + kind + " any more, of many: release it if that is right"}
		}
	}
	held, wait := s.guard.mayDelete(op.ZoneID, now)
	switch {
	case held != "":
		return decision{waiting: held}
	case wait > 0:
		return decision{until: now.Add(wait)}
	}
	return decision{}
}

// allow asks the breaker of a call.
func (s *Syncer) allow(c call, now time.Time) decision {
	if until := s.breakers[breakerKey{c.class, c.zoneID()}].open(now); !until.IsZero() {
		return decision{until: until}
	}
	return decision{call: &c}
}

// put queues an item for what was decided.
func (s *Syncer) put(it *item, d decision, now time.Time) {
	switch {
	case d.call != nil:
		it.class = d.call.class
		s.queue.push(it)
	case !d.until.IsZero():
		s.queue.delay(it, d.until)
	case d.waiting != "":
		s.queue.unplan(it)
		it.waiting = d.waiting
	default:
		s.settled(it, now)
	}
}

// settled ends the work on a name: it is as it shall be. The item stays until the name may be written to again.
func (s *Syncer) settled(it *item, now time.Time) {
	if !it.asked.IsZero() && !it.wrote.IsZero() {
		s.metrics.published.Observe(now.Sub(it.asked).Seconds())
	}
	it.asked, it.failures, it.lane = time.Time{}, 0, laneAudit
	if rested := it.wrote.Add(settle); !it.wrote.IsZero() && now.Before(rested) {
		s.queue.delay(it, rested)
		return
	}
	s.queue.drop(it)
}

// step takes the turn of an item. It returns nil when the item goes elsewhere: what was decided earlier is decided anew.
func (s *Syncer) step(it *item, now time.Time) job {
	d := s.decide(it, now)
	if d.call == nil || d.call.class != it.class {
		s.put(it, d, now)
		return nil
	}
	c := *d.call
	if c.class == classDelete && !c.op.Flip {
		s.guard.delete(c.op.ZoneID, now) // decide has asked whether it may
	}
	if b := s.breakers[breakerKey{c.class, c.zoneID()}]; b != nil {
		b.probing = true
	}
	it.busy, it.again = true, false
	s.inFlight[c.class]++
	return s.job(it, c)
}
