package ipam

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/nearpath/nearpath/internal/aliyun"
)

const (
	syncEvery    = 5 * time.Minute
	lookAgain    = 5 * time.Second // after a sync that had to leave out ENIs at work
	tickEvery    = time.Minute     // looks for what nothing else tells of
	callTimeout  = 45 * time.Second
	maxBackoff   = 32 * time.Second
	maxThrottled = 8 * time.Second // the client paces its calls by itself when the cloud throttles
	maxPoll      = 4 * time.Second
	holdFor      = time.Minute           // after a refusal that only time or a person ends
	minPause     = 10 * time.Millisecond // between two steps of a lane, so that no mistake makes a loop hot
	stuckAfter   = 3                     // failures in a row after which callers need not wait for a lane
	stuckFor     = 10 * time.Second      // the same for two failures
	intentMaxAge = 10 * time.Minute
	attachMaxAge = 2 * time.Minute
	attachSettle = 5 * time.Second // how long a listing may still show the state from before a call
)

var (
	// errNotYet says that the cloud is still at work; it is polled again soon.
	errNotYet = errors.New("not yet")
	// errHeld says that the cloud has refused something that has been dropped and is not tried again for holdFor.
	errHeld = errors.New("refused")
)

// A lane is a sequence of attempts at one thing, one attempt at a time: an ENI's next step, the sync, growing.
type lane struct {
	busy      bool
	held      bool      // the last attempt was refused; until notBefore
	failures  int       // in a row
	failing   time.Time // of the first of them
	polls     int       // in a row, answered by errNotYet
	err       error
	notBefore time.Time
}

const (
	laneNode  = "node"
	laneSync  = "sync"
	laneGrow  = "grow"
	laneProve = "prove"
)

// The lanes of an ENI, so that nothing about it waits for something else: its life, its assignments by family, giving
// back, and repairs.
const (
	laneLife   = "life"
	laneBack   = "back"
	laneRepair = "repair"
)

func laneAssign(f aliyun.Family) string { return "assign " + f.String() }

func laneOf(token, what string) string { return "eni/" + token + "/" + what }

var lanesOfENI = []string{laneLife, laneBack, laneRepair, laneAssign(aliyun.IPv4), laneAssign(aliyun.IPv6)}

// A job is an attempt that is due.
type job struct {
	lane  string
	token string // of the ENI, if it is about one
	run   func(context.Context) error
}

// Run keeps the pool in line with the cloud and between its watermarks until the context ends.
func (p *Pool) Run(ctx context.Context) error {
	var jobs errgroup.Group
	defer p.log.Debug("address pool stopped")
	for ctx.Err() == nil {
		due, next, w := p.due(time.Now())
		if w != nil {
			if err := p.flush(w); err != nil {
				p.log.Error("journal not written", "err", err)
			}
		}
		for _, j := range due {
			jobs.Go(func() error {
				p.attempt(ctx, j)
				return nil
			})
		}
		timer := time.NewTimer(time.Until(next))
		select {
		case <-ctx.Done():
		case <-p.wake:
		case <-timer.C:
		}
		timer.Stop()
	}
	return jobs.Wait()
}

// due collects what to do now, marks its lanes busy, ends coolings, and says when to look again.
func (p *Pool) due(now time.Time) (jobs []job, next time.Time, w *write) {
	p.mu.Lock()
	defer p.mu.Unlock()
	next = now.Add(tickEvery)
	earliest := func(t time.Time) {
		if t.After(now) && t.Before(next) {
			next = t
		}
	}
	over := p.ledger.expire(now, p.settings.Cooldown, p.config.Settled)
	earliest(over.next)
	p.noteUnsettled(over)
	if over.ended > 0 {
		p.growAgain() // an ENI may have become convertible
		w = p.journal.enqueue(p.ledger.changes())
		p.announce()
	}
	for _, t := range []time.Time{p.resync, p.reclaim, p.asked.over()} {
		earliest(t)
	}
	wanted, ripe := p.wanted(now)
	earliest(ripe)
	for _, j := range wanted {
		l := p.lane(j.lane)
		if l.busy {
			continue
		}
		if now.Before(l.notBefore) {
			earliest(l.notBefore)
			continue
		}
		l.busy = true
		if e := p.ledger.enis[j.token]; e != nil {
			e.version++
		}
		jobs = append(jobs, j)
	}
	p.checkReady()
	return jobs, next, w
}

