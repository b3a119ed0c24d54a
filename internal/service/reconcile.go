package service

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nearpath/nearpath/bpf"
	"github.com/nearpath/nearpath/internal/cluster"
	"github.com/prometheus/client_golang/prometheus"
)

// Maps is the kernel's Service state; *bpf.Services is one.
type Maps interface {
	Publish(record uint32, b bpf.Block) error
	Retire(record uint32)
	PutFrontend(f bpf.Frontend, kind bpf.FrontendKind, record uint32) error
	DeleteFrontend(f bpf.Frontend) error
	Reclaim() error

	Entries() ([]bpf.Entry, error)
	Records() []uint32
	Block(record uint32) (bpf.Block, bool)
	MaxRecords() uint32
}

func (o Publish) apply(m Maps) error { return m.Publish(o.Record, o.Block) }
func (o Put) apply(m Maps) error {
	return m.PutFrontend(o.Frontend.Frontend, o.Frontend.Kind, o.Record)
}
func (o Delete) apply(m Maps) error { return m.DeleteFrontend(o.Frontend) }
func (o Retire) apply(m Maps) error { m.Retire(o.Record); return nil }

// Changes is where Snapshots come from; *cluster.Subscription is one. It must follow Services, Namespaces, Nodes and
// ServiceCIDRs.
type Changes interface {
	Next(context.Context) (cluster.Change, error)
}

// Config is what New needs. Functions may be nil, all other fields but CIDRs are required.
type Config struct {
	Maps    Maps
	Changes Changes
	Node    Node // without Zone and Addrs, which Snapshots say
	Log     *slog.Logger
	Metrics prometheus.Registerer
	// CIDRs are what Services get cluster IPs from; empty: what Snapshots say.
	CIDRs []netip.Prefix
	// Served is called for each Change after everything new in it is served and before anything is taken away. DNS
	// publishes it there: a name never leads to an address that does not forward. A try that failed before that point has
	// not called it; the next one is Full.
	Served func(cluster.Change)
	// Withdrawn is called after UDP backends may have stopped to serve; nil: nobody wants to know. It must not wait.
	Withdrawn func()
	// Networks is told what Services get cluster IPs from, and which addresses there are another proxy's, when it changes. It
	// is called between the two halves of a plan: what is not served and not spared there is lost from then on (row A11).
	Networks func(services, spared []netip.Prefix)
	// Warn tells the users of a Service that a port of it is not served, once per port and reason.
	Warn func(about cluster.Object, reason, message string)
	// Synced is called after each try to bring the maps to a Change.
	Synced func(Sync)
}

// A Sync is one try to bring the maps to a Change.
type Sync struct {
	// Change is what was looked at; Full also where the Change itself was not, as when the node's zone is another one.
	Change        cluster.Change
	Started, Done time.Time
	// Err is what another try may mend; a conflict between Services is no error. Maps is the part of it that is of the maps
	// themselves: nil if all is served that fits.
	Err, Maps error
}

// A Reconciler keeps the maps equal to the newest Snapshot and to the host ports of this node's pods. It is a Task; its
// methods are safe for concurrent use.
type Reconciler struct {
	cfg     Config
	metrics metrics
	ready   chan struct{}
	hosting atomic.Pointer[map[cluster.Name]bool] // names of pods with host ports, nil: unknown

	// Of Run alone.
	retry     time.Duration   // until the next try of what the last sync left out, 0: nothing
	conflicts map[string]bool // those that have been logged and still stand

	used chan struct{} // holds a token when there is something to reclaim

	mu       sync.Mutex              // guards the rest, and orders writes to the maps
	table    *table                  // nil: unknown, to be adopted
	stale    bool                    // the table has seen no full plan
	place    place                   // where the node is, at the last Change
	pods     map[cluster.Name][]Port // what pods had in the table that was given up, nil: the maps know
	networks networks
}

// What could not be written is tried again after firstRetry, then at intervals that double up to lastRetry: a full map
// seldom gets emptier by itself. Any Change is a try, too.
const (
	firstRetry = time.Second
	lastRetry  = time.Minute
)

// New makes a Reconciler; nothing is read or written before Run.
func New(cfg Config) (*Reconciler, error) {
	cfg.setDefaults()
	r := &Reconciler{cfg: cfg, ready: make(chan struct{}), used: make(chan struct{}, 1), metrics: newMetrics()}
	if err := r.metrics.register(cfg.Metrics); err != nil {
		return nil, err
	}
	return r, nil
}

