package ipam

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/nearpath/nearpath/internal/aliyun"
)

// plan runs under the lock: what the marks and the callers ask for now; see ledger.plan.
func (p *Pool) plan(now time.Time) (steps []step, unmet int, ripe time.Time) {
	return p.ledger.plan(p.situation(now))
}

func (p *Pool) situation(now time.Time) situation {
	marks := p.settings.Watermarks
	d := p.ledger.sharedDemand(0)
	if p.warmed = p.warmed || d.used+d.idle+d.cooling >= min(marks.WarmUp, d.capacity); !p.warmed {
		marks.MinTotal = max(marks.MinTotal, marks.WarmUp)
	}
	return situation{
		marks: marks, exclusive: p.settings.Exclusive, waiting: p.waiting(false), waitingExclusive: p.waiting(true),
		minENIs: p.settings.ENIs.Min, pace: p.settings.Idle, reclaim: !now.Before(p.reclaim), noCreate: now.Before(p.noCreate.until),
		now: now, ok: p.askable(now),
	}
}

// askable says how many addresses an ENI may be asked for, by its vSwitch's breaker and by what it was refused lately.
func (p *Pool) askable(now time.Time) func(*eni, aliyun.Family) int {
	return func(e *eni, f aliyun.Family) int {
		if l := p.lanes[laneOf(e.Token, laneAssign(f))]; l != nil && l.held && now.Before(l.notBefore) {
			return 0
		}
		if f == aliyun.IPv6 {
			return assignBatch // a vSwitch has more than can be used up
		}
		return p.breakers[e.VSwitchID].allows(now)
	}
}

// resize carries out the plan, as entries in the journal that the ENIs' lanes then work off.
func (p *Pool) resize(ctx context.Context) error {
	p.mu.Lock()
	steps, _, _ := p.plan(time.Now())
	ids := p.vSwitchIDs()
	p.mu.Unlock()
	if !slices.ContainsFunc(steps, func(s step) bool { return s.do == stepCreate }) {
		return p.update(func(l *ledger) error { return p.carryOut(l, nil) })
	}
	vSwitches, err := p.describeVSwitches(ctx, ids)
	switch {
	case err != nil:
		err = fmt.Errorf("describe vSwitches %v: %w", ids, err)
	case len(vSwitches) == 0:
		err = fmt.Errorf("none of the vSwitches %v exists in the region: correct their IDs", ids)
	}
	return errors.Join(err, p.update(func(l *ledger) error { return p.carryOut(l, vSwitches) }))
}

// carryOut runs under the lock; time has passed since the plan was made, so it is made again. What cannot be done stops
// nothing else.
func (p *Pool) carryOut(l *ledger, vSwitches []aliyun.VSwitch) error {
	now := time.Now()
	steps, unmet, _ := p.plan(now)
	p.asked = gathering{}
	var errs []error
	for _, s := range steps {
		if s.do == stepCreate {
			if len(vSwitches) > 0 { // else the wish for an ENI is new; the next round asks for the vSwitches
				errs = append(errs, p.intend(l, s, vSwitches, now))
			}
			continue
		}
		errs = append(errs, p.change(l, s, now))
	}
	if len(steps) == 0 && unmet > 0 {
		errs = append(errs, fmt.Errorf("grow by %d: no ENI has room and none can be created: %w", unmet, p.refusals()))
	}
	return errors.Join(errs...)
}

func (p *Pool) intend(l *ledger, s step, vSwitches []aliyun.VSwitch, now time.Time) error {
	v, most := choice{
		policy: p.settings.VSwitchPolicy, ids: p.vSwitchIDs(), zone: p.node.ZoneID, instance: p.config.InstanceID,
		breakers: p.breakers, promised: l.promised(), random: rand.IntN, now: now,
	}.of(vSwitches)
	if most == 0 {
		return fmt.Errorf("%s: %w: none of %v in zone %s; add vSwitches of that zone", s, aliyun.ErrVSwitchFull, p.vSwitchIDs(), p.node.ZoneID)
	}
	p.breakers.probe(v.ID, now)
	return l.intend(newToken(), v, min(s.count, most), s.use, now)
}

func (p *Pool) change(l *ledger, s step, now time.Time) error {
	switch s.do {
	case stepAssign:
		e := l.enis[s.eni]
		n := min(s.count, p.askable(now)(e, s.family))
		if n == 0 {
			return nil // another step of this plan has taken the one address that may be asked for
		}
		if s.family == aliyun.IPv4 {
			p.breakers.probe(e.VSwitchID, now)
		}
		return l.planAssign(s.eni, newToken(), s.family, n, now)
	case stepRevive:
		return l.moveENI(s.eni, ENIInUse, now)
	case stepConvert:
		return l.convert(s.eni, s.use)
	case stepDrain:
		p.reclaimed(now)
		return l.moveENI(s.eni, ENIDraining, now)
	default:
		p.reclaimed(now)
		return l.release(s.addrs, now)
	}
}

// reclaimed sets when something may be given back again.
func (p *Pool) reclaimed(now time.Time) {
	spread := time.Duration(float64(p.settings.Idle.Interval) * p.settings.Idle.Jitter)
	p.reclaim = now.Add(p.settings.Idle.Interval - spread + rand.N(2*spread+1))
}

// refusals are the reasons why the pool cannot grow.
func (p *Pool) refusals() error {
	errs := []error{}
	if time.Now().Before(p.noCreate.until) {
		errs = append(errs, p.noCreate.err)
	}
	for _, b := range p.breakers {
		errs = append(errs, b.err)
	}
	for _, l := range p.lanes {
		if l.held {
			errs = append(errs, l.err)
		}
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	return fmt.Errorf("%d ENIs beside the primary one are allowed", p.ledger.limits.ENIs)
}

// notMade books a refusal to create or attach an ENI where it holds back growing: on the vSwitch, if that has not even
// one address, on creating, if a quota is reached, else on growing as such.
func (p *Pool) notMade(err error, vSwitchID string, count int) {
	p.log.Warn("cloud refused", "err", err)
	p.metrics.refused(err)
	now := time.Now()
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case errors.Is(err, aliyun.ErrVSwitchFull):
		p.full(vSwitchID, count, err, now)
		return
	case errors.Is(err, aliyun.ErrQuota):
		p.noCreate = inhibition{now.Add(holdFor), err}
	default:
		p.lane(laneGrow).fail(err)
	}
	p.breakers.unprobe(vSwitchID)
	if errors.Is(err, aliyun.ErrConflict) {
		p.resync, p.again = time.Time{}, true // something may have come of it
	}
}

// full runs under the lock and opens the vSwitch's breaker when it has not even one address.
func (p *Pool) full(vSwitchID string, count int, err error, now time.Time) {
	if count == 1 {
		p.breakers[vSwitchID] = p.breakers[vSwitchID].refused(err, now)
	}
}

func (p *Pool) resyncSoon() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.resync, p.again = time.Time{}, true
}

// grew ends what refusals had booked.
func (p *Pool) grew(vSwitchID string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.breakers, vSwitchID)
	p.growAgain()
}

// growAgain runs under the lock after a change that earlier failures to grow say nothing about.
func (p *Pool) growAgain() {
	l := p.lane(laneGrow)
	l.failures, l.err, l.notBefore = 0, nil, time.Time{}
}
