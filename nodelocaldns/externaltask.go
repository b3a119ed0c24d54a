package nodelocaldns

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/miekg/dns"

	"github.com/nearpath/nearpath/bpf"
)

// Run adopts what the map holds, and then refreshes and removes answers until ctx ends. It leaves the answers where they
// are: each has its own end. An error means that the map cannot be read.
func (e *External) Run(ctx context.Context) error {
	if err := e.adopt(); err != nil {
		return fmt.Errorf("adopt external answers: %w", err)
	}
	close(e.ready)
	var asking sync.WaitGroup
	defer asking.Wait()
	asks := make(chan struct{}, maxAsking)
	sweep := time.NewTimer(minSweep)
	defer sweep.Stop()
	for {
		next := e.work(ctx, asks, &asking)
		select {
		case <-ctx.Done():
			return nil
		case <-sweep.C:
			sweep.Reset(e.sweep())
		case <-e.wake:
		case <-next:
		}
	}
}

// adopt takes over what an earlier process has put: what every pod may be given, until its end. Scopes have other numbers now.
func (e *External) adopt() error {
	e.mu.Lock()
	defer e.mu.Unlock()
	now := time.Now()
	var drop []bpf.AnswerKey
	for a, err := range e.config.Answers.All() {
		if err != nil {
			return err
		}
		if ofZone(a) {
			continue
		}
		// A stale answer is that of a cache which is gone. What is of the domain now may have been anybody's.
		m := new(dns.Msg)
		if a.Scope != 0 || !a.Aged || e.owned(a.Name) || a.Expires <= 0 || len(e.shelf.held) >= e.shelf.room || m.Unpack(a.Response) != nil {
			drop = append(drop, a.AnswerKey)
			continue
		}
		e.shelf.placed(now, a.AnswerKey, now.Add(a.Expires), false, otherNames(a.Name, m))
		e.shelf.counted(now, a.AnswerKey, uint64(a.Hits))
	}
	for _, key := range drop {
		if a, ok, err := e.config.Answers.Lookup(key); err == nil && ok && ofZone(a) {
			continue // put in its place since
		}
		e.remove(key)
	}
	return nil
}

// ofZone says whether an answer is the Publisher's, whose have no end and count nothing down.
func ofZone(a bpf.Answer) bool { return a.Type == 0 || a.Scope == 0 && !a.Aged && a.Expires == 0 }

// work does what is due, and returns what tells that something is due again.
func (e *External) work(ctx context.Context, asks chan struct{}, asking *sync.WaitGroup) <-chan time.Time {
	e.mu.Lock()
	defer e.mu.Unlock()
	now := time.Now()
	for _, key := range e.shelf.ending(now) {
		e.count(now, key)
	}
	for _, op := range e.shelf.plan(now) {
		switch op.verb {
		case askAgain:
			e.ask(ctx, op.key, asks, asking)
		case dropDoubted:
			if e.remove(op.key) {
				e.counts.Forgotten++
			}
		default:
			if e.remove(op.key) {
				e.counts.Ended++
			}
		}
	}
	next := e.shelf.next()
	if next.IsZero() {
		return nil
	}
	return time.After(next.Sub(now))
}

// count reads the hits of one answer.
func (e *External) count(now time.Time, key bpf.AnswerKey) {
	switch a, ok, err := e.config.Answers.Lookup(key); {
	case err != nil:
		e.failed("look up", key, err)
	case !ok:
		e.shelf.gone(key) // somebody else has removed it
	default:
		e.shelf.counted(now, key, uint64(a.Hits))
	}
}

// sweep reads all hits and makes room for names that wait. It returns when to do so again.
func (e *External) sweep() time.Duration {
	start := time.Now()
	hits := make(map[bpf.AnswerKey]uint64)
	for a, err := range e.config.Answers.All() {
		if err != nil {
			break // the rest keeps its counts until the next time
		}
		if a.Type != 0 && (a.Scope != 0 || a.Aged) {
			hits[a.AnswerKey] = uint64(a.Hits)
		}
	}
	took := time.Since(start)
	e.mu.Lock()
	defer e.mu.Unlock()
	now := time.Now()
	for key, n := range hits {
		if s := e.shelf.held[key]; s != nil && !s.put.After(start) { // hits of what was replaced since are not those of the answer
			e.shelf.counted(now, key, n)
		}
	}
	for _, op := range e.shelf.makeRoom(now) {
		if e.remove(op.key) {
			e.counts.Colder++
		}
	}
	return min(max(took*sweepShare, minSweep), maxSweep)
}

// ask refreshes an answer in its own goroutine, so that an upstream that is slow holds up nothing else. When too many
// are under way the attempt counts as made.
func (e *External) ask(ctx context.Context, key bpf.AnswerKey, asks chan struct{}, asking *sync.WaitGroup) {
	chain := e.chainOf(key.Name)
	if chain == nil {
		e.shelf.answered(time.Now(), key)
		return
	}
	select {
	case asks <- struct{}{}:
	default:
		e.shelf.answered(time.Now(), key)
		return
	}
	era := e.era
	asking.Go(func() {
		defer func() { <-asks }()
		ctx, cancel := context.WithTimeout(ctx, askTimeout)
		defer cancel()
		reply, err := chain.Ask(ctx, key)
		e.refreshed(era, key, reply, err)
	})
}

// refreshed takes what userspace said when it was asked again.
func (e *External) refreshed(era uint64, key bpf.AnswerKey, r ExternalReply, err error) {
	var answer externalAnswer
	unfit := UnfitRcode
	if err == nil && r.Msg != nil && r.Scope == key.Scope {
		answer, unfit = newExternalAnswer(key, r)
		if unfit == Fits && answer.negative && key.Scope == 0 && e.searched(key) {
			unfit = UnfitSearched
		}
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	defer e.rouse()
	now := time.Now()
	held := e.shelf.held[key]
	if held == nil || !e.current(era, key) {
		e.shelf.answered(now, key)
		return
	}
	ends := now.Add(answer.kept())
	switch {
	case unfit != Fits:
		e.counts.RefreshFailed++
		// No word, or SERVFAIL, is no reason to doubt what holds still.
		if held.stale || err == nil && r.Msg != nil && (r.Scope != key.Scope || r.Msg.Rcode == dns.RcodeNameError) {
			e.remove(key) // userspace would not give it any more
		}
	case e.shelf.newer(now, held, ends, answer.stale) && e.put(now, key, answer):
		e.counts.Refreshed++
	}
	e.shelf.answered(now, key)
}
