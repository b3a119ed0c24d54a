package upstream

import (
	"container/list"
	"context"
	"errors"
	"sync"
	"time"

	"github.com/miekg/dns"
)

const (
	// linger is how long a reply is still given to who asks the same: they missed the cache before the reply reached it, and a
	// burst of questions takes a busy node that long.
	linger = 500 * time.Millisecond
	// maxClients is how many times the questions in flight may wait for their replies.
	maxClients = 8
)

var errTimeout = errors.New("no endpoint has replied in time")

// A flight is a question on its way, for everybody who asks it.
type flight struct {
	key     key
	dropped chan struct{} // closed when there were too many, and this was the oldest
	done    chan struct{}
	// Set before done is closed.
	reply *dns.Msg
	err   error

	// Guarded by flights.mu.
	clients int
	place   *list.Element // in flights.order; nil when it has landed
	until   time.Time     // when it is forgotten that has landed
}

// flights are the questions of an Upstream, one of each kind at a time.
type flights struct {
	max int

	mu      sync.Mutex // guards what follows and the fields of each flight
	byKey   map[key]*flight
	order   *list.List // of *flight, the oldest first
	landed  *list.List // of *flight that byKey still has, the oldest first
	clients int
	closed  bool
}

func (f *flights) init(most int) {
	f.max, f.byKey, f.order, f.landed = most, make(map[key]*flight), list.New(), list.New()
}

// Exchange asks for the first question of a message, and returns a reply that is the caller's own. The context ends the
// wait, not the question when others wait for it, too.
func (u *Upstream) Exchange(ctx context.Context, m *dns.Msg) (*dns.Msg, error) {
	q, err := newQuery(m)
	if err != nil {
		return nil, err
	}
	if u.Snapshot != nil {
		u.follow()
	}
	f, fly, err := u.join(q)
	if err != nil {
		return nil, err
	}
	defer u.leave(f)
	switch {
	case fly == nil: // it is on its way
	case ctx.Done() == nil: // whoever waits to the end can do it: that saves waking somebody else
		fly()
	default:
		go fly()
	}
	select {
	case <-f.done:
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	if f.err != nil {
		return nil, f.err
	}
	return replyTo(m, f.reply), nil
}

// join finds the question's flight or starts it. Where there are too many, the oldest is dropped: who asked it is the
// first to ask again or to give up. Who starts a flight must call fly.
func (u *Upstream) join(q *query) (joined *flight, fly func(), err error) {
	fs := &u.flights
	fs.mu.Lock()
	defer fs.mu.Unlock()
	if fs.closed {
		return nil, nil, errClosed
	}
	fs.forget(time.Now())
	for fs.clients >= fs.max*maxClients && fs.drop() {
		u.Metrics.dropped.Inc()
	}
	if f, ok := fs.byKey[q.key]; ok {
		f.clients++
		fs.clients++
		u.Metrics.coalesced.Inc()
		return f, nil, nil
	}
	for fs.order.Len() >= fs.max && fs.drop() {
		u.Metrics.dropped.Inc()
	}
	f := &flight{key: q.key, dropped: make(chan struct{}), done: make(chan struct{}), clients: 1}
	f.place = fs.order.PushBack(f)
	fs.byKey[q.key] = f
	fs.clients++
	u.Metrics.waiting.Inc()
	u.running.Add(1)
	return f, func() {
		defer u.running.Done()
		f.reply, f.err = u.ask(q, f.dropped)
		u.land(f)
	}, nil
}

// drop gives up the oldest flight. The caller holds mu.
func (f *flights) drop() bool {
	front := f.order.Front()
	if front == nil {
		return false
	}
	oldest := front.Value.(*flight)
	f.order.Remove(front)
	oldest.place = nil
	f.clients -= oldest.clients
	oldest.clients = 0
	close(oldest.dropped)
	return true
}

// land gives the reply to who waits, and for a moment to who comes late, unless it may not be used twice.
func (u *Upstream) land(f *flight) {
	fs := &u.flights
	fs.mu.Lock()
	dropped := f.place == nil
	if !dropped {
		fs.order.Remove(f.place)
		f.place = nil
	}
	// A flight of the same question may have begun after this one was dropped.
	mine := fs.byKey[f.key] == f
	switch {
	case mine && !dropped && !errors.Is(f.err, errClosed) && (f.reply == nil || lasts(f.reply)):
		f.until = time.Now().Add(linger)
		fs.landed.PushBack(f)
	case mine:
		delete(fs.byKey, f.key)
	}
	close(f.done)
	fs.mu.Unlock()
	u.Metrics.waiting.Dec()
	if f.err != nil && !dropped {
		u.Metrics.failed.Inc()
	}
}

// forget drops those that landed a while ago. Whoever asks next does it: a timer for each would wake the process once more for
// each question. The caller holds mu.
func (f *flights) forget(now time.Time) {
	for oldest := f.landed.Front(); oldest != nil; oldest = f.landed.Front() {
		landed := oldest.Value.(*flight)
		if now.Before(landed.until) {
			return
		}
		f.landed.Remove(oldest)
		delete(f.byKey, landed.key)
	}
}

// close lets no flight begin any more.
func (f *flights) close() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.closed = true
}

// leave takes a client off. A flight without any goes on: the reply tells how its endpoints are.
func (u *Upstream) leave(f *flight) {
	fs := &u.flights
	fs.mu.Lock()
	defer fs.mu.Unlock()
	if f.clients > 0 {
		f.clients--
		fs.clients--
	}
}

// lasts is whether no record is for one transaction only (RFC 1035, 3.2.1).
func lasts(m *dns.Msg) bool {
	for _, section := range [][]dns.RR{m.Answer, m.Ns} {
		for _, record := range section {
			if record.Header().Ttl == 0 {
				return false
			}
		}
	}
	return true
}
