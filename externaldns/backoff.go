package externaldns

import (
	"math/rand/v2"
	"time"
)

const (
	firstRetry = 500 * time.Millisecond
	lastRetry  = time.Minute
	// What the cloud refuses for good is tried again all the same: a rule may have changed, or room been made.
	firstQuarantine = 10 * time.Minute
	lastQuarantine  = time.Hour
	// alarmAfter is how many failures in a row of one name are a Problem.
	alarmAfter = 5
)

// backoff doubles from first with each failure, up to last, and draws from the upper half of that.
func backoff(failures int, first, last time.Duration) time.Duration {
	window := min(first<<min(max(failures-1, 0), 16), last)
	return window/2 + rand.N(window/2+1)
}

// A valueKey is one value of a name: what a permanent error is about.
type valueKey struct {
	name, recordType, value string
	ttl                     int
}

func keyOf(op Op) valueKey { return valueKey{op.Name, op.Type, op.Value, op.TTL} }

// A quarantine keeps values that the cloud refuses from being written. A want that changes has another key, so it is
// tried at once.
type quarantine map[valueKey]*refusal

type refusal struct {
	Problem
	until time.Time
	times int
}

// add notes a refusal and says until when the value is left alone.
func (q quarantine) add(key valueKey, p Problem, now time.Time) time.Time {
	r := q[key]
	if r == nil {
		r = &refusal{}
		q[key] = r
	}
	r.Problem = p
	r.times++
	r.until = now.Add(backoff(r.times, firstQuarantine, lastQuarantine))
	return r.until
}

// prune forgets values that nobody has tried to write for long.
func (q quarantine) prune(now time.Time) {
	for key, r := range q {
		if now.Sub(r.until) > lastQuarantine {
			delete(q, key)
		}
	}
}

// A place that is refused for lack of permission, or not answered, is not asked by every name in turn.
type breakerKey struct {
	class  class
	zoneID string
}

func (k breakerKey) String() string { return k.class.action() + " " + k.zoneID }

// A breaker stops a class of calls for a zone that fails. When its time is over, one call tries.
type breaker struct {
	failures int
	opened   int       // times in a row
	at       time.Time // when it opened last
	until    time.Time
	probing  bool
	err      error
}

// open says until when no call may be made; the zero time: one may.
func (b *breaker) open(now time.Time) time.Time {
	switch {
	case b == nil || b.until.IsZero():
		return time.Time{}
	case now.Before(b.until):
		return b.until
	case b.probing:
		return now.Add(firstRetry)
	}
	return time.Time{}
}
