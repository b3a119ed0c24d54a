package aliyun

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// The cloud counts calls by account, action and minute, and the nodes of a cluster share the account. A node's budget is
// therefore a small part of what the account has.
const (
	defaultRate = 30 // calls per minute and action
	// describeENIRate is for the one action that is polled, while ENIs come and go.
	describeENIRate = 60
	// recheck bounds how long the first in the queue sleeps: its rate grows meanwhile.
	recheck = time.Second
)

// A pacing is the temper of buckets.
type pacing struct {
	saved    time.Duration // how much of the rate is saved up in a pause, to be called at once
	recovery time.Duration // how long a rate takes from zero to its whole
}

// A standard is the budget of actions that the configuration does not name.
type standard struct {
	perMinute int
	others    map[string]int // calls per minute of actions that have another
	pacing
}

// nodeStandard is for the APIs that every node of a cluster calls.
func nodeStandard() standard {
	return standard{
		perMinute: defaultRate, others: map[string]int{"DescribeNetworkInterfaces": describeENIRate},
		pacing: pacing{saved: 20 * time.Second, recovery: time.Minute},
	}
}

func (s *standard) rateOf(rates map[string]int, action string) int {
	for _, m := range []map[string]int{rates, s.others} {
		if n, ok := m[action]; ok {
			return n
		}
	}
	return s.perMinute
}

// A bucket is the budget of one action: tokens that come at a rate, up to a burst. The rate is halved when the cloud
// throttles and grows back linearly (AIMD, RFC 5681 in spirit), so that what many nodes ask for together settles at
// what the account has. It knows no clock; times are arguments and never go back.
type bucket struct {
	pacing
	full   float64 // tokens per second when nothing was throttled for long
	rate   float64 // tokens per second at the time at
	burst  float64
	tokens float64
	at     time.Time
	cut    time.Time // last halving
}

func newBucket(perMinute int, p pacing, now time.Time) bucket {
	full := float64(perMinute) / 60
	b := bucket{pacing: p, full: full, rate: full, burst: p.burstOf(full), at: now}
	b.tokens = b.burst
	return b
}

func (p pacing) burstOf(perSecond float64) float64 { return max(1, perSecond*p.saved.Seconds()) }

func (b *bucket) advance(now time.Time) {
	seconds := now.Sub(b.at).Seconds()
	if seconds <= 0 {
		return
	}
	grown := min(b.full, b.rate+b.full*seconds/b.recovery.Seconds())
	b.tokens = min(b.burst, b.tokens+seconds*(b.rate+grown)/2)
	b.rate, b.at = grown, now
}

// take draws a token, or says after how long there will be one at the present rate.
func (b *bucket) take(now time.Time) (wait time.Duration, ok bool) {
	b.advance(now)
	if b.tokens >= 1 {
		b.tokens--
		return 0, true
	}
	return max(time.Millisecond, time.Duration((1-b.tokens)/b.rate*float64(time.Second))), false
}

// throttled halves the rate and takes away what was saved up. Calls that were under way together are one event: a call
// whose token was drawn before the last halving says nothing new.
func (b *bucket) throttled(drawn, now time.Time) {
	b.advance(now)
	if drawn.Before(b.cut) {
		return
	}
	// A rate below one call in two minutes would leave a caller without an answer for longer than any of them waits.
	b.rate = max(b.rate/2, min(b.full, 0.5/60))
	b.tokens, b.cut = min(b.tokens, 0), now
}

// resize gives the bucket another full rate.
func (b *bucket) resize(perMinute int, now time.Time) {
	b.advance(now)
	b.full = float64(perMinute) / 60
	b.burst = b.burstOf(b.full)
	b.rate, b.tokens = min(b.rate, b.full), min(b.tokens, b.burst)
}

// A queue hands out the tokens of one bucket, first come first served. A call that is repeated keeps its place: at the
// end of the queue again and again, the unlucky would wait for ever.
type queue struct {
	mu      sync.Mutex // guards the fields below; not held while waiting
	bucket  bucket
	waiting []*waiter // in the order of their calls, but for the first, whose turn it is
}

// A waiter is a call without a token.
type waiter struct {
	call uint64        // calls are numbered as they come
	turn chan struct{} // closed when it is the first
}

// wait returns when the call has a token, with the time it was drawn at, or why ctx ended.
func (q *queue) wait(ctx context.Context, call uint64) (drawn time.Time, err error) {
	w := &waiter{call, make(chan struct{})}
	q.enter(w)
	defer q.leave(w)
	select {
	case <-w.turn:
	case <-ctx.Done():
		return time.Time{}, context.Cause(ctx)
	}
	for {
		now := time.Now()
		delay, ok := q.take(now)
		if ok {
			return now, nil
		}
		if err := pause(ctx, min(delay, recheck)); err != nil {
			return time.Time{}, err
		}
	}
}

func (q *queue) enter(w *waiter) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.waiting) == 0 {
		q.waiting = append(q.waiting, w)
		close(w.turn)
		return
	}
	i := len(q.waiting)
	for i > 1 && q.waiting[i-1].call > w.call {
		i--
	}
	q.waiting = slices.Insert(q.waiting, i, w)
}

func (q *queue) leave(w *waiter) {
	q.mu.Lock()
	defer q.mu.Unlock()
	i := slices.Index(q.waiting, w)
	q.waiting = slices.Delete(q.waiting, i, i+1)
	if i == 0 && len(q.waiting) > 0 {
		close(q.waiting[0].turn)
	}
}

func (q *queue) take(now time.Time) (time.Duration, bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.bucket.take(now)
}

func (q *queue) throttled(drawn, now time.Time) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.bucket.throttled(drawn, now)
}

// perMinute is the present rate.
func (q *queue) perMinute(now time.Time) float64 {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.bucket.advance(now)
	return q.bucket.rate * 60
}

func (q *queue) resize(perMinute int, now time.Time) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.bucket.resize(perMinute, now)
}

// A limiter has a queue for each action. There are as many as this package has actions.
type limiter struct {
	standard standard // never changed after the first call
	calls    atomic.Uint64

	mu     sync.Mutex // guards the fields below
	rates  map[string]int
	queues map[string]*queue
}

// checkRates refuses rates that no call could ever pass.
func checkRates(rates map[string]int) error {
	for _, action := range slices.Sorted(maps.Keys(rates)) {
		if n := rates[action]; n < 1 {
			return fmt.Errorf("rate limit of %s is %d calls per minute, want at least 1", action, n)
		}
	}
	return nil
}

func newLimiter(rates map[string]int) (*limiter, error) {
	if err := checkRates(rates); err != nil {
		return nil, err
	}
	return &limiter{standard: nodeStandard(), rates: maps.Clone(rates), queues: map[string]*queue{}}, nil
}

func (l *limiter) queue(action string) *queue {
	l.mu.Lock()
	defer l.mu.Unlock()
	q := l.queues[action]
	if q == nil {
		q = &queue{bucket: newBucket(l.standard.rateOf(l.rates, action), l.standard.pacing, time.Now())}
		l.queues[action] = q
	}
	return q
}

func (l *limiter) resize(rates map[string]int) error {
	if err := checkRates(rates); err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.rates = maps.Clone(rates)
	now := time.Now()
	for action, q := range l.queues {
		q.resize(l.standard.rateOf(rates, action), now)
	}
	return nil
}

// present returns the calls per minute that each action used so far may make now.
func (l *limiter) present() map[string]float64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Now()
	all := make(map[string]float64, len(l.queues))
	for action, q := range l.queues {
		all[action] = q.perMinute(now)
	}
	return all
}
