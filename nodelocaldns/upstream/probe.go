package upstream

import (
	"context"
	"time"

	"github.com/miekg/dns"
)

const (
	// attendEvery is how often an endpoint in use is looked after.
	attendEvery = 2 * time.Second
	// idleProbe is when a connection that nobody uses is tried: before the server closes it, which CoreDNS does after 10 s,
	// and before a client finds out that the server has gone.
	idleProbe = 6 * time.Second
	// maxProbeEvery bounds the time between two probes of an endpoint that stays silent.
	maxProbeEvery = 10 * time.Second
	probeTimeout  = time.Second
)

// attendTo makes attend look now. It never blocks.
func (e *endpoint) attendTo() {
	select {
	case e.wake <- struct{}{}:
	default:
	}
}

// attend looks after the endpoint until it is gone: it probes it after a failure until it replies, keeps one connection of
// an endpoint in use alive, and closes those that are not needed.
func (e *endpoint) attend() {
	timer := time.NewTimer(attendEvery)
	defer timer.Stop()
	failed := 0
	for {
		select {
		case <-e.wake:
		case <-timer.C:
		case <-e.life.Done():
			return
		}
		var next time.Duration
		if e.failing() {
			failed++
			e.probe()
			next = min(e.probeEvery<<min(failed-1, 10), maxProbeEvery)
		}
		if !e.failing() {
			failed = 0
			next = e.tidy(time.Now())
		}
		timer.Reset(next)
	}
}

func (e *endpoint) failing() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.fails > 0 && e.maxFails > 0
}

// probe asks what every server has an answer to; any reply will do.
func (e *endpoint) probe() {
	q, err := pack(e.probeName, key{qtype: dns.TypeNS, qclass: dns.ClassINET, flags: e.probeFlags})
	if err != nil {
		return // the name was packed once before
	}
	ctx, cancel := context.WithTimeout(e.life, probeTimeout)
	defer cancel()
	_, _ = e.exchange(ctx, q, attempt{probe: true})
}

// tidy returns when it wants to look again.
func (e *endpoint) tidy(now time.Time) time.Duration {
	e.mu.Lock()
	unused, conns := now.Sub(e.used), append([]*conn(nil), e.conns...)
	e.mu.Unlock()
	if unused >= e.expire {
		e.mu.Lock()
		e.closeIdle()
		e.mu.Unlock()
		for _, c := range conns {
			c.retire()
		}
		return time.Hour // begin wakes us
	}
	for i, c := range conns {
		l := c.load(now)
		switch {
		case l.missing > 0 || l.idle < idleProbe:
		case i > 0 || e.transport == UDPFirst:
			c.retire()
		case e.maxFails > 0:
			e.probe()
		}
	}
	return attendEvery
}
