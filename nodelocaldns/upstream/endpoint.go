package upstream

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/miekg/dns"
)

const (
	// silence is how long replies may be missing before a connection or an endpoint is passed over: three times its 95th
	// percentile, within these bounds.
	minSilence, maxSilence = 30 * time.Millisecond, 500 * time.Millisecond
	// maxSilent is how many times as many connections there may be while some are silent.
	maxSilent = 4
	// maxStale is how often a question may find its connection closed before the endpoint counts as broken.
	maxStale = 8
	// maxRefusals is after how many replies in a row that say SERVFAIL or REFUSED others are asked first: no more than three are
	// asked for a name, and those must not be the ones that say so whatever they are asked.
	maxRefusals = 2
	// drainTimeout is how long questions in flight may take once an endpoint is none any more.
	drainTimeout = time.Second
)

var (
	errClosed  = errors.New("the upstream is closed")
	errDrained = errors.New("the endpoint is gone")
	errLate    = errors.New("others were faster")
)

// settings are what an endpoint is used with; endpoints are shared among users of equal settings.
type settings struct {
	transport   Transport
	connections int
	expire      time.Duration
	maxFails    int
	probeEvery  time.Duration
	probeName   string
	probeFlags  uint8
	source      netip.Addr
}

// An endpoint is one server. Its methods are safe for concurrent use.
type endpoint struct {
	settings
	addr    netip.AddrPort
	pool    *Pool
	metrics *endpointMetrics
	life    context.Context
	cancel  context.CancelCauseFunc
	wake    chan struct{} // holds a token when attend has work

	mu       sync.Mutex // guards what follows
	refs     int
	conns    []*conn
	dialing  int
	dialed   chan struct{} // closed, and replaced, when a dial ends
	dialErr  error         // of the last dial
	idle     []*net.UDPConn
	waiting  int       // attempts that wait for a reply
	probing  int       // those among them that no client waits for
	since    time.Time // of the last reply, or of the first attempt when none was waiting
	used     time.Time // when a client's question last came
	fails    int       // since the last reply
	refusals int       // replies in a row that are no answer
	noEDNS   time.Time // until when it is asked without EDNS
	times    responseTimes
	draining bool
}

// A state is how promising an endpoint is; the lower the better.
type state uint8

const (
	stateUp state = iota
	stateSuspect
	stateDown
)

// A standing is what choosing between endpoints needs to know.
type standing struct {
	state   state
	waiting int
	average time.Duration
}

func (e *endpoint) standing(now time.Time) standing {
	e.mu.Lock()
	defer e.mu.Unlock()
	s := standing{waiting: e.waiting, average: e.times.average}
	switch {
	case e.maxFails > 0 && e.fails > e.maxFails:
		s.state = stateDown
	case e.fails > 0 && e.maxFails > 0, e.refusals >= maxRefusals:
		s.state = stateSuspect
	case e.waiting > 0 && (e.times.average == 0 || now.Sub(e.since) > e.silence()):
		s.state = stateSuspect // one that has never replied is tried by one at a time
	}
	return s
}

// silence is how long the endpoint may say nothing. The caller holds mu.
func (e *endpoint) silence() time.Duration { return min(max(3*e.times.p95(), minSilence), maxSilence) }

func (e *endpoint) p95() time.Duration {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.times.p95()
}

// An attempt is how an endpoint is asked.
type attempt struct {
	tcp   bool // even where UDP comes first
	apart bool // over another connection than questions that wait, if there can be one
	probe bool
	begun *begun // what has been done of it
}

// exchange asks once. The endpoint's standing follows: whatever comes in time proves that it lives; no reply, when that was
// not the asker's doing, is a failure. The errors of a context are its causes.
func (e *endpoint) exchange(ctx context.Context, q *query, how attempt) ([]byte, error) {
	start := time.Now()
	if how.begun != nil {
		start = how.begun.start
	} else if !e.begin(start, how) {
		return nil, errDrained
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer context.AfterFunc(e.life, func() { cancel(context.Cause(e.life)) })()
	reply, err := e.send(ctx, q, how)
	e.end(start, how, reply, err)
	return reply, err
}

func (e *endpoint) begin(now time.Time, how attempt) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.draining {
		return false
	}
	if e.waiting == 0 {
		e.since = now
	}
	e.waiting++
	if how.probe {
		e.probing++
	} else {
		if now.Sub(e.used) > e.expire {
			e.attendTo()
		}
		e.used = now
	}
	return true
}

