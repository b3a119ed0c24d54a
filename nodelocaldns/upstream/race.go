package upstream

import (
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/miekg/dns"
)

const (
	// nearby is how much slower than twice the fastest endpoint another may be to count as near.
	nearby = time.Millisecond
	// A reply is late after the 95th percentile, and missing after four times that, within these bounds.
	minLate, maxLate       = 10 * time.Millisecond, 500 * time.Millisecond
	minMissing, maxMissing = 150 * time.Millisecond, time.Second
	// grace is for those that lose a race: a reply within it proves that they live.
	minGrace = 250 * time.Millisecond
	// firstRound is how long to wait when every endpoint has failed, before all are asked again; each further round waits
	// twice as long.
	firstRound = 50 * time.Millisecond
	maxRounds  = 6 // that make patience longer
	// maxBad is how many endpoints are asked for a name that has an error everywhere.
	maxBad = 3
	// maxAtOnce is over how many connections a server is asked one question.
	maxAtOnce = 3
	// udpTries is how often a question is asked of an endpoint over UDP, before TCP is tried.
	udpTries = 2
)

// A race is one question and everybody who is asked for it. One goroutine owns it.
type race struct {
	*Upstream
	q       *query
	runs    []*run
	results chan outcome
	running int
	timer   *time.Timer
	late    time.Time // when the last one asked is missing
	stage   stage
	rounds  int
	hedged  bool     // one time is enough
	bad     *dns.Msg // a reply that is only good when there is no other
	bads    int
	err     error
}

// A stage is what the timer stands for.
type stage uint8

const (
	stageHedge stage = iota // the reply is late
	stageRetry              // the reply is missing
	stageRound              // all have failed a moment ago
	stageNone               // nothing: only those asked can help
)

// A run is one of those asked.
type run struct {
	*member
	start  time.Time
	cancel context.CancelCauseFunc
	begun  *begun // what is left of the asker's own attempt
	over   bool
}

type outcome struct {
	*run
	reply []byte
	msg   *dns.Msg // once the reply has been read
	err   error
}

// ask returns the first good reply. Without any it returns the first bad one, or why there is none.
func (u *Upstream) ask(q *query, dropped <-chan struct{}) (*dns.Msg, error) {
	u.budget.earn()
	r := &race{Upstream: u, q: q}
	start := time.Now()
	first := r.alone()
	if first != nil && first.msg != nil && r.isFinal(first.msg) {
		return first.msg, nil
	}
	ctx, cancel := context.WithTimeoutCause(u.life, time.Until(start.Add(u.Timeout)), errTimeout)
	defer cancel()
	r.results, r.timer = make(chan outcome, u.attempts()), time.NewTimer(u.Timeout)
	defer r.leave()
	if first != nil {
		r.goOn(*first)
	} else {
		r.start()
	}
	for r.running > 0 || r.stage == stageRound {
		select {
		case o := <-r.results:
			if reply := r.judge(o); reply != nil {
				return reply, nil
			}
		case <-r.timer.C:
			r.impatient()
		case <-dropped:
			return r.verdict(ErrDropped)
		case <-ctx.Done():
			return r.verdict(context.Cause(ctx))
		}
	}
	return r.verdict(r.err)
}

// alone asks the most promising endpoint by itself until the reply is late: there is nothing else to do as long. It returns nil
// when that is not how to ask. An outcome that is final leaves nothing to clean up; others are for goOn.
func (r *race) alone() *outcome {
	m := r.choose(r.asked)
	if m == nil {
		return nil
	}
	if m.standing(time.Now()).state == stateDown { // and all others, too
		r.Metrics.broken.Inc()
	}
	b := m.tryAlone(r.q, r.lateAfter(m))
	if b == nil {
		return nil
	}
	o := &outcome{run: &run{member: m, start: b.start, begun: b, cancel: func(error) {}}}
	if b.isGood() {
		o.begun, o.reply = nil, b.reply
		o.msg, o.err = r.open(*o)
	}
	return o
}

// goOn begins the race with what alone has begun.
func (r *race) goOn(o outcome) {
	if o.begun == nil {
		r.runs = append(r.runs, o.run)
		r.running++
		r.stage = stageNone
		r.results <- o
		return
	}
	r.runAs(o.run, attempt{begun: o.begun})
}

// attempts bounds how often one question is asked: everybody twice at least, so that one that lives is found.
func (u *Upstream) attempts() int { return max(6, 2*len(*u.members.Load())) }

func (r *race) verdict(err error) (*dns.Msg, error) {
	if r.bad != nil && !errors.Is(err, ErrDropped) {
		return r.bad, nil
	}
	if errors.Is(err, errTimeout) && r.err != nil {
		return nil, r.err
	}
	return nil, err
}

// start asks the most promising endpoint, and returns whether there is one.
func (r *race) start() bool {
	r.stage = stageNone
	if len(r.runs) >= cap(r.results) {
		return false
	}
	m := r.choose(r.asked)
	if m == nil {
		r.err = ErrNoEndpoint
		if len(*r.members.Load()) > 0 {
			r.err = ErrLooped
		}
		return false
	}
	r.runAs(&run{member: m, start: time.Now()}, attempt{tcp: r.asked(m) >= udpTries, apart: r.asked(m) > 0})
	return true
}

