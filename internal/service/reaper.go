package service

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/nearpath/nearpath/bpf"
	"github.com/prometheus/client_golang/prometheus"
)

const (
	// inFlight is how long a connect may take from its choice of a backend to the connected socket: a pass that starts later
	// sees it. It is some microseconds, and more only when the caller loses its processor in between.
	inFlight = 100 * time.Millisecond
	// reapPause is how long after a pass the next one may begin: what changes meanwhile is one batch.
	reapPause = 100 * time.Millisecond
	// openRetry is the pause before Sockets are asked for again that could not be had.
	openRetry = time.Minute
	// reapRetry is the pause before sockets that could not be ended are tried again.
	reapRetry = 10 * time.Second
	// forgetAsked is for how long an address that nobody asks for any more is remembered.
	forgetAsked = time.Minute
)

// Sockets ends connected UDP sockets whose backend serves no more; *bpf.Reaper does.
type Sockets interface {
	Reap() (bpf.Reaped, error)
	Close() error
}

// ReaperConfig is what NewReaper needs; all fields are required.
type ReaperConfig struct {
	// Open makes the Sockets, which takes some 100 ms. An error that is bpf.ErrNotSupported is for ever, after another one it
	// is called again.
	Open func() (Sockets, error)
	// Named says which of the addresses are a backend of some Service.
	Named func([]netip.Addr) map[netip.Addr]bool
	// Synced is closed when the kernel has the first Snapshot: before, it tells of another time.
	Synced  <-chan struct{}
	Log     *slog.Logger
	Metrics prometheus.Registerer
}

// A Reaper is a Task that has UDP sockets ended soon after their backend served for the last time, all of a batch in one
// pass, and that knows when an address has no such sockets any more. Its methods are safe for concurrent use.
type Reaper struct {
	cfg   ReaperConfig
	ready chan struct{}
	wake  chan struct{} // capacity 1

	// Of Run alone.
	sockets Sockets   // nil: they could not be had
	reopen  time.Time // when to ask for them again; zero: not
	trouble string    // the last error that was logged
	rested  time.Time // when the next pass may begin
	again   time.Time // when a pass is due for what the last one left; zero: it left nothing

	reaped   prometheus.Counter
	stranded prometheus.Gauge
	took     prometheus.Histogram

	mu      sync.Mutex // guards the rest
	due     bool       // backends were withdrawn since the last pass began
	late    bool       // they were before it began: sockets of connects that were under way are for another pass
	resting map[netip.Addr]*rest
}

// A rest is an address that waits to be settled.
type rest struct {
	gone    time.Time // since when no Service has it, as far as was seen; zero: one has
	left    bool      // a pass since then could not settle it: it waits for the next try
	settled bool
	asked   time.Time // for the last time
}

// NewReaper makes a Reaper.
func NewReaper(cfg ReaperConfig) (*Reaper, error) {
	r := &Reaper{
		cfg: cfg, ready: make(chan struct{}), wake: make(chan struct{}, 1), resting: map[netip.Addr]*rest{},
		reaped: prometheus.NewCounter(prometheus.CounterOpts{
			Namespace: "nearpath", Subsystem: "service", Name: "sockets_reaped_total",
			Help: "Connected UDP sockets that were ended because their backend serves no more.",
		}),
		stranded: prometheus.NewGauge(prometheus.GaugeOpts{
			Namespace: "nearpath", Subsystem: "service", Name: "sockets_stranded_backends",
			Help: "Backends that serve no more and have connected UDP sockets that could not be ended.",
		}),
		took: prometheus.NewHistogram(prometheus.HistogramOpts{
			Namespace: "nearpath", Subsystem: "service", Name: "reap_duration_seconds",
			Help: "Time of one pass over all UDP sockets that were translated.", Buckets: prometheus.ExponentialBuckets(0.0001, 4, 9),
		}),
	}
	var errs []error
	for _, c := range []prometheus.Collector{r.reaped, r.stranded, r.took} {
		errs = append(errs, cfg.Metrics.Register(c))
	}
	return r, errors.Join(errs...)
}

// String names the Task.
func (r *Reaper) String() string { return "socket reaper" }

// Ready is closed when sockets are looked after, or could not be had at first.
func (r *Reaper) Ready() <-chan struct{} { return r.ready }

// Withdrawn says that UDP backends have stopped to serve.
func (r *Reaper) Withdrawn() {
	r.mu.Lock()
	r.due = true
	r.mu.Unlock()
	r.kick()
}

// Settled reports whether no Service has the address for a backend, and no socket that once had it from one is connected to
// it any more. It does not wait: who gets a no asks again, within a minute. A yes is given once.
func (r *Reaper) Settled(a netip.Addr) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	have := r.resting[a]
	if have == nil {
		have = &rest{}
		r.resting[a] = have
	}
	if have.settled {
		delete(r.resting, a)
		return true
	}
	have.asked = time.Now()
	r.kick()
	return false
}

