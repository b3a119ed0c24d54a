package preflight

import (
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

const (
	defaultInterval = 10 * time.Minute
	// afterFailure is the part of the interval after which a Gather that failed is tried again. The pause doubles with
	// each further failure, up to the interval.
	afterFailure = 10
	// jitter spreads the calls of nodes that started together: a tenth of the interval either way.
	jitter = 10
)

// Config is what NewWatcher needs.
type Config struct {
	Cloud Cloud
	// Query is called before each look, so it may follow a configuration that changes.
	Query func() Query
	// Interval between two looks; zero: 10 minutes. Each takes about ten reads of the cloud, and one more for each vSwitch,
	// route table and NAT gateway.
	Interval time.Duration
	// Report hears of changes, from the Watcher's goroutine; nil: nobody does. Findings that are there at the first look
	// are changes. Those of severity Unknown are told too, and are no reason for an alarm.
	Report  func([]Change)
	Metrics prometheus.Registerer // nil: none
	Log     *slog.Logger          // nil: discard
}

// A Watcher looks at the network again and again and tells what changed. It is a Task. While the cloud does not answer,
// what was found last stays.
type Watcher struct {
	cfg     Config
	metrics metrics
	ready   chan struct{}
	again   chan struct{} // capacity 1: a look is wanted

	mu       sync.Mutex // guards findings
	findings []Finding
}

// NewWatcher returns a Watcher. It makes no call before Run.
func NewWatcher(cfg Config) (*Watcher, error) {
	if cfg.Cloud == nil || cfg.Query == nil {
		return nil, errors.New("watch the network: no cloud to ask, or nothing to ask for")
	}
	if cfg.Interval <= 0 {
		cfg.Interval = defaultInterval
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Report == nil {
		cfg.Report = func([]Change) {}
	}
	w := &Watcher{cfg: cfg, metrics: newMetrics(), ready: make(chan struct{}), again: make(chan struct{}, 1)}
	if cfg.Metrics != nil {
		if err := w.metrics.register(cfg.Metrics); err != nil {
			return nil, err
		}
	}
	return w, nil
}

// String names the Task.
func (w *Watcher) String() string { return "network preflight" }

// Ready is closed as soon as Run is called: a fault of the network plan is reported, and keeps nothing from starting.
func (w *Watcher) Ready() <-chan struct{} { return w.ready }

// Recheck makes Run look soon, as after a change of the configuration. It does not wait.
func (w *Watcher) Recheck() {
	select {
	case w.again <- struct{}{}:
	default: // one is wanted already
	}
}

// Findings returns what the last look found, that of Egress included, the worst first; nil before the first.
func (w *Watcher) Findings() []Finding {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.findings)
}

// Run looks until the context ends, and returns nil then.
func (w *Watcher) Run(ctx context.Context) error {
	close(w.ready)
	for failures := 0; ; {
		if failures++; w.look(ctx) {
			failures = 0
		}
		timer := time.NewTimer(w.pause(failures))
		select {
		case <-ctx.Done():
			timer.Stop()
			return nil
		case <-timer.C:
		case <-w.again:
			timer.Stop()
		}
	}
}

// pause is the time until the next look, after so many failures in a row.
func (w *Watcher) pause(failures int) time.Duration {
	d := w.cfg.Interval
	if failures > 0 {
		d = max(d/afterFailure, 1)
	}
	for range failures - 1 {
		if d >= w.cfg.Interval {
			break
		}
		d = min(2*d, w.cfg.Interval)
	}
	spread := d / jitter
	return d - spread + rand.N(2*spread+1)
}

// look gathers, judges and tells. It reports whether the cloud answered.
func (w *Watcher) look(ctx context.Context) bool {
	facts, err := Gather(ctx, w.cfg.Cloud, w.cfg.Query())
	if err != nil {
		if ctx.Err() == nil {
			w.cfg.Log.Warn("network is not checked", "err", err)
			w.metrics.failures.Inc()
		}
		return false
	}
	findings := All(facts)
	w.mu.Lock()
	before := w.findings
	w.findings = findings
	w.mu.Unlock()
	w.metrics.show(findings)
	changes := Diff(before, findings)
	for _, c := range changes {
		w.log(c)
	}
	if len(changes) > 0 {
		w.cfg.Report(changes)
	}
	return true
}

// All is what Plan and Egress find, the worst first.
func All(f Facts) []Finding { return sorted(slices.Concat(Plan(f), Egress(f))) }

func (w *Watcher) log(c Change) {
	log := w.cfg.Log.With("check", c.Check, "object", c.Object)
	switch {
	case c.Resolved:
		log.Info("network check is passed again", "was", c.Result)
	case c.problem():
		log.Warn("network check failed", "severity", c.Severity, "result", c.Result, "values", c.Values, "fix", c.Fix)
	default:
		log.Info("network check cannot be done", "values", c.Values, "fix", c.Fix)
	}
}
