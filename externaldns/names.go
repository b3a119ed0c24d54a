package externaldns

import (
	"errors"
	"fmt"
	"slices"
	"time"
)

// Touch says that what is wanted for these names may have changed, for better or worse. It is cheap for names where
// nothing is to do. The caller must not hold a lock that Desired takes.
func (s *Syncer) Touch(names ...string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.touchAll(names, laneFresh, time.Now())
	s.kick()
}

// planAll looks at every name that is wanted or has records of ours.
func (s *Syncer) planAll(now time.Time) {
	if !s.synced || s.zones == nil {
		return
	}
	names := map[string]struct{}{}
	for name := range s.cfg.Desired.All() {
		names[name] = struct{}{}
	}
	for _, zone := range s.zones.all() {
		for place, records := range s.index.Zone(zone.ID) {
			if slices.ContainsFunc(records, func(r Record) bool { return s.cfg.Policy.mine(r.Remark) }) {
				names[s.zones.name(place)] = struct{}{}
			}
		}
	}
	list := make([]string, 0, len(names))
	for name := range names {
		list = append(list, name)
	}
	slices.Sort(list)
	s.touchAll(list, laneBacklog, now)
}

// touchAll plans names and queues what is to do. No call is made before all of them are planned: only then can the guard
// see the whole of a change.
func (s *Syncer) touchAll(names []string, l lane, now time.Time) {
	if !s.leading || !s.synced || s.zones == nil {
		return // everything is planned when that is over
	}
	batch := map[string]int{}
	for _, name := range names {
		it := s.queue.item(name)
		zone, before := it.zoneID, it.removals
		s.touch(it, l, now)
		if it.zoneID != zone {
			before = 0
		}
		batch[it.zoneID] += max(0, it.removals-before)
	}
	for id, n := range batch {
		s.judge(id, n, now)
	}
}

func (s *Syncer) touch(it *item, l lane, now time.Time) {
	if it.asked.IsZero() {
		it.asked, it.lane = now, l
	}
	it.lane = min(it.lane, l)
	if it.busy {
		it.again = true
		s.plan(it, now) // for the guard
		return
	}
	s.put(it, s.decide(it, now), now)
}

// judge has the guard look at a zone.
func (s *Syncer) judge(id string, batch int, now time.Time) {
	l := s.loads[id]
	if l == nil || id == "" {
		return
	}
	look := *l
	_, look.owned = s.index.Count(id)
	look.batch = batch
	if !s.guard.judge(id, look, now) {
		return
	}
	if hold := s.guard.zone(id, now).hold; hold != nil {
		s.log.Error("deletes are held", "zone", id, "reason", hold.Reason, "count", hold.Pending)
		s.report("hold "+id, []Problem{{zoneObject(id), "DeletesHeld", hold.String() + "; release them if they are right"}})
		return
	}
	s.log.Info("deletes are held no longer", "zone", id)
	s.report("hold "+id, nil)
	s.reconsider(now)
}

// reconsider decides again on names that wait for what is no time and no call.
func (s *Syncer) reconsider(now time.Time) {
	for _, it := range s.queue.items {
		if it.waiting != "" {
			s.put(it, s.decide(it, now), now)
		}
	}
}

// plan plans a name, and notes what that says about its zone, its sources and its problems.
func (s *Syncer) plan(it *item, now time.Time) Plan {
	wants := s.cfg.Desired.For(it.name)
	it.lost = s.kinds.set(it.name, wants, it.lost)
	for _, kind := range s.kinds.changed() {
		s.guard.count(kind, s.kinds.counts[kind], now)
		s.tellSource(kind, now)
	}
	place, err := s.zones.find(it.name)
	var p Plan
	switch {
	case err != nil:
		p.Problems = homeless(it.name, wants, err)
	case s.index.Listed(place.ZoneID):
		var elsewhere []Record
		for _, other := range s.zones.places(it.name)[1:] {
			elsewhere = append(elsewhere, s.index.At(other)...)
		}
		p = s.cfg.Policy.plan(it.name, place, wants, s.index.At(place), elsewhere)
		if hides := s.zones.hidden(it.name, place); hides != "" && len(wants) > 0 {
			p.Problems = append(p.Problems, Problem{wants[0].Object, "ZoneHidden", fmt.Sprintf(
				"%s is written to zone %s, but VPCs of it ask the more specific zone %s, which is out of scope", it.name, place.ZoneID, hides)})
		}
	}
	for _, op := range p.Ops {
		if op.takesAddress() && (len(wants) == 0 || slices.ContainsFunc(wants, func(w Want) bool { return w.Urgent })) {
			it.lane = laneDead
		}
		if r := s.quarantine[keyOf(op)]; r != nil && op.Verb != Delete {
			p.Problems = append(p.Problems, r.Problem)
		}
	}
	s.problems.set(it.name, p.Problems, s.tell)
	s.account(it, place.ZoneID, p)
	return p
}

