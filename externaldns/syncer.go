package externaldns

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"
)

// A Reporter is told once of each Problem when it comes up. It must not block and is called from several goroutines.
type Reporter interface{ Report(Problem) }

// Config is what New needs. Policy.Owner, Cloud and Desired are required; zero fields have the defaults named below.
type Config struct {
	Policy Policy
	Scope  Scope
	Limits Limits
	Cloud  Cloud
	// Desired is what shall be published; Synced is closed when it holds everything there is. Nothing is planned before.
	Desired Desired
	Synced  <-chan struct{} // nil: it does from the start
	// Leading tells whether this replica leads, whenever that changes. Before the first word it does not. nil: always.
	Leading <-chan bool
	// DryRun only logs the writes.
	DryRun bool
	// Poll is how often zones and their change logs are looked at for edits of others, Audit how often a zone is listed,
	// and Stale how old the knowledge of a record may be that is changed or deleted without another look.
	Poll  time.Duration // 1 min
	Audit time.Duration // 4 h
	Stale time.Duration // 5 min
	// Rate tells the calls per second that an action of the API has now; nil: 20.
	Rate     func(action string) float64
	Reporter Reporter              // nil: Problems are only logged
	Metrics  prometheus.Registerer // nil: none
	Log      *slog.Logger          // nil: discard
}

const (
	// settle is the least time between two writes to a name: what flaps costs one call in it.
	settle = time.Second
	// callTimeout bounds a call with its wait for the budget and its repetitions.
	callTimeout = 90 * time.Second
	// tickEvery bounds how late a hold ends for which time is over.
	tickEvery = 30 * time.Second
)

// A Syncer keeps zones equal to what is wanted. It is a Task, and has no state but in memory: what it needs at its start
// are the objects and the zones. Its methods are safe for concurrent use.
type Syncer struct {
	cfg     Config // without the Cloud
	read    Reader
	write   Writer
	log     *slog.Logger
	metrics *metrics
	ready   chan struct{}
	wake    chan struct{} // capacity 1: there is something to do

	mu         sync.Mutex // guards what follows; not held during calls
	leading    bool
	synced     bool
	zones      *Zones // nil: not discovered yet
	index      *Index
	queue      *queue
	guard      *guard
	loads      map[string]*load // by zone: what is planned
	quarantine quarantine
	breakers   map[breakerKey]*breaker
	inFlight   [classes]int
	tokens     map[tokenKey]string // of writes whose outcome is unknown
	doubts     map[Place]struct{}  // to look at before anything is planned there
	kinds      sources
	problems   problems
	watch      watch
	ticked     time.Time
}

// New makes a Syncer. It makes no call.
func New(cfg Config) (*Syncer, error) {
	cfg.Poll, cfg.Audit = cmp.Or(cfg.Poll, time.Minute), cmp.Or(cfg.Audit, 4*time.Hour)
	cfg.Stale = cmp.Or(cfg.Stale, 5*time.Minute)
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Rate == nil {
		cfg.Rate = func(string) float64 { return usualRate }
	}
	if err := cfg.validate(); err != nil {
		return nil, fmt.Errorf("configure externaldns: %w", err)
	}
	s := &Syncer{
		read: cfg.Cloud, write: cfg.Cloud, log: cfg.Log, ready: make(chan struct{}), wake: make(chan struct{}, 1),
		metrics: newMetrics(), leading: cfg.Leading == nil, synced: cfg.Synced == nil,
	}
	if cfg.DryRun {
		s.write = dryRun{}
	}
	cfg.Cloud = nil
	s.cfg = cfg
	s.forget()
	return s, s.metrics.register(cfg.Metrics, s)
}

func (c Config) validate() error {
	var errs []error
	for _, owner := range append([]Owner{c.Policy.Owner}, c.Policy.Former...) {
		_, err := ParseOwner(string(owner))
		errs = append(errs, err)
	}
	switch c.Policy.Mode {
	case "", Sync, UpsertOnly, CreateOnly:
	default:
		errs = append(errs, fmt.Errorf("policy %q is unknown: use sync, upsert-only or create-only", c.Policy.Mode))
	}
	if c.Cloud == nil || c.Desired == nil {
		errs = append(errs, errors.New("Cloud or Desired is missing"))
	}
	return errors.Join(errs...)
}