func (e *endpoint) end(start time.Time, how attempt, reply []byte, err error) {
	e.mu.Lock()
	e.waiting--
	if how.probe {
		e.probing--
	}
	switch now := time.Now(); {
	case err == nil:
		e.since, e.fails = now, 0
		e.times.add(now.Sub(start))
		if !how.probe {
			e.refused(rcode(reply))
		}
	case errors.Is(err, errClosed), errors.Is(err, errDrained), errors.Is(err, context.Canceled), errors.Is(err, errBusy):
	default:
		e.fails++
		e.metrics.failures.Inc()
		e.attendTo()
	}
	over := e.draining && e.waiting == e.probing
	e.mu.Unlock()
	if over {
		e.shut()
	}
	if err == nil {
		e.metrics.took(rcode(reply), time.Since(start))
	}
}

// refused counts what may be the server's own trouble rather than the name's. The caller holds mu.
func (e *endpoint) refused(code int) {
	if code == dns.RcodeServerFailure || code == dns.RcodeRefused {
		e.refusals++
	} else {
		e.refusals = 0
	}
}

// send asks over UDP where that comes first, and over TCP where it does not, the reply is truncated or sockets are short.
func (e *endpoint) send(ctx context.Context, q *query, how attempt) ([]byte, error) {
	plain := e.plain()
	if how.begun != nil {
		plain = how.begun.plain
	}
	reply, err := e.sendAs(ctx, q, how, plain)
	how.begun = nil
	if err != nil || plain || !refusesEDNS(reply) {
		return reply, err
	}
	without, err := e.sendAs(ctx, q, how, true)
	if err != nil || refusesEDNS(without) {
		return reply, nil //nolint:nilerr // the server has replied
	}
	e.mu.Lock()
	e.noEDNS = time.Now().Add(noEDNSFor)
	e.mu.Unlock()
	return without, nil
}

// noEDNSFor is how long a server is believed not to know EDNS.
const noEDNSFor = time.Hour

func (e *endpoint) plain() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return time.Now().Before(e.noEDNS)
}

func (e *endpoint) sendAs(ctx context.Context, q *query, how attempt, plain bool) ([]byte, error) {
	var reply []byte
	var err error
	switch {
	case how.begun != nil:
		reply, err = how.begun.finish(ctx)
	case e.transport == TCP || how.tcp || !e.pool.takeSocket():
		return e.sendTCP(ctx, q, how.apart, plain)
	default:
		reply, err = e.sendUDP(ctx, q, plain)
		e.pool.returnSocket()
	}
	if errors.Is(err, errDatagram) || err == nil && truncated(reply) {
		e.metrics.truncated.Inc()
		return e.sendTCP(ctx, q, how.apart, plain)
	}
	return reply, err
}

func (e *endpoint) sendUDP(ctx context.Context, q *query, plain bool) ([]byte, error) {
	d, err := e.openUDP(ctx, q)
	if err != nil {
		return nil, cause(ctx, err)
	}
	defer d.socket.Close()
	if err := d.ask(plain); err != nil {
		return nil, cause(ctx, err)
	}
	return d.wait(ctx)
}

func (e *endpoint) openUDP(ctx context.Context, q *query) (*datagramExchange, error) {
	socket := e.takeIdle()
	e.metrics.connected(socket != nil, "udp")
	if socket == nil {
		var err error
		if socket, err = e.pool.dial(ctx, "udp", e.source, e.addr); err != nil {
			return nil, err
		}
	}
	return &datagramExchange{socket: socket, q: q, mismatched: e.metrics.mismatched.Inc}, nil
}

