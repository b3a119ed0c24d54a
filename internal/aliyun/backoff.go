package aliyun

import (
	"cmp"
	"errors"
	"math/rand/v2"
	"time"
)

// A Backoff says how often and after which pauses a call is repeated, beside waiting for its budget. A pause is drawn
// from a window that doubles with each try. Zero fields have the defaults named below.
type Backoff struct {
	Tries    int           // 6; the first counts
	Throttle time.Duration // 1 s: first window after throttling
	Fault    time.Duration // 200 ms: first window after a failure
	Limit    time.Duration // 32 s: largest window
}

func (b Backoff) complete() Backoff {
	return Backoff{
		Tries: cmp.Or(b.Tries, 6), Throttle: cmp.Or(b.Throttle, time.Second), Fault: cmp.Or(b.Fault, 200*time.Millisecond),
		Limit: cmp.Or(b.Limit, 32*time.Second),
	}
}

// again reports whether the attempt may be repeated. A refusal that did nothing always may; an attempt whose effect is
// unknown only if its request is repeatable.
func (b Backoff) again(try int, req request, err error) bool {
	if try >= b.Tries {
		return false
	}
	if _, ok := errors.AsType[*keysError](err); ok {
		return false // the source of the keys has tried already
	}
	if errors.Is(err, ErrThrottled) || hasCode(err, codeOperationConflict) {
		return true
	}
	if t, ok := errors.AsType[*transportError](err); ok && !t.sent {
		return true
	}
	return req.repeatable && errors.Is(err, ErrUnavailable)
}

// delay is drawn from the whole window ("full jitter"), so that nodes that were refused together come back apart.
func (b Backoff) delay(try int, err error) time.Duration {
	window := b.Fault
	if errors.Is(err, ErrThrottled) {
		window = b.Throttle
	}
	window = min(window<<min(try-1, 16), b.Limit) // 16: far past the limit, and no overflow
	return rand.N(window) + 1
}
