package externaldns

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/nearpath/nearpath/internal/aliyun"
)

// finish takes the answer to a call and decides what is next for the name.
func (s *Syncer) finish(it *item, c call, out outcome, now time.Time) {
	s.inFlight[c.class]--
	it.busy = false
	if s.queue.items[it.name] != it {
		return // the lead was lost meanwhile: what happened will be read
	}
	if b := s.breakers[breakerKey{c.class, c.zoneID()}]; b != nil {
		b.probing = false
	}
	s.metrics.call(c, out.err)
	if c.class != classFind {
		it.wrote, it.visit = now, max(0, it.visit-1)
		s.watch.zone(c.op.ZoneID).end(out.id, c.op.Place, out.err == nil, now)
	}
	if out.err == nil {
		s.succeeded(it, c, out, now)
	} else if d := s.failed(it, c, out, now); !d.nothing() {
		s.put(it, d, now)
		return
	}
	s.put(it, s.decide(it, now), now)
	s.judge(c.zoneID(), 0, now)
}

func (s *Syncer) succeeded(it *item, c call, out outcome, now time.Time) {
	s.healed(c, now)
	s.watch.zone(c.zoneID()).gone = 0
	if c.class == classFind {
		s.found(it, c.place, out, now) // the name's failures stay: what failed is tried next
		return
	}
	it.failures = 0
	s.problems.set("calls "+it.name, nil, s.tell)
	delete(s.tokens, wish(c.op))
	delete(s.quarantine, keyOf(c.op))
	if c.op.Verb == Delete {
		s.index.Drop(c.op.Have.ID)
	} else {
		r := c.op.after()
		r.ID, r.Seen = out.id, out.started
		s.index.Put(r)
	}
	if out.repeated {
		// The token may have named a record that somebody has deleted since: then nothing was added.
		s.doubts[c.op.Place] = struct{}{}
	}
	s.log.Info("record written", "op", c.op.String(), "id", out.id)
}

// found takes all records at a place.
func (s *Syncer) found(it *item, p Place, out outcome, now time.Time) {
	delete(s.doubts, p)
	s.replace(p, recordsOf(out.found, out.started))
	if it.conflict {
		it.conflict = false
		s.rival(p.ZoneID, now)
	}
	if c := it.unsure; c != nil && c.op.Place == p {
		it.unsure = nil
		s.resolve(it, *c, now)
	}
}

// resolve ends a doubt about a write. One that came true was no failure.
func (s *Syncer) resolve(it *item, c call, now time.Time) {
	there := slices.ContainsFunc(s.index.At(c.op.Place), func(r Record) bool {
		if c.op.Verb == Delete {
			return r.ID == c.op.Have.ID
		}
		after := c.op.after()
		return r.serves(after.Type, after.Value) && r.TTL == after.TTL && r.Remark == after.Remark
	})
	if there == (c.op.Verb == Delete) {
		return
	}
	it.failures = 0
	delete(s.tokens, wish(c.op))
	s.healed(c, now)
}

// healed closes the breaker of a call, for all who wait for it.
func (s *Syncer) healed(c call, now time.Time) {
	key := breakerKey{c.class, c.zoneID()}
	b := s.breakers[key]
	if b == nil {
		return
	}
	delete(s.breakers, key)
	s.report(key.String(), nil)
	if b.opened > 0 {
		s.resume(c.zoneID(), nil, now)
	}
}

// replace sets the records at a place, and tells of those that were taken from us: their remark is not ours any more.
func (s *Syncer) replace(p Place, records []Record) {
	for _, before := range s.index.At(p) {
		i := slices.IndexFunc(records, func(r Record) bool { return r.ID == before.ID })
		if i < 0 || !s.cfg.Policy.mine(before.Remark) || s.cfg.Policy.mine(records[i].Remark) {
			continue
		}
		s.tell(Problem{zoneObject(p.ZoneID), "RemarkLost", fmt.Sprintf(
			"somebody changed the remark of %s %s %s (record %d) from %q to %q: it is not ours any more; adopt it to have it back",
			s.zones.name(p), before.Type, before.Value, before.ID, before.Remark, records[i].Remark)})
	}
	s.index.SetPlace(p, records)
}

