package service

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
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
func (o Put) apply(m Maps) error     { return m.PutFrontend(o.Frontend, bpf.ClusterIP, o.Record) }
func (o Delete) apply(m Maps) error  { return m.DeleteFrontend(o.Frontend) }
func (o Retire) apply(m Maps) error  { m.Retire(o.Record); return nil }

// Changes is where Snapshots come from; *cluster.Subscription is one.
type Changes interface {
	Next(context.Context) (cluster.Change, error)
}

// Config is what New needs. All fields but Served are required.
type Config struct {
	Maps    Maps
	Changes Changes
	Node    Node
	Log     *slog.Logger
	Metrics prometheus.Registerer
	// Served is called for each Change after everything new in it is served and before anything is taken away. DNS
	// publishes the Snapshot there: a name never leads to an address that does not forward.
	Served func(*cluster.Snapshot)
}

// A Reconciler keeps the maps equal to the newest Snapshot. It is a Task.
type Reconciler struct {
	cfg     Config
	metrics metrics
	ready   chan struct{}

	table *table        // nil: unknown, adopt and plan in full
	retry time.Duration // until the next try of what the last sync left out, 0: nothing
}

// What could not be written is tried again after firstRetry, then at intervals that double up to lastRetry: a full map
// seldom gets emptier by itself. Any Change is a try, too.
const (
	firstRetry = time.Second
	lastRetry  = time.Minute
)

// New makes a Reconciler; nothing is read or written before Run.
func New(cfg Config) (*Reconciler, error) {
	if cfg.Served == nil {
		cfg.Served = func(*cluster.Snapshot) {}
	}
	r := &Reconciler{cfg: cfg, ready: make(chan struct{}), metrics: newMetrics()}
	if err := r.metrics.register(cfg.Metrics); err != nil {
		return nil, err
	}
	return r, nil
}

// String names the Task.
func (r *Reconciler) String() string { return "service reconciler" }

// Ready is closed when the first Snapshot is served in full.
func (r *Reconciler) Ready() <-chan struct{} { return r.ready }

// Run follows the Changes until ctx ends. What cannot be written is logged and counted, what was published before
// goes on being served, everything else is served, and the rest is tried again.
func (r *Reconciler) Run(ctx context.Context) error {
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
		started := time.Now()
		refused, err := r.sync(change)
		r.metrics.observe(started, r.table, refused, err)
		r.after(refused, err)
	}
}

// after draws the consequences of a sync.
func (r *Reconciler) after(refused []error, err error) {
	if err := errors.Join(append(refused, err)...); err != nil {
		r.cfg.Log.Error("serve Services", "err", err)
	}
	if len(refused) > 0 || err != nil {
		r.table = nil // the maps are somewhere on the way: read them before the next plan
		r.retry = min(max(2*r.retry, firstRetry), lastRetry)
	} else {
		r.retry = 0
	}
	if err == nil {
		r.markReady()
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

// sync brings the maps to the Change. Refused are the ports that cannot be served, for lack of room or because another
// Service has their address; the error is of the maps themselves. Neither keeps the rest from being done: what goes
// away makes room.
func (r *Reconciler) sync(change cluster.Change) ([]error, error) {
	if r.table == nil {
		var err error
		if r.table, err = adopt(r.cfg.Maps); err != nil {
			return nil, err
		}
		change.Full = true
	}
	plan, refused := r.table.plan(r.selectPorts(change), change.Full)
	for _, port := range plan.Grow {
		if err := r.apply(port); errors.Is(err, bpf.ErrFull) {
			refused = append(refused, err)
		} else if err != nil {
			return refused, errors.Join(err, r.cfg.Maps.Reclaim())
		}
	}
	r.cfg.Served(change.Snapshot)
	return refused, errors.Join(r.apply(plan.Shrink), r.cfg.Maps.Reclaim())
}

func (r *Reconciler) selectPorts(change cluster.Change) map[cluster.Name][]Port {
	want := map[cluster.Name][]Port{}
	if change.Full {
		for svc := range change.Snapshot.Services() {
			want[svc.Name] = Select(svc, change.Snapshot.Slices(svc.Name), r.cfg.Node)
		}
		return want
	}
	for _, name := range change.Services {
		want[name] = Select(change.Snapshot.Service(name), change.Snapshot.Slices(name), r.cfg.Node)
	}
	return want
}

func (r *Reconciler) apply(ops []Op) error {
	for _, op := range ops {
		r.cfg.Log.Debug("apply", "op", op)
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
		t.frontends[e.Frontend] = e.Record
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
	return t, nil
}

func newTable(records uint32) *table {
	return &table{
		frontends: map[bpf.Frontend]uint32{}, blocks: map[uint32]bpf.Block{}, services: map[cluster.Name][]Port{},
		records: map[PortID]uint32{}, owners: map[bpf.Frontend]PortID{}, owned: map[uint32]bool{}, max: records,
	}
}