func (r *Reaper) kick() {
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

// Run makes passes until ctx ends. Failures are logged and tried again.
func (r *Reaper) Run(ctx context.Context) (err error) {
	defer func() {
		if r.sockets != nil {
			err = errors.Join(err, r.sockets.Close())
		}
	}()
	select {
	case <-r.cfg.Synced:
	case <-ctx.Done():
		return nil
	}
	r.open()
	close(r.ready)
	r.Withdrawn() // what an earlier agent may have left
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-r.wake:
		case <-timer.C:
		}
		next := r.step()
		if !r.reopen.IsZero() {
			next = min(cmp.Or(next, openRetry), max(time.Until(r.reopen), time.Millisecond))
		}
		if next > 0 {
			timer.Reset(next)
		}
	}
}

// open asks for Sockets. While there are none, addresses settle without a look at them: leases do not wait for what may
// never come.
func (r *Reaper) open() {
	sockets, err := r.cfg.Open()
	r.reopen = time.Time{}
	if err == nil {
		r.sockets = sockets
		return
	}
	if !errors.Is(err, bpf.ErrNotSupported) {
		r.reopen = time.Now().Add(openRetry)
	}
	if text := err.Error(); text != r.trouble {
		r.cfg.Log.Warn("connected UDP sockets stay with backends that are gone", "err", err, "retried", !r.reopen.IsZero())
		r.trouble = text
	}
}

// step makes a pass if there is a reason, and says when to look again, 0: when something happens.
func (r *Reaper) step() (next time.Duration) {
	if !r.reopen.IsZero() && !time.Now().Before(r.reopen) {
		if r.open(); r.sockets != nil {
			r.Withdrawn() // what there was no look at
		}
	}
	started := time.Now()
	if wait := r.rested.Sub(started); wait > 0 {
		return wait
	}
	reason := r.look(started)
	if !reason.pass {
		return reason.next
	}
	out, err := r.pass()
	r.settle(started, out, err)
	r.rested, r.again = time.Now().Add(reapPause), time.Time{}
	if err != nil || len(out.Left) > 0 {
		r.again = time.Now().Add(reapRetry)
		reason.next = cmp.Or(reason.next, reapRetry)
	}
	return reason.next
}

func (r *Reaper) pass() (out bpf.Reaped, err error) {
	if r.sockets == nil {
		return out, nil
	}
	started := time.Now()
	out, err = r.sockets.Reap()
	r.took.Observe(time.Since(started).Seconds())
	r.reaped.Add(float64(out.Ended))
	r.stranded.Set(float64(len(out.Left)))
	if out.Ended > 0 {
		r.cfg.Log.Info("ended UDP sockets whose backend is gone", "sockets", out.Ended)
	}
	text := ""
	if err != nil {
		text = err.Error()
	} else if len(out.Left) > 0 {
		text = "the kernel does not end them (it needs CONFIG_INET_DIAG_DESTROY and udp_diag)"
	}
	if text != "" && text != r.trouble {
		r.cfg.Log.Warn("UDP sockets stay with backends that are gone", "backends", out.Left, "err", text)
	}
	r.trouble = text
	return out, err
}

// A reason is whether to make a pass, and when to look again.
type reason struct {
	pass bool
	next time.Duration
}

// look finds out which of the resting addresses have left the Services, and whether that or anything else asks for a pass.
func (r *Reaper) look(now time.Time) (why reason) {
	r.mu.Lock()
	var ask []netip.Addr
	for a, have := range r.resting {
		if now.Sub(have.asked) > forgetAsked {
			delete(r.resting, a)
		} else if !have.settled {
			ask = append(ask, a)
		}
	}
	r.mu.Unlock()
	named := r.cfg.Named(ask)
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case r.late: // the connects that were under way
		r.late, why = false, reason{pass: true}
	case !r.again.IsZero() && !now.Before(r.again):
		why.pass = true
	case !r.again.IsZero():
		why.next = r.again.Sub(now)
	}
	if r.due {
		r.due, r.late, why = false, true, reason{true, inFlight}
	}
	for _, a := range ask {
		have := r.resting[a]
		switch {
		case have == nil:
		case named[a]:
			have.gone, have.left = time.Time{}, false
		case have.gone.IsZero():
			have.gone, why.next = now, inFlight
		case have.left && !r.again.IsZero(): // the next try is what it waits for
		case now.Sub(have.gone) >= inFlight:
			why.pass = true
		default:
			why.next = inFlight
		}
	}
	return why
}

// settle notes what a pass that started at a time has made sure of.
func (r *Reaper) settle(started time.Time, out bpf.Reaped, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for a, have := range r.resting {
		left := slices.ContainsFunc(out.Left, func(b netip.AddrPort) bool { return b.Addr() == a })
		unknown := err != nil && len(out.Left) == 0 // the pass did not get to the end
		if !have.gone.IsZero() && started.Sub(have.gone) >= inFlight {
			have.left = left || unknown
			have.settled = !have.left
		}
	}
}