// tellSource tells that a source is empty all at once, or that it is not any more.
func (s *Syncer) tellSource(kind string, now time.Time) {
	if !s.guard.gone(kind, now) {
		s.report("source "+kind, nil)
		return
	}
	s.report("source "+kind, []Problem{{Object{Kind: "PrivateZone"}, "SourceGone", fmt.Sprintf(
		"no name is wanted for a %s any more, of many: their deletes are held until there is one, or they are released", kind)}})
}

// homeless says why names of wants are in no zone.
func homeless(name string, wants []Want, err error) (list []Problem) {
	for _, w := range wants {
		p := Problem{w.Object, "ZoneAmbiguous", fmt.Sprintf("%s is not published: %v", name, err)}
		if errors.Is(err, errNoZone) {
			p = Problem{w.Object, "NoZone", fmt.Sprintf("%s is not published: no zone in scope that is bound to a VPC ends the name; create or bind one, or correct the name", name)}
		}
		if !slices.Contains(list, p) {
			list = append(list, p)
		}
	}
	return list
}

// account keeps the sums of what is planned in a zone.
func (s *Syncer) account(it *item, zoneID string, p Plan) {
	if l := s.loads[it.zoneID]; l != nil {
		l.removals -= it.removals
		l.adds -= it.adds
	}
	it.zoneID, it.removals, it.adds = zoneID, p.removals(), p.additions()
	if zoneID == "" {
		return
	}
	l := s.loads[zoneID]
	if l == nil {
		l = &load{}
		s.loads[zoneID] = l
	}
	l.removals += it.removals
	l.adds += it.adds
}

// report replaces the Problems of what is no name.
func (s *Syncer) report(about string, list []Problem) { s.problems.set(about, list, s.tell) }

// tell passes a Problem on that has come up.
func (s *Syncer) tell(p Problem) {
	s.log.Warn("cannot publish as asked", "object", p.Object.String(), "reason", p.Reason, "message", p.Message)
	s.metrics.problem(p.Reason)
	if s.cfg.Reporter != nil {
		s.cfg.Reporter.Report(p)
	}
}

// problems are those there are now, by name or what else they are about.
type problems map[string][]Problem

// set replaces a key's Problems and tells those that are new. One whose message alone is another, as the cloud's messages
// are each time, is not.
func (m problems) set(key string, list []Problem, tell func(Problem)) {
	before := m[key]
	if len(list) == 0 {
		delete(m, key)
		return
	}
	m[key] = list
	for _, p := range list {
		if !slices.ContainsFunc(before, func(b Problem) bool { return b.Object == p.Object && b.Reason == p.Reason }) {
			tell(p)
		}
	}
}

// sources knows for which kinds of objects each name is wanted. Kinds are few, and names many.
type sources struct {
	bits   map[string]uint32 // by kind
	names  map[string]uint32 // the bits of each name
	counts map[string]int    // names by kind
	dirty  []string
}

func newSources() sources {
	return sources{bits: map[string]uint32{}, names: map[string]uint32{}, counts: map[string]int{}}
}

// set takes the wants of a name and returns the kinds it was wanted for and is not any more: those in lost that are not
// back, and new ones.
func (k *sources) set(name string, wants []Want, lost []string) []string {
	var now uint32
	for _, w := range wants {
		bit := k.bits[w.Object.Kind]
		if bit == 0 {
			bit = 1 << (len(k.bits) % 32)
			k.bits[w.Object.Kind] = bit
		}
		now |= bit
	}
	before := k.names[name]
	if before == now && len(lost) == 0 {
		return nil
	}
	if now == 0 {
		delete(k.names, name)
	} else {
		k.names[name] = now
	}
	for kind, bit := range k.bits {
		switch {
		case before&bit == 0 && now&bit != 0:
			k.note(kind, 1)
			lost = slices.DeleteFunc(lost, func(l string) bool { return l == kind })
		case before&bit != 0 && now&bit == 0:
			k.note(kind, -1)
			lost = append(lost, kind)
		}
	}
	return lost
}

func (k *sources) note(kind string, n int) {
	k.counts[kind] += n
	k.dirty = append(k.dirty, kind)
}

// changed returns the kinds whose count changed since it was called last.
func (k *sources) changed() []string {
	kinds := k.dirty
	k.dirty = nil
	return kinds
}
