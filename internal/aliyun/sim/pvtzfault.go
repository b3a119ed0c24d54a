package sim

import (
	"math"
	"slices"
)

// PrivateZoneLimits are rate limits for every action of PrivateZone, with one second's worth at once: perSecond calls of
// each, and all calls of all actions together; zero: no limit for all. The real service allows 20 calls of AddZoneRecord;
// the others are not documented.
func PrivateZoneLimits(perSecond, all float64) []RateLimit {
	limit := func(action string, rate float64) RateLimit {
		return RateLimit{Action: action, PerMinute: rate * 60, Burst: int(math.Ceil(rate))}
	}
	var limits []RateLimit
	for _, name := range PrivateZoneActions() {
		limits = append(limits, limit(name, perSecond))
	}
	if all > 0 {
		limits = append(limits, limit("", all))
	}
	return limits
}

// PrivateZoneLatencies are one latency for every action of PrivateZone.
func PrivateZoneLatencies(l Latency) map[string]Latency {
	all := map[string]Latency{}
	for _, name := range PrivateZoneActions() {
		all[name] = l
	}
	return all
}

// A RecordPage is a page of records that was just answered.
type RecordPage struct {
	ZoneID string
	Number int // from 1
	Size   int
	Total  int // records in the list
}

// OnPage calls f after each page of DescribeZoneRecords is made and before it is sent: what f changes moves rows between
// that page and the next. Nil ends it. F may call every method of PrivateZone.
func (p *PrivateZone) OnPage(f func(RecordPage)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.onPage = f
}

// drift lets whoever waits for a page change something.
func (p *PrivateZone) drift(zoneID string, answer object) {
	p.mu.Lock()
	f := p.onPage
	p.mu.Unlock()
	if f == nil {
		return
	}
	f(RecordPage{ZoneID: zoneID, Number: answer["PageNumber"].(int), Size: answer["PageSize"].(int), Total: answer["TotalItems"].(int)})
}

// A Duplicate makes the service carry out calls twice, behind its check of nonces. The caller gets the second answer.
type Duplicate struct {
	Action string // one that changes something; empty: any of those
	Times  int    // how many calls it meets; zero: one
	// Late delivers the second time after the next call that changes something, and keeps its answer.
	Late bool
}

// Duplicate adds a fault. Duplicates meet calls in the order they were added.
func (p *PrivateZone) Duplicate(d Duplicate) {
	d.Times = max(d.Times, 1)
	p.mu.Lock()
	defer p.mu.Unlock()
	p.duplicates = append(p.duplicates, &d)
}

// deliver carries out a call, as often as it is delivered, and what was to come late.
func (p *PrivateZone) deliver(action string, call func() (object, error)) (object, error) {
	d, late := p.meetDuplicate(action)
	answer, err := call()
	for _, l := range late {
		l()
	}
	switch {
	case d == nil:
		return answer, err
	case d.Late:
		p.mu.Lock()
		defer p.mu.Unlock()
		p.late = append(p.late, func() { _, _ = call() }) // nobody hears of it
		return answer, err
	}
	return call()
}

func (p *PrivateZone) meetDuplicate(action string) (d *Duplicate, late []func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	late, p.late = p.late, nil
	i := slices.IndexFunc(p.duplicates, func(d *Duplicate) bool { return d.Action == "" || d.Action == action })
	if i < 0 {
		return nil, late
	}
	d = p.duplicates[i]
	if d.Times--; d.Times == 0 {
		p.duplicates = slices.Delete(p.duplicates, i, i+1)
	}
	return d, late
}
