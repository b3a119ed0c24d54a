package sim

import (
	"errors"
	"maps"
	"time"
)

// tokenLife is how long a client token is remembered.
const tokenLife = 24 * time.Hour

// A onceTable remembers the answers given under client tokens.
type onceTable map[onceKey]*onceEntry

type onceKey struct{ action, token string }

type onceEntry struct {
	fingerprint string
	at          time.Time
	done        chan struct{} // closed when answer is set or the entry was withdrawn
	answer      object        // nil while the first call runs, and after it failed
	failed      bool          // nobody knows what the first call did
}

// idempotent makes calls with the same client token and parameters give one result. A call that is refused leaves no trace,
// so its token may be used again; one that fails inside spoils it.
func idempotent(serve func(*Cloud, input) (object, error)) func(*Cloud, input) (object, error) {
	return func(c *Cloud, in input) (object, error) {
		token := in.text("ClientToken")
		if token == "" {
			return serve(c, in)
		}
		if len(token) > 64 {
			return nil, invalid("ClientToken", token)
		}
		return c.doOnce(onceKey{in.text("Action"), token}, serve, in)
	}
}

// doOnce waits for the first call with the token, if there is one, and takes its place when that was refused.
func (c *Cloud) doOnce(key onceKey, serve func(*Cloud, input) (object, error), in input) (object, error) {
	for {
		entry, first, err := c.enterOnce(key, in.fingerprint())
		if err != nil {
			return nil, err
		}
		if first {
			answer, err := serve(c, in)
			c.leaveOnce(key, entry, answer, err)
			return answer, err
		}
		<-entry.done
		if entry.answer != nil {
			return entry.answer, nil
		}
		if entry.failed {
			return nil, refuse(codeIdempotentFailed, "The call that first used the client token has failed.")
		}
	}
}

// onceSweep is how many new tokens there may be between two searches for old ones.
const onceSweep = 1024

// old reports whether the token may be forgotten.
func (e *onceEntry) old(now time.Time) bool {
	return (e.answer != nil || e.failed) && now.Sub(e.at) > tokenLife
}

func (c *Cloud) enterOnce(key onceKey, fingerprint string) (entry *onceEntry, first bool, err error) {
	now := c.cfg.Now()
	c.mu.Lock()
	defer c.mu.Unlock()
	if e := c.once[key]; e != nil && e.old(now) {
		delete(c.once, key)
	}
	if len(c.once)%onceSweep == 0 { // not for every call: there may be many tokens
		maps.DeleteFunc(c.once, func(_ onceKey, e *onceEntry) bool { return e.old(now) })
	}
	if entry = c.once[key]; entry == nil {
		entry = &onceEntry{fingerprint: fingerprint, at: now, done: make(chan struct{})}
		c.once[key] = entry
		return entry, true, nil
	}
	if entry.fingerprint != fingerprint {
		return nil, false, refuse(codeIdempotentMismatch, "The client token was used with other parameters.")
	}
	return entry, false, nil
}

func (c *Cloud) leaveOnce(key onceKey, entry *onceEntry, answer object, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	ref, refused := errors.AsType[*refusal](err)
	switch {
	case err == nil:
		entry.answer = answer
	case refused && ref.code != codeInternal:
		delete(c.once, key)
	default:
		entry.failed = true
	}
	close(entry.done)
}