// failed takes an error of a call. The decision is about the name; nothing means to decide anew.
func (s *Syncer) failed(it *item, c call, out outcome, now time.Time) decision {
	err := out.err
	if errors.Is(err, context.Canceled) {
		return decision{waiting: "the end"}
	}
	if errors.Is(err, errDryRun) {
		delete(s.tokens, wish(c.op))
		for _, op := range s.plan(it, now).Ops {
			s.log.Info("dry run", "op", op.String())
		}
		return decision{until: now.Add(s.cfg.Audit)}
	}
	it.failures++
	retry := decision{until: now.Add(backoff(it.failures, firstRetry, lastRetry))}
	s.log.Warn("call failed", "op", c.String(), "err", err, "failures", it.failures)
	if it.failures >= alarmAfter && !errors.Is(err, aliyun.ErrForbidden) {
		s.problems.set("calls "+it.name, []Problem{{s.objectOf(it, c), "CloudRefused", fmt.Sprintf("%s: %v", c, err)}}, s.tell)
	}
	switch {
	case errors.Is(err, aliyun.ErrZoneGone):
		s.definite(c, err)
		s.gone(c.zoneID(), now)
		return decision{}
	case errors.Is(err, aliyun.ErrForbidden):
		s.definite(c, err)
		s.trip(c, out, now)
		return retry
	case errors.Is(err, aliyun.ErrThrottled):
		s.definite(c, err)
		return retry
	case c.class == classFind:
		if errors.Is(err, aliyun.ErrUnavailable) {
			s.trip(c, out, now)
		}
		return retry
	}
	return s.failedWrite(it, c, out, retry, now)
}

// definite forgets the token of a call that had no effect, unless an earlier try of it may have had one.
func (s *Syncer) definite(c call, err error) {
	switch {
	case c.class == classFind:
	case errors.Is(err, aliyun.ErrUnavailable):
		s.doubts[c.op.Place] = struct{}{}
	default:
		delete(s.tokens, wish(c.op))
	}
}

func (s *Syncer) failedWrite(it *item, c call, out outcome, retry decision, now time.Time) decision {
	switch err := out.err; {
	case errors.Is(err, aliyun.ErrRecordConflict):
		s.definite(c, err)
		s.doubts[c.op.Place] = struct{}{}
		it.conflict = true
		s.suspect(c.op.ZoneID, now)
		if it.failures == 1 {
			return decision{}
		}
	case errors.Is(err, aliyun.ErrNotFound):
		s.definite(c, err)
		s.doubts[c.op.Place] = struct{}{}
		return decision{}
	case errors.Is(err, aliyun.ErrInvalidRecord), errors.Is(err, aliyun.ErrQuota):
		s.definite(c, err)
		s.quarantine.add(keyOf(c.op), Problem{s.objectOf(it, c), "RecordRefused", fmt.Sprintf("%s: %v", c.op, err)}, now)
		it.failures = 0
		return decision{}
	case errors.Is(err, aliyun.ErrConflict):
		s.definite(c, err)
	default:
		// Whether it came true is not known.
		s.doubts[c.op.Place], it.unsure = struct{}{}, &c
		if errors.Is(err, aliyun.ErrUnavailable) {
			s.trip(c, out, now)
		}
	}
	return retry
}

// trip notes a failure that is not of the name. One refusal stops the class in the zone, and so do a few calls without an
// answer.
func (s *Syncer) trip(c call, out outcome, now time.Time) {
	key := breakerKey{c.class, c.zoneID()}
	b := s.breakers[key]
	if b == nil {
		b = &breaker{}
		s.breakers[key] = b
	}
	if out.started.Before(b.at) {
		return // it was in flight with those that opened it, and says nothing new
	}
	b.failures++
	b.err = out.err
	if errors.Is(out.err, aliyun.ErrForbidden) || b.failures >= alarmAfter {
		b.opened++
		b.at = now
		b.until = now.Add(backoff(b.opened, time.Second, lastRetry))
		s.report(key.String(), []Problem{{zoneObject(key.zoneID), "CloudRefused", fmt.Sprintf("%s of zone %s: %v", key.class.action(), key.zoneID, out.err)}})
	}
}

// objectOf is the object that an error of a call is told about.
func (s *Syncer) objectOf(it *item, c call) Object {
	if c.class != classFind && c.op.Object != (Object{}) {
		return c.op.Object
	}
	if wants := s.cfg.Desired.For(it.name); len(wants) > 0 {
		return wants[0].Object
	}
	return zoneObject(c.zoneID())
}