func (c *Config) setDefaults() {
	if c.Served == nil {
		c.Served = func(cluster.Change) {}
	}
	if c.Withdrawn == nil {
		c.Withdrawn = func() {}
	}
	if c.Networks == nil {
		c.Networks = func([]netip.Prefix, []netip.Prefix) {}
	}
	if c.Warn == nil {
		c.Warn = cluster.NoEvents{}.Warn
	}
	if c.Synced == nil {
		c.Synced = func(Sync) {}
	}
}

// String names the Task.
func (r *Reconciler) String() string { return "service reconciler" }

// Ready is closed when the first Snapshot is served in full.
func (r *Reconciler) Ready() <-chan struct{} { return r.ready }

// Run follows the Changes until ctx ends. What cannot be written is logged and counted, what was published before
// goes on being served, everything else is served, and the rest is tried again.
func (r *Reconciler) Run(ctx context.Context) error {
	reclaiming, stop := context.WithCancel(ctx)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		r.reclaim(reclaiming)
	}()
	defer func() { stop(); <-ended }()
	var last cluster.Change
	for {
		change, err := r.next(ctx)
		switch {
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, context.DeadlineExceeded):
			change = cluster.Change{Snapshot: last.Snapshot, Full: true}
		case err != nil:
			return err
		}
		last = change
		r.after(r.sync(change), change.Snapshot)
	}
}

// An outcome is what came of a sync. Conflicts are of ports whose frontend somebody else has, full of those that do not
// fit; err is of the maps themselves.
type outcome struct {
	conflicts, full []error
	err             error
}

// failure is what another try may mend. A conflict ends when its winner goes, which is a Change.
func (o outcome) failure() error { return errors.Join(append(o.full, o.err)...) }

// after draws the consequences of a sync.
func (r *Reconciler) after(o outcome, s *cluster.Snapshot) {
	standing := map[string]bool{}
	for _, err := range o.conflicts {
		text := err.Error()
		if standing[text] = true; !r.conflicts[text] {
			r.report(err, s)
		}
	}
	r.conflicts = standing
	if err := o.failure(); err != nil {
		r.cfg.Log.Error("serve Services", "err", err)
		r.retry = min(max(2*r.retry, firstRetry), lastRetry)
	} else {
		r.retry = 0
	}
	if o.err == nil {
		r.markReady()
	}
}

// report says once that a port is not served. Who owns the port's Service reads events, not the node's log.
func (r *Reconciler) report(err error, s *cluster.Snapshot) {
	r.cfg.Log.Warn("port is not served", "err", err)
	var conflict *ConflictError
	if !errors.As(err, &conflict) {
		return
	}
	if svc := s.Service(conflict.Wanted.Service); svc != nil {
		r.cfg.Warn(svc.Object(), "PortConflict", err.Error())
	}
}

func (r *Reconciler) markReady() {
	select {
	case <-r.ready:
	default:
		close(r.ready)
	}
}

// next waits for a Change, after a failure only until the next try.
func (r *Reconciler) next(ctx context.Context) (cluster.Change, error) {
	if r.retry > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, r.retry)
		defer cancel()
	}
	return r.cfg.Changes.Next(ctx)
}

// sync brings the maps to the Change. No failure keeps the rest from being done: what goes away makes room.
func (r *Reconciler) sync(change cluster.Change) outcome {
	r.mu.Lock()
	defer r.mu.Unlock()
	done := Sync{Started: time.Now()}
	o := r.change(&change)
	r.metrics.observe(done.Started, r.table, o)
	if done.Err, done.Maps = o.failure(), o.err; done.Err != nil {
		r.giveUp()
	}
	done.Change, done.Done = change, time.Now()
	r.cfg.Synced(done)
	return o
}

// change is sync for a caller that holds mu and gives the table up after a failure.
func (r *Reconciler) change(change *cluster.Change) (o outcome) {
	if o.err = r.adopt(); o.err != nil {
		return o
	}
	if o.err = r.makeRoom(len(change.Services)); o.err != nil {
		return o
	}
	here := placeOf(change.Snapshot, r.cfg.Node.Name)
	change.Full = change.Full || r.stale || !here.equal(r.place)
	r.place = here
	want := r.selectPorts(*change)
	maps.Copy(want, r.wantPods())
	plan, refused := r.table.plan(want, change.Full)
	if plan.Withdrawn { // also when not all of it can be done
		defer r.cfg.Withdrawn()
	}
	for _, err := range refused {
		if errors.Is(err, ErrConflict) {
			o.conflicts = append(o.conflicts, err)
		} else {
			o.full = append(o.full, err)
		}
	}
	for _, port := range plan.Grow {
		if err := r.apply(port); errors.Is(err, bpf.ErrFull) {
			o.full = append(o.full, err)
		} else if err != nil {
			o.err = err
			return o
		}
	}
	r.followNetworks(*change)
	r.cfg.Served(*change)
	r.pods, r.stale = nil, r.stale && !change.Full
	o.err = r.apply(plan.Shrink)
	r.somethingUsed()
	return o
}

