package ipam

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// Callers and lost leases are collected for this long, or until there are so many, before the pool grows because of
// them: a burst of pods then takes a few large calls.
const (
	gatherFor   = 200 * time.Millisecond
	gatherCount = 10
)

// A gathering counts what happened since the pool last planned.
type gathering struct {
	n     int
	since time.Time
}

func (g *gathering) add(now time.Time) {
	if g.n == 0 {
		g.since = now
	}
	g.n++
}

// over is when the plan is due.
func (g gathering) over() time.Time {
	if g.n == 0 || g.n >= gatherCount {
		return time.Time{}
	}
	return g.since.Add(gatherFor)
}

// A waiter is a call of Allocate.
type waiter struct {
	request Request
	served  chan offer // capacity 1
}

// An offer is a lease, or a reservation with the write that makes it durable, or an error.
type offer struct {
	lease Lease
	write *write
	err   error
}

// Allocate leases one address of each family to the key, or a whole ENI. A key that has a lease gets the same again, and
// a pod for whose name addresses are kept gets those. The lease is on disk when Allocate returns. When nothing is free it
// waits, in the order of the calls, until the context ends or until it is clear that nothing will come; the error then
// matches ErrExhausted and says why.
func (p *Pool) Allocate(ctx context.Context, r Request) (Lease, error) {
	began := time.Now()
	lease, err := p.allocate(ctx, r)
	p.metrics.allocated(r, time.Since(began), err)
	if err != nil {
		return Lease{}, fmt.Errorf("allocate for %s: %w", r.Key, err)
	}
	return lease, nil
}

func (p *Pool) allocate(ctx context.Context, r Request) (Lease, error) {
	w := p.ask(r)
	p.kick() // the pool may be below its marks now
	select {
	case o := <-w.served:
		return p.settle(o)
	case <-ctx.Done():
	}
	if p.withdraw(w) {
		return Lease{}, fmt.Errorf("%w: %w", ErrExhausted, errors.Join(ctx.Err(), p.trouble()))
	}
	return p.settle(<-w.served) // served at the last moment
}

func (p *Pool) ask(r Request) *waiter {
	p.mu.Lock()
	defer p.mu.Unlock()
	w := &waiter{request: r, served: make(chan offer, 1)}
	p.asked.add(time.Now())
	hopes := p.hopes()
	for _, ahead := range p.queue {
		hopes.none[ahead.request.Exclusive] = true
	}
	if !p.serve(w, hopes) {
		p.queue = append(p.queue, w)
	}
	return w
}

// withdraw is false when the waiter has been served.
func (p *Pool) withdraw(w *waiter) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	for i, one := range p.queue {
		if one == w {
			p.queue = append(p.queue[:i:i], p.queue[i+1:]...)
			return true
		}
	}
	return false
}

// waiting runs under the lock and counts the callers of a kind.
func (p *Pool) waiting(isExclusive bool) (n int) {
	for _, w := range p.queue {
		if w.request.Exclusive == isExclusive {
			n++
		}
	}
	return n
}

// hopes is what callers of each kind can expect, found out once for all of them.
type hopes struct {
	pool *Pool
	none map[bool]bool // nothing is free, or it is for those who wait already
	why  map[bool]error
	done map[bool]bool
}

func (p *Pool) hopes() *hopes {
	return &hopes{pool: p, none: map[bool]bool{}, why: map[bool]error{}, done: map[bool]bool{}}
}

// lost says why waiting is of no use, or nil.
func (h *hopes) lost(isExclusive bool) error {
	if !h.done[isExclusive] {
		h.done[isExclusive], h.why[isExclusive] = true, h.pool.hopeless(isExclusive)
	}
	return h.why[isExclusive]
}

// announce runs under the lock after anything has changed, and serves the callers of Allocate who can be served.
func (p *Pool) announce() {
	h := p.hopes()
	var rest []*waiter
	for _, w := range p.queue {
		if !p.serve(w, h) {
			rest = append(rest, w)
		}
	}
	p.queue = rest
}

// serve runs under the lock and makes the waiter an offer, if there is one to make.
func (p *Pool) serve(w *waiter, h *hopes) bool {
	o := p.take(w.request, h)
	if o == nil {
		return false
	}
	w.served <- *o
	return true
}

// take runs under the lock; nil means to wait.
func (p *Pool) take(r Request, h *hopes) *offer {
	if list := p.ledger.owned(r.Key); len(list) > 0 {
		if list[0].State == reserved {
			return nil // another call for the same key is about to finish
		}
		return &offer{lease: p.lease(r.Key)}
	}
	isKept := len(p.ledger.byName[r.Pod.name()]) > 0
	if isKept && !p.settled {
		return nil
	}
	if p.settled && (isKept || !h.none[r.Exclusive]) {
		err := p.ledger.reserve(r, rules{p.settings.ENIPolicy, p.settings.ReuseCooling}, time.Now(), p.settings.Cooldown)
		switch {
		case err == nil:
			return &offer{lease: p.lease(r.Key), write: p.journal.enqueue(p.ledger.changes())}
		case errors.Is(err, errNoneFree):
			h.none[r.Exclusive] = true
		case errors.Is(err, errNotWired):
			return nil
		default:
			return &offer{err: err}
		}
	}
	if err := h.lost(r.Exclusive); err != nil {
		return &offer{err: err}
	}
	return nil
}

// settle waits for the disk and then makes the reservation a lease.
func (p *Pool) settle(o offer) (Lease, error) {
	if o.err != nil || o.write == nil {
		return o.lease, o.err
	}
	writeErr := p.journal.wait(o.write)
	p.mu.Lock()
	defer p.mu.Unlock()
	defer p.announce()
	if writeErr != nil {
		p.ledger.redo(o.write.changes)
		return Lease{}, errors.Join(writeErr, p.ledger.cancel(o.lease.Key, time.Now()))
	}
	if err := p.ledger.confirm(o.lease.Key, time.Now()); err != nil {
		return Lease{}, err
	}
	return o.lease, nil
}

// Release ends the key's lease; a key without one is no error. With keep above zero the addresses stay reserved for the
// namespace and name of the pod for that long, on this node. Then they cool down before their next owner. Release waits
// for the disk but never for the cloud.
func (p *Pool) Release(_ context.Context, key Key, keep time.Duration) error {
	p.mu.Lock()
	had, err := p.ledger.end(key, term{keep: keep, cooldown: p.settings.Cooldown}, time.Now())
	if err != nil || !had {
		p.mu.Unlock()
		if err != nil {
			return fmt.Errorf("release %s: %w", key, err)
		}
		return nil
	}
	w := p.journal.enqueue(p.ledger.changes())
	p.announce() // the addresses may be kept for one who waits
	p.mu.Unlock()
	if err := p.flush(w); err != nil {
		return fmt.Errorf("release %s: %w", key, err)
	}
	p.kick() // what follows must be ended some time
	return nil
}