// runAs has one more asked, and sees to it that others are when there is no reply.
func (r *race) runAs(one *run, how attempt) {
	ctx, cancel := context.WithDeadline(r.life, one.start.Add(r.ReadTimeout))
	ctx, one.cancel = context.WithCancelCause(ctx)
	r.runs = append(r.runs, one)
	r.running++
	r.Upstream.running.Go(func() {
		defer cancel()
		reply, err := one.exchange(ctx, r.q, how)
		r.results <- outcome{run: one, reply: reply, err: err}
	})
	patience := min(r.rounds, maxRounds)
	r.late = one.start.Add(max(r.lateAfter(one.member), min(max(4*one.p95(), minMissing), maxMissing)<<patience))
	if r.hedged || r.NoHedge {
		r.stage = stageRetry
		r.timer.Reset(time.Until(r.late))
	} else {
		r.stage = stageHedge
		r.timer.Reset(time.Until(one.start.Add(r.lateAfter(one.member))))
	}
}

// lateAfter is when a reply is later than most.
func (r *race) lateAfter(m *member) time.Duration {
	return min(max(m.p95(), minLate), maxLate) << min(r.rounds, maxRounds)
}

func (r *race) asked(m *member) (times int) {
	for _, one := range r.runs {
		if one.member == m {
			times++
		}
	}
	return times
}

// impatient asks somebody else. Late replies are usual, so only a share of questions may be asked twice for them; missing
// ones are not.
func (r *race) impatient() {
	if r.bad != nil && !r.unasked() {
		r.stage = stageNone
	}
	switch r.stage {
	case stageHedge:
		if r.elsewhere() && r.budget.spend() {
			r.hedged = true
			if r.start() {
				r.Metrics.hedged.Inc()
			}
			return
		}
		r.stage = stageRetry
		r.timer.Reset(time.Until(r.late))
	case stageRetry, stageRound:
		r.rounds++
		if r.stage = stageNone; r.elsewhere() {
			r.again()
		}
	}
}

// elsewhere is whether asking once more is not just more of the same: over TCP nothing is lost, and a server that is asked over
// three connections already is slow with this question rather than with those before it, and would be over all of them.
func (r *race) elsewhere() bool {
	next, waits := r.choose(r.asked), 0
	for _, one := range r.runs {
		if one.member == next && !one.over {
			waits++
		}
	}
	return next != nil && (next.transport == UDPFirst || waits < min(maxAtOnce, next.connections+1))
}

func (r *race) again() {
	if r.start() {
		r.Metrics.retried.Inc()
	}
}

// judge returns the reply if it is good. Else it sees to it that somebody else is asked.
func (r *race) judge(o outcome) *dns.Msg {
	r.running--
	o.over = true
	reply, err := o.msg, o.err
	if reply == nil {
		reply, err = r.open(o)
	}
	switch {
	case err != nil:
		r.err = err
	case r.isFinal(reply):
		return reply
	default:
		return r.second(reply)
	}
	r.replace()
	return nil
}

// isFinal is whether nobody else is asked after this reply.
func (r *race) isFinal(reply *dns.Msg) bool {
	return !slices.Contains(r.Failover, reply.Rcode) && reply.Rcode <= 15
}

// second asks another endpoint when one has given a bad reply. When three have, or there is no other, that is the reply.
func (r *race) second(reply *dns.Msg) *dns.Msg {
	if r.bad == nil {
		r.bad = reply
	}
	r.bads++
	switch {
	case r.bads == maxBad:
		return r.bad
	case r.unasked():
		r.again()
	case r.running == 0:
		return r.bad
	}
	return nil
}

func (r *race) unasked() bool {
	next := r.choose(r.asked)
	return next != nil && r.asked(next) == 0
}

// replace asks another endpoint at once. When all have been asked, those that still run may reply; when all have failed, they
// are asked again in a moment.
func (r *race) replace() {
	switch {
	case r.bad != nil && !r.unasked():
	case r.unasked() || r.choose(r.asked) == nil:
		r.again()
	case r.running == 0 && len(r.runs) < cap(r.results):
		r.stage = stageRound
		r.timer.Reset(firstRound << min(r.rounds, maxRounds))
	}
}

// open reads a reply and takes out what is not part of it.
func (r *race) open(o outcome) (*dns.Msg, error) {
	if o.err != nil {
		return nil, o.err
	}
	reply := new(dns.Msg)
	if err := reply.Unpack(o.reply); err != nil {
		o.metrics.mismatched.Inc()
		return nil, err
	}
	if !complete(reply, o.reply) {
		o.metrics.mismatched.Inc()
		return nil, errCutOff
	}
	r.Metrics.scrubbed.Add(float64(scrub(reply, r.q)))
	return reply, nil
}

// leave lets the losers run on for a moment: their replies, or none, are news of their endpoints.
func (r *race) leave() {
	r.timer.Stop()
	for _, one := range r.runs {
		if one.over {
			one.cancel(nil)
			continue
		}
		grace := min(max(4*one.p95(), minGrace), r.ReadTimeout)
		if left := time.Until(one.start.Add(grace)); left > 0 {
			time.AfterFunc(left, func() { one.cancel(errLate) })
		} else {
			one.cancel(errLate)
		}
	}
}

// A budget lets one in ten questions be asked twice, and a few at once.
type budget struct {
	mu     sync.Mutex
	tenths int
}

const maxBudget = 200 // tenths

func (b *budget) earn() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.tenths = min(b.tenths+1, maxBudget)
}

func (b *budget) spend() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.tenths < 10 {
		return false
	}
	b.tenths -= 10
	return true
}

// leastLoaded picks one of those with the least load by chance.
func leastLoaded[T any](all []T, load func(T) int) T {
	least, ties := all[0], 1
	for _, one := range all[1:] {
		switch l, have := load(one), load(least); {
		case l < have:
			least, ties = one, 1
		case l == have:
			if ties++; rand.IntN(ties) == 0 { //nolint:gosec // nobody gains by guessing
				least = one
			}
		}
	}
	return least
}