// adopt learns what the maps hold unless that is known. The caller holds mu.
func (r *Reconciler) adopt() (err error) {
	if r.table != nil {
		return nil
	}
	if err := r.cfg.Maps.Reclaim(); err != nil { // a record that was retired may be in use by a program that runs
		return err
	}
	if r.table, err = adopt(r.cfg.Maps); err != nil {
		return err
	}
	r.stale = true
	r.publishHosting()
	return nil
}

// giveUp forgets the table: the maps are somewhere on the way, and read before the next plan. The caller holds mu.
func (r *Reconciler) giveUp() {
	if r.table == nil {
		return
	}
	r.pods = r.table.pods()
	r.table = nil
}

// wantPods is what pods had before the table was given up: among what the maps hold there may be too little, and what
// was on its way out. The caller holds mu.
func (r *Reconciler) wantPods() map[cluster.Name][]Port {
	if r.pods == nil {
		return nil
	}
	want := maps.Clone(r.pods)
	for name := range r.table.pods() {
		want[name] = r.pods[name]
	}
	return want
}

func (r *Reconciler) selectPorts(change cluster.Change) map[cluster.Name][]Port {
	node := r.cfg.Node
	node.Zone, node.Addrs = r.place.zone, r.place.addrs
	want := make(map[cluster.Name][]Port, len(change.Services))
	if change.Full {
		for svc := range change.Snapshot.Services() {
			want[svc.Name] = Select(svc, change.Snapshot.Slices(svc.Name), node)
		}
		return want
	}
	for _, name := range change.Services {
		want[name] = Select(change.Snapshot.Service(name), change.Snapshot.Slices(name), node)
	}
	return want
}

// NoLocalEndpoints counts the Service ports of a family that have endpoints, but none here for clients inside the cluster
// (by the internal policy Local) and outside (by the external one).
func (r *Reconciler) NoLocalEndpoints(v6 bool) (internal, external int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.table == nil {
		return 0, 0
	}
	for _, ports := range r.table.services {
		for _, p := range ports {
			if p.ID.IPv6 != v6 {
				continue
			}
			if p.Block.InternalDrop {
				internal++
			}
			if p.Block.ExternalDrop {
				external++
			}
		}
	}
	return internal, external
}

// A place is what selection takes from the node's object; the zero value when there is none.
type place struct {
	zone  string
	addrs []netip.Addr
}

func (p place) equal(o place) bool { return p.zone == o.zone && slices.Equal(p.addrs, o.addrs) }

func placeOf(s *cluster.Snapshot, name string) place {
	if node := s.Node(name); node != nil {
		return place{node.Zone(), node.InternalIPs}
	}
	return place{}
}

func (r *Reconciler) apply(ops []Op) error {
	debug := r.cfg.Log.Enabled(context.Background(), slog.LevelDebug)
	for _, op := range ops {
		if debug {
			r.cfg.Log.Debug("apply", "op", op)
		}
		if err := op.apply(r.cfg.Maps); err != nil {
			return fmt.Errorf("%s: %w", op, err)
		}
	}
	return nil
}

// adopt reads what the maps hold, whoever wrote it.
func adopt(m Maps) (*table, error) {
	entries, err := m.Entries()
	if err != nil {
		return nil, err
	}
	t := newTable(m.MaxRecords())
	used := map[uint32]bool{}
	for _, e := range entries {
		t.frontends[e.Frontend] = entry{e.Record, e.Kind}
		t.adopted[e.Record] = append(t.adopted[e.Record], e.Frontend)
		used[e.Record] = true
	}
	for _, record := range m.Records() {
		t.blocks[record], _ = m.Block(record)
		used[record] = true
	}
	for record := range used {
		t.next = max(t.next, record+1)
	}
	for record := range t.next {
		if !used[record] {
			t.free = append(t.free, record)
		}
	}
	t.adoptHostPorts()
	return t, nil
}

func newTable(records uint32) *table {
	return &table{
		frontends: map[bpf.Frontend]entry{}, blocks: map[uint32]bpf.Block{}, services: map[cluster.Name][]Port{},
		hosting: map[cluster.Name]bool{},
		records: map[PortID]uint32{}, owners: map[bpf.Frontend]PortID{}, owned: map[uint32]bool{},
		adopted: map[uint32][]bpf.Frontend{}, max: records,
	}
}