// wanted lists everything there is to do, whether or not its lane is free, and says when there is more because time has
// passed; zero: never.
func (p *Pool) wanted(now time.Time) (jobs []job, ripe time.Time) {
	if !p.learned {
		jobs = append(jobs, job{lane: laneNode, run: p.learn})
	}
	if known := p.node.Limits.AddressesPerENI > 0; known && !now.Before(p.resync) {
		jobs = append(jobs, job{lane: laneSync, run: p.sync})
	}
	if p.config.InUse != nil && (len(p.ledger.unproven()) > 0 || p.rebuild && p.synced) {
		jobs = append(jobs, job{lane: laneProve, run: p.prove})
	}
	for token, e := range p.ledger.enis {
		jobs = append(jobs, p.jobsOf(token, e)...)
	}
	if p.synced && !now.Before(p.asked.over()) {
		var steps []step
		var unmet int
		if steps, unmet, ripe = p.plan(now); len(steps) > 0 || unmet > 0 {
			jobs = append(jobs, job{lane: laneGrow, run: p.resize})
		} else {
			p.asked = gathering{}
		}
	}
	return jobs, ripe
}

// jobsOf lists an ENI's next steps. Wiring needs no cloud, everything else waits for the first sync.
func (p *Pool) jobsOf(token string, e *eni) (jobs []job) {
	add := func(what string, run func(context.Context, eni) error) {
		jobs = append(jobs, job{lane: laneOf(token, what), token: token, run: func(ctx context.Context) error {
			p.mu.Lock()
			now, ok := p.ledger.enis[token]
			if !ok {
				p.mu.Unlock()
				return nil
			}
			record := *now
			p.mu.Unlock()
			return run(ctx, record)
		}})
	}
	if e.State == ENIInUse && !e.wired {
		add(laneLife, p.wire)
	}
	if !p.synced {
		return jobs
	}
	if e.State != ENIInUse {
		if !e.doubt {
			add(laneLife, p.live)
		}
		return jobs
	}
	for _, a := range e.Assigns {
		add(laneAssign(a.Family), func(ctx context.Context, e eni) error { return p.assign(ctx, e, a.Family) })
	}
	if len(p.ledger.releasingOn(token)) > 0 {
		add(laneBack, p.giveBack)
	}
	if _, unlike := p.repairs(e); unlike {
		add(laneRepair, p.repair)
	}
	return jobs
}

// attempt runs a job and books its outcome.
func (p *Pool) attempt(ctx context.Context, j job) {
	call, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	err := j.run(call)
	p.mu.Lock()
	defer p.mu.Unlock()
	defer p.kick()
	defer p.announce() // a caller may have to give up now
	l := p.lane(j.lane)
	l.busy = false
	if e := p.ledger.enis[j.token]; e != nil {
		e.version++
	} else if j.token != "" {
		for _, what := range lanesOfENI {
			delete(p.lanes, laneOf(j.token, what))
		}
	}
	p.book(l, j.lane == laneGrow, err)
	if err != nil && !errors.Is(err, errNotYet) {
		p.metrics.refused(err)
		if ctx.Err() == nil {
			p.log.Warn("pool step failed, trying again", "op", j.lane, "err", err, "failures", l.failures)
		}
	}
}

// book sets when a lane is due again. Growing has succeeded only when the cloud has given something, see grew.
func (p *Pool) book(l *lane, growing bool, err error) {
	now := time.Now()
	switch {
	case err == nil && growing:
		l.notBefore = now.Add(minPause)
	case err == nil:
		*l = lane{notBefore: now.Add(minPause)}
	case errors.Is(err, errNotYet):
		*l = lane{polls: l.polls + 1, notBefore: now.Add(delay(l.polls+1, maxPoll))}
	case errors.Is(err, errHeld):
		*l = lane{failures: l.failures + 1, err: err, held: true, notBefore: now.Add(holdFor)}
	default:
		l.fail(err)
	}
}