func (e *endpoint) sendTCP(ctx context.Context, q *query, apart, plain bool) ([]byte, error) {
	for tries := 1; ; tries++ {
		c, err := e.conn(ctx, apart)
		if err != nil {
			return nil, err
		}
		reply, err := c.exchange(ctx, q, plain)
		if errors.Is(err, errMixedUp) {
			e.metrics.mismatched.Inc()
		}
		if !isStale(err) || tries == maxStale {
			return reply, err
		}
	}
}

// conn returns the connection with the fewest questions, and has another one made while all have some. Without any it
// waits for one, and where the question is to be apart, for the new one.
func (e *endpoint) conn(ctx context.Context, apart bool) (*conn, error) {
	for dialed := false; ; dialed = true {
		c, wait, err := e.take(apart && !dialed, dialed)
		if err != nil {
			return nil, err
		}
		if c != nil {
			e.metrics.connected(!dialed, "tcp")
			return c, nil
		}
		select {
		case <-wait:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

// take returns a connection, or what tells when a dial has ended.
func (e *endpoint) take(apart, dialed bool) (*conn, <-chan struct{}, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	now := time.Now()
	c, busy := e.pick(now)
	switch {
	case c != nil:
	case e.draining:
		return nil, nil, errDrained
	case dialed && e.dialErr != nil:
		return nil, nil, e.dialErr
	}
	if c == nil && e.dialing == 0 || busy && e.room(now) {
		e.startDial()
	}
	if apart && busy && e.dialing > 0 {
		c = nil
	}
	return c, e.dialed, nil
}

// pick returns the connection to use; busy is whether another one would be better. Those that have been silent for too
// long are passed over, as long as there may be others. The caller holds mu.
func (e *endpoint) pick(now time.Time) (least *conn, busy bool) {
	silence, crowded := e.silence(), len(e.conns) >= maxSilent*e.connections
	fewest := maxCalls
	for _, c := range e.conns {
		l := c.load(now)
		if l.useless {
			c.retire()
			continue
		}
		if l.open && l.missing < fewest && (crowded || l.silent <= silence) {
			least, fewest = c, l.missing
		}
	}
	return least, fewest > 0
}

// room is whether there may be one connection more: silent ones do not count, within limits. The caller holds mu.
func (e *endpoint) room(now time.Time) bool {
	silence, talking := e.silence(), 0
	for _, c := range e.conns {
		if l := c.load(now); l.open && l.silent <= silence {
			talking++
		}
	}
	return e.dialing+talking < e.connections && e.dialing+len(e.conns) < maxSilent*e.connections
}

// startDial has a connection made. The caller holds mu.
func (e *endpoint) startDial() {
	e.dialing++
	e.pool.running.Go(func() {
		ctx, cancel := context.WithTimeout(e.life, dialTimeout)
		defer cancel()
		tcp, err := e.pool.dial(ctx, "tcp", e.source, e.addr)
		e.mu.Lock()
		defer e.mu.Unlock()
		if err == nil && e.life.Err() != nil { // shut has ended, or will end, what it sees
			tcp.Close()
			err = errDrained
		}
		e.dialing--
		if e.dialErr = err; err == nil {
			e.conns = append(e.conns, newConn(tcp, &e.pool.running, e.remove))
			e.metrics.connections.Inc()
		}
		close(e.dialed)
		e.dialed = make(chan struct{})
	})
}

func (e *endpoint) remove(c *conn) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.conns = slices.DeleteFunc(e.conns, func(have *conn) bool { return have == c })
	e.metrics.connections.Dec()
}

// drain lets questions in flight finish for a second and takes no new ones.
func (e *endpoint) drain() {
	e.mu.Lock()
	e.draining = true
	e.closeIdle()
	over := e.waiting == e.probing
	conns := slices.Clone(e.conns)
	e.mu.Unlock()
	for _, c := range conns {
		c.retire()
	}
	if over {
		e.shut()
		return
	}
	timer := time.AfterFunc(drainTimeout, e.shut)
	context.AfterFunc(e.life, func() { timer.Stop() })
}

// shut ends everything the endpoint has. The timer of drain and its last question may both call it.
func (e *endpoint) shut() {
	e.cancel(errDrained)
	e.mu.Lock()
	conns := slices.Clone(e.conns)
	e.mu.Unlock()
	for _, c := range conns {
		c.end(errDrained)
	}
}