// forget goes back to knowing nothing of the cloud.
func (s *Syncer) forget() {
	s.zones, s.index, s.queue = nil, NewIndex(s.cfg.Policy.mine), newQueue()
	s.guard, s.loads = newGuard(s.cfg.Limits), map[string]*load{}
	s.quarantine, s.breakers = quarantine{}, map[breakerKey]*breaker{}
	s.tokens, s.doubts = map[tokenKey]string{}, map[Place]struct{}{}
	s.kinds, s.problems, s.watch = newSources(), problems{}, newWatch()
}

// String names the Task.
func (s *Syncer) String() string { return "PrivateZone syncer of " + string(s.cfg.Policy.Owner) }

// Ready is closed when every zone that can be listed was, and all names are planned; without the lead, at once.
func (s *Syncer) Ready() <-chan struct{} { return s.ready }

// Run works until ctx ends and returns nil then. No error of the API ends it.
func (s *Syncer) Run(ctx context.Context) error {
	var calls errgroup.Group
	synced, leading := s.cfg.Synced, s.cfg.Leading
	for ctx.Err() == nil {
		jobs, next := s.due(time.Now())
		for _, j := range jobs {
			calls.Go(func() error {
				j(ctx)
				return nil
			})
		}
		timer := time.NewTimer(time.Until(next))
		select {
		case <-ctx.Done():
		case <-synced:
			synced = nil
			s.sync()
		case lead, ok := <-leading:
			if !ok {
				leading = nil
			}
			s.lead(lead && ok)
		case <-s.wake:
		case <-timer.C:
		}
		timer.Stop()
	}
	return calls.Wait()
}

func (s *Syncer) sync() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.synced = true
	s.planAll(time.Now())
}

// lead begins to work, or stops. What another replica did meanwhile is not known: everything is read again.
func (s *Syncer) lead(leading bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if leading == s.leading {
		return
	}
	s.log.Info("lead changed", "leading", leading)
	s.leading = leading
	s.forget()
}

// kick wakes Run.
func (s *Syncer) kick() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// A job is a call and what follows from it.
type job func(context.Context)

// due returns the calls to make now and when to look again.
func (s *Syncer) due(now time.Time) (jobs []job, next time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	defer s.markReady()
	next = now.Add(tickEvery)
	if !s.leading {
		return nil, next
	}
	if now.Sub(s.ticked) >= tickEvery {
		s.tick(now)
	}
	jobs, later := s.watchJobs(now)
	if later.Before(next) {
		next = later
	}
	for it := s.queue.ripe(now); it != nil; it = s.queue.ripe(now) {
		s.put(it, s.decide(it, now), now)
	}
	jobs = append(jobs, s.dispatch(now)...)
	if due, ok := s.queue.next(); ok && due.Before(next) {
		next = due
	}
	return jobs, next
}

// dispatch gives each class its calls, as many as may be in flight. An item may turn out to be of another class than it was
// queued for, so it goes round until nothing moves.
func (s *Syncer) dispatch(now time.Time) (jobs []job) {
	for moved := true; moved; {
		moved = false
		for c := range classes {
			for s.inFlight[c] < slots(s.cfg.Rate(c.action())) {
				it := s.queue.pop(c, now)
				if it == nil {
					break
				}
				moved = true
				if j := s.step(it, now); j != nil {
					jobs = append(jobs, j)
				}
			}
		}
	}
	return jobs
}

// tick looks at what only time changes.
func (s *Syncer) tick(now time.Time) {
	s.ticked = now
	s.quarantine.prune(now)
	for id := range s.loads {
		s.judge(id, 0, now)
	}
	for kind := range s.guard.sources {
		s.tellSource(kind, now)
	}
	s.reconsider(now)
}

func (s *Syncer) markReady() {
	select {
	case <-s.ready:
		return
	default:
	}
	if !s.leading || s.synced && s.zones != nil && s.watch.settled(s.zones) {
		close(s.ready)
	}
}

// dryRun is the Writer that has no way to write.
type dryRun struct{}
