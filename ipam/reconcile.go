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
	tickEvery    = time.Minute     // bounds how late idle addresses are given back
	callTimeout  = 45 * time.Second
	fullVSwitch  = time.Minute      // first pause of a vSwitch without addresses, doubled up to maxFull
	maxFull      = 10 * time.Minute // reference: IpNotEnough inhibits for as long elsewhere
	maxBackoff   = 32 * time.Second
	maxPoll      = 4 * time.Second
	minPause     = 10 * time.Millisecond // between two steps of a lane, so that no mistake makes a loop hot
	stuckAfter   = 3                     // failures in a row after which callers need not wait for a lane
	intentMaxAge = 10 * time.Minute
	attachMaxAge = 2 * time.Minute
	attachSettle = 5 * time.Second // how long a listing may still show the state from before a call
)

// errNotYet says that the cloud is still at work; it is polled again soon.
var errNotYet = errors.New("not yet")

// A lane is a sequence of attempts at one thing, one attempt at a time: an ENI's next step, the sync, growing.
type lane struct {
	busy      bool
	failures  int // in a row
	polls     int // in a row, answered by errNotYet
	err       error
	notBefore time.Time
}

const (
	laneNode = "node"
	laneSync = "sync"
	laneGrow = "grow"
	laneENI  = "eni/" // + Token
)

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
	freed, cools := p.ledger.expire(now)
	earliest(cools)
	if freed > 0 {
		w = p.journal.enqueue(p.ledger.changes())
		p.announce()
	}
	earliest(p.resync)
	for _, j := range p.wanted(now) {
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

// wanted lists everything there is to do, whether or not its lane is free.
func (p *Pool) wanted(now time.Time) []job {
	var jobs []job
	if !p.learned {
		jobs = append(jobs, job{lane: laneNode, run: p.learn})
	}
	if known := p.node.Limits.AddressesPerENI > 0; known && !now.Before(p.resync) {
		jobs = append(jobs, job{lane: laneSync, run: p.sync})
	}
	for token, e := range p.ledger.enis {
		if p.hasWork(e) {
			jobs = append(jobs, job{lane: laneENI + token, token: token, run: func(ctx context.Context) error { return p.drive(ctx, token) }})
		}
	}
	if p.synced {
		steps, left, shrink := p.steps(now)
		if len(steps) > 0 || left > 0 || shrink > 0 && len(p.ledger.victims(1, now, p.config.IdleReclaim)) > 0 {
			jobs = append(jobs, job{lane: laneGrow, run: p.resize})
		}
	}
	return jobs
}

// hasWork says whether the ENI has a next step. Wiring needs no cloud, everything else waits for the first sync.
func (p *Pool) hasWork(e *eni) bool {
	if e.State != ENIInUse {
		return p.synced
	}
	if !e.wired {
		return true
	}
	return p.synced && (e.Assign != nil || len(p.ledger.releasingOn(e.Token)) > 0)
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
		delete(p.lanes, j.lane)
	}
	switch {
	case err == nil && j.lane != laneGrow: // growing has succeeded only when the cloud has given something, see grew
		*l = lane{notBefore: time.Now().Add(minPause)}
	case errors.Is(err, errNotYet):
		*l = lane{polls: l.polls + 1, notBefore: time.Now().Add(delay(l.polls+1, maxPoll))}
	case err != nil:
		l.fail(err, maxBackoff)
		if ctx.Err() == nil {
			p.log.Warn("pool step failed, trying again", "op", j.lane, "err", err, "failures", l.failures)
		}
	}
}

func (l *lane) fail(err error, limit time.Duration) {
	l.failures, l.polls, l.err = l.failures+1, 0, err
	l.notBefore = time.Now().Add(delay(l.failures, limit))
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
		if p.synced || p.settled && p.ledger.demand(0).idle > 0 {
			close(p.ready)
		}
	}
}

// hopeless runs under the lock and says why waiting for an address is of no use, or nil.
func (p *Pool) hopeless() error {
	d := p.ledger.demand(p.waiting)
	if p.node.Limits.AddressesPerENI > 0 && d.used >= d.capacity {
		return fmt.Errorf("%w: all %d that the instance type allows are in use", ErrExhausted, d.capacity)
	}
	if d.cooling > 0 && p.settled {
		return nil
	}
	if err := p.stuck(); err != nil {
		return fmt.Errorf("%w: %w", ErrExhausted, err)
	}
	return nil
}