func (l *lane) fail(err error) {
	limit := maxBackoff
	if errors.Is(err, aliyun.ErrThrottled) {
		limit = maxThrottled
	}
	if l.failures == 0 {
		l.failing = time.Now()
	}
	l.failures, l.polls, l.err = l.failures+1, 0, err
	l.notBefore = time.Now().Add(delay(l.failures, limit))
}

// stuck says that the lane is not about to succeed: it has failed several times in a row, or twice over a while, as calls
// do that nothing answers. A cloud that throttles is there, and its turn will come.
func (l *lane) stuck() bool {
	often := l.failures >= stuckAfter || l.failures > 1 && time.Since(l.failing) > stuckFor
	return l.err != nil && often && !errors.Is(l.err, aliyun.ErrThrottled)
}

// delay doubles from half a second, with a quarter of it left to chance so that nodes do not fall into step.
func delay(failures int, limit time.Duration) time.Duration {
	d := min(limit, 500*time.Millisecond<<min(max(failures-1, 0), 10))
	return d - rand.N(d/4+1)
}

func (p *Pool) lane(name string) *lane {
	l, ok := p.lanes[name]
	if !ok {
		l = &lane{}
		p.lanes[name] = l
	}
	return l
}

// checkReady runs under the lock.
func (p *Pool) checkReady() {
	select {
	case <-p.ready:
	default:
		if p.synced || p.settled && p.ledger.sharedDemand(0).idle > 0 {
			close(p.ready)
		}
	}
}

// hopeless runs under the lock and says why waiting for a lease is of no use, or nil.
func (p *Pool) hopeless(isExclusive bool) error {
	d, what := p.demand(isExclusive), "addresses"
	if isExclusive {
		what = "exclusive ENIs"
	}
	if most := max(d.capacity, d.atMost); p.node.Limits.AddressesPerENI > 0 && d.used >= most {
		return fmt.Errorf("%w: all %d %s that the instance type and the settings allow are in use", ErrExhausted, most, what)
	}
	if d.cooling+d.coolingOthers > 0 && p.settled && len(p.ledger.unproven()) == 0 {
		return nil
	}
	if err := p.stuck(); err != nil {
		return fmt.Errorf("%w: %w", ErrExhausted, err)
	}
	return nil
}

// demand runs under the lock.
func (p *Pool) demand(isExclusive bool) demand {
	if isExclusive {
		return p.ledger.exclusiveDemand(p.waiting(true))
	}
	return p.ledger.sharedDemand(p.waiting(false))
}

// stuck returns the error that keeps the pool from growing, once it has come several times in a row. The listing does so
// only before its first success; doubt about adopted addresses never does.
func (p *Pool) stuck() error {
	var err error
	lanes := []string{laneNode, laneGrow}
	if !p.synced {
		lanes = append(lanes, laneSync)
	}
	for _, name := range lanes {
		if l, ok := p.lanes[name]; ok && l.stuck() {
			err = l.err
		}
	}
	for token, e := range p.ledger.enis {
		for _, what := range p.hopesOf(e) {
			switch l, ok := p.lanes[laneOf(token, what)]; {
			case ok && (l.stuck() || l.held):
				err = l.err
			case p.synced || e.State == ENIInUse && what == laneLife:
				return nil // this one may still bring addresses
			}
		}
	}
	return err
}

// hopesOf lists the lanes of an ENI that may bring something to lease.
func (p *Pool) hopesOf(e *eni) (lanes []string) {
	if e.coming() || e.State == ENIDetaching || e.State == ENIDeleting { // one that goes makes room
		lanes = append(lanes, laneLife)
	}
	for _, f := range p.config.Families {
		l := p.lanes[laneOf(e.Token, laneAssign(f))]
		if e.assigning(f).Count > 0 || l != nil && l.held && time.Now().Before(l.notBefore) {
			lanes = append(lanes, laneAssign(f))
		}
	}
	return lanes
}

// trouble returns the errors of the last attempts, or nil.
func (p *Pool) trouble() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	var errs []error
	for _, l := range p.lanes {
		errs = append(errs, l.err)
	}
	return errors.Join(errs...)
}