// stuck returns the error that keeps the pool from growing, once it has come several times in a row.
func (p *Pool) stuck() error {
	var err error
	for _, name := range []string{laneNode, laneSync, laneGrow} {
		if l, ok := p.lanes[name]; ok && l.failures >= stuckAfter && l.err != nil {
			err = l.err
		}
	}
	for token, e := range p.ledger.enis {
		if !e.coming() && e.Assign == nil {
			continue
		}
		l, ok := p.lanes[laneENI+token]
		if !ok || l.failures < stuckAfter || l.err == nil {
			if p.synced || e.State == ENIInUse {
				return nil // this one may still bring addresses
			}
			continue
		}
		err = l.err
	}
	return err
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

// learn asks the cloud about the instance.
func (p *Pool) learn(ctx context.Context) error {
	instance, err := p.config.Cloud.DescribeInstance(ctx, p.config.InstanceID)
	if err != nil {
		return fmt.Errorf("describe instance %s: %w", p.config.InstanceID, err)
	}
	kind, err := p.config.Cloud.DescribeInstanceType(ctx, instance.Type)
	if err != nil {
		return fmt.Errorf("describe instance type %s: %w", instance.Type, err)
	}
	if kind.ENIs < 2 || kind.AddressesPerENI < 1 {
		return fmt.Errorf("instance type %s allows %d ENIs with %d addresses each: pods need at least one beside the primary ENI",
			instance.Type, kind.ENIs, kind.AddressesPerENI)
	}
	n := node{
		ZoneID: instance.ZoneID, VSwitchID: instance.VSwitchID, SecurityGroups: instance.SecurityGroupIDs,
		Limits: limits{ENIs: kind.ENIs - 1, AddressesPerENI: kind.AddressesPerENI},
	}
	p.mu.Lock()
	p.node, p.ledger.limits, p.learned = n, n.Limits, true
	w := p.journal.enqueue([]change{{bucketMeta, metaNode, encode(n)}})
	p.mu.Unlock()
	return p.flush(w)
}

// sync compares the ledger with the cloud.
func (p *Pool) sync(ctx context.Context) error {
	p.mu.Lock()
	p.again = false
	p.mu.Unlock()
	skipped, err := p.look(ctx)
	p.mu.Lock()
	defer p.mu.Unlock()
	p.settled = true
	if err != nil {
		return err
	}
	p.synced = true
	p.resync = time.Now().Add(syncEvery - rand.N(syncEvery/10))
	switch {
	case p.again:
		p.resync = time.Time{}
	case skipped > 0:
		p.resync = time.Now().Add(lookAgain)
	case p.ledger.doubtful():
		p.resync = time.Now().Add(secondLook)
	}
	return nil
}

func (p *Pool) look(ctx context.Context) (skipped int, err error) {
	o := observation{versions: map[string]int{}, started: time.Now()}
	p.mu.Lock()
	for token, e := range p.ledger.enis {
		if l := p.lanes[laneENI+token]; l == nil || !l.busy {
			o.versions[token] = e.version
		}
	}
	p.mu.Unlock()
	if err := p.list(ctx, &o); err != nil {
		return 0, err
	}
	var found []finding
	err = p.update(func(l *ledger) error {
		found, skipped = l.observe(o, p.identity, time.Now())
		return nil
	})
	for _, f := range found {
		p.log.Warn("pool and cloud differed", "what", f.what, "eni", f.eni, "ip", f.addr)
	}
	return skipped, err
}

// list asks for the ENIs of the instance, for ours that are attached nowhere, and for the vSwitches of unknown ones.
func (p *Pool) list(ctx context.Context, o *observation) error {
	attached, err := p.config.Cloud.DescribeENIs(ctx, aliyun.ENIFilter{InstanceID: p.config.InstanceID})
	if err != nil {
		return fmt.Errorf("list ENIs of instance %s: %w", p.config.InstanceID, err)
	}
	if !hasPrimary(attached) {
		return fmt.Errorf("list ENIs of instance %s: %w", p.config.InstanceID, errNoPrimary)
	}
	tags := map[string]string{tagOwner: p.identity.owner, tagInstance: p.identity.instanceID}
	tagged, err := p.config.Cloud.DescribeENIs(ctx, aliyun.ENIFilter{Tags: tags})
	if err != nil {
		return fmt.Errorf("list ENIs tagged for instance %s: %w", p.config.InstanceID, err)
	}
	known := map[string]bool{}
	for _, e := range append(attached, tagged...) {
		if !known[e.ID] {
			known[e.ID] = true
			o.enis = append(o.enis, e)
		}
	}
	o.vSwitches, err = p.strange(ctx, o.enis)
	return err
}

func hasPrimary(enis []aliyun.ENI) bool {
	for _, e := range enis {
		if e.Type == aliyun.TypePrimary {
			return true
		}
	}
	return false
}

// strange describes the vSwitches of ENIs that are ours but not in the ledger.
func (p *Pool) strange(ctx context.Context, enis []aliyun.ENI) (map[string]aliyun.VSwitch, error) {
	var ids []string
	p.mu.Lock()
	for _, e := range enis {
		if p.identity.ours(e) && p.ledger.eniByID(e.ID) == nil {
			ids = append(ids, e.VSwitchID)
		}
	}
	p.mu.Unlock()
	if len(ids) == 0 {
		return nil, nil
	}
	list, err := p.config.Cloud.DescribeVSwitches(ctx, ids)
	if err != nil {
		return nil, fmt.Errorf("describe vSwitches of unknown ENIs: %w", err)
	}
	byID := map[string]aliyun.VSwitch{}
	for _, v := range list {
		byID[v.ID] = v
	}
	return byID, nil
}
