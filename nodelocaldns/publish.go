package nodelocaldns

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/miekg/dns"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/nearpath/nearpath/bpf"
	"github.com/nearpath/nearpath/internal/cluster"
)

const (
	// beatInterval is how often the kernel is told that somebody follows the cluster: it denies names for a while after, and
	// answers for longer.
	beatInterval = time.Second
	// What could not be written is tried again after firstPublishRetry, then at intervals that double up to lastPublishRetry:
	// a full map seldom gets emptier by itself. A change of the same names is a try, too.
	firstPublishRetry = time.Second
	lastPublishRetry  = time.Minute
)

// PublisherConfig is what NewPublisher needs. Changed may be nil, all else is required.
type PublisherConfig struct {
	Zone    Zone
	Answers Answers
	Log     *slog.Logger
	Metrics prometheus.Registerer
	// Changed is told which Services have other names or answers now, by their canonical names; nil: any may have. It is
	// called after the kernel has them, and must not wait.
	Changed func(names []string)
}

// A Publisher keeps what the kernel answers of the cluster's zone equal to the newest Snapshot. It is a Task; its methods are
// safe for concurrent use.
//
// It holds no copy of what the kernel holds: that follows from the Snapshot published before. What could not be written
// is put to the entry, so that userspace answers it, never left as it was.
type Publisher struct {
	cfg     PublisherConfig
	plan    planner
	metrics publishMetrics
	ready   chan struct{}

	mu     sync.Mutex // guards the rest, and orders writes
	newest *cluster.Snapshot
	last   *cluster.Snapshot // what the kernel has, but for lost; nil: nobody knows
	lost   map[owner]*loss
	zone   bpf.AnswerZone  // what the kernel was told last, zero: nothing, or nobody knows
	retry  time.Duration   // from the last try to the next, 0: none is needed
	next   time.Time       // when that is
	said   map[string]bool // what has failed and was logged
}

// A loss is an owner of whose names the kernel may hold anything.
type loss struct {
	names map[string]struct{} // all that may be held
	// denied says that one of its names exists and the kernel does not know it.
	denied bool
}

// NewPublisher makes a Publisher; nothing is read or written before the first Publish.
func NewPublisher(cfg PublisherConfig) (*Publisher, error) {
	if cfg.Changed == nil {
		cfg.Changed = func([]string) {}
	}
	p := &Publisher{
		cfg: cfg, plan: newPlanner(cfg.Zone), metrics: newPublishMetrics(), ready: make(chan struct{}),
		lost: map[owner]*loss{}, said: map[string]bool{},
	}
	return p, p.metrics.register(cfg.Metrics)
}

// String names the Task.
func (p *Publisher) String() string { return "DNS answers in the kernel" }

// Ready is closed when the first Snapshot is published.
func (p *Publisher) Ready() <-chan struct{} { return p.ready }

// Run tells the kernel that the answers are looked after, and tries again what could not be written, until ctx ends.
func (p *Publisher) Run(ctx context.Context) error {
	select {
	case <-p.ready:
	case <-ctx.Done():
		return nil
	}
	tick := time.NewTicker(beatInterval)
	defer tick.Stop()
	for {
		p.tend(time.Now())
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
	}
}

// tend does what is due.
func (p *Publisher) tend(now time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	_ = p.report("tell the kernel that its answers are followed", p.cfg.Answers.Beat())
	if p.retry > 0 && !now.Before(p.next) {
		p.bring(cluster.Change{Snapshot: p.newest}, now)
	}
}

// Publish brings the kernel's answers to a Change. Call it when everything in it that is new is served, and before anything is
// taken away: a name never leads to an address that does not forward. What fails is logged, counted and tried again; names
// it concerns are answered by userspace until then.
func (p *Publisher) Publish(change cluster.Change) {
	if !change.Snapshot.Synced() {
		return // absence means nothing yet
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.newest = change.Snapshot
	p.bring(change, time.Now())
}

// bring writes a Change, and what could not be written before when that is due. The caller holds mu.
func (p *Publisher) bring(change cluster.Change, now time.Time) {
	started, due := time.Now(), p.retry > 0 && !now.Before(p.next)
	changed, all := []string(nil), p.last == nil
	switch {
	case all && p.retry > 0 && !due:
		return
	case all:
		if p.report("make the kernel's answers those of the cluster", p.adopt(change.Snapshot)) == nil {
			p.last = change.Snapshot
		}
	default:
		owners := p.plan.touched(p.last, change)
		if due {
			owners = p.withLost(owners)
		}
		changed = p.settle(change.Snapshot, owners)
		p.last = change.Snapshot
	}
	p.finish(now)
	p.metrics.published(started, len(p.lost), p.zone.Complete)
	if len(changed) > 0 || all && p.last != nil {
		p.cfg.Changed(changed)
	}
}

func (p *Publisher) withLost(owners []owner) []owner {
	listed := map[owner]bool{}
	for _, o := range owners {
		listed[o] = true
	}
	for o := range p.lost {
		if !listed[o] {
			owners = append(owners, o)
		}
	}
	return owners
}

// finish tells the kernel which zone it has now, none if what it holds is not known, and sets when the next try is if one
// is needed. The caller holds mu.
func (p *Publisher) finish(now time.Time) {
	want := bpf.AnswerZone{}
	if p.last != nil {
		want = p.wantZone(p.last)
	}
	var err error
	if want != p.zone || p.last == nil {
		if err = p.report("describe the cluster's zone to the kernel", p.cfg.Answers.SetZone(want)); err == nil {
			p.zone = want
		} else {
			p.zone = bpf.AnswerZone{}
		}
	}
	if p.last != nil && err == nil {
		p.markReady()
	}
	if p.last == nil || err != nil || len(p.lost) > 0 {
		if !now.Before(p.next) {
			p.retry = min(max(2*p.retry, firstPublishRetry), lastPublishRetry)
			p.next = now.Add(p.retry)
		}
		return
	}
	p.retry, p.next = 0, time.Time{}
	_ = p.report(unpublished, nil)
}

func (p *Publisher) markReady() {
	select {
	case <-p.ready:
	default:
		close(p.ready)
	}
}

// wantZone is complete if every name that exists is known to the kernel.
func (p *Publisher) wantZone(s *cluster.Snapshot) bpf.AnswerZone {
	complete := true
	for _, l := range p.lost {
		complete = complete && !l.denied
	}
	q := dns.Question{Name: p.plan.domain, Qtype: dns.TypeSOA, Qclass: dns.ClassINET}
	soa, ok := p.cfg.Zone.Answer(s, q).Answer[0].(*dns.SOA)
	if !ok {
		return bpf.AnswerZone{}
	}
	return bpf.AnswerZone{
		Domain: p.plan.domain, NS: soa.Ns, Mailbox: soa.Mbox, TTL: soa.Hdr.Ttl, Serial: soa.Serial, Refresh: soa.Refresh,
		Retry: soa.Retry, Expire: soa.Expire, MinTTL: soa.Minttl, Complete: complete,
	}
}

// adopt makes all that the kernel holds of the zone what the Snapshot wants, whoever wrote it. Entries that end or have
// a scope are somebody else's. The caller holds mu.
func (p *Publisher) adopt(s *cluster.Snapshot) error {
	clear(p.lost)
	have := map[entry]sum{}
	for a, err := range p.cfg.Answers.All() {
		if err != nil {
			return err
		}
		if a.Scope == 0 && !a.Aged && a.Expires == 0 {
			h := held{entry: entry{a.Name, a.Type}, flags: a.Names, response: a.Response}
			have[h.entry] = p.plan.sum(h)
		}
	}
	for _, o := range p.plan.all(s) {
		want := p.plan.wanted(s, o)
		ops := make([]Op, 0, len(want))
		for _, w := range want {
			if held, ok := have[w.entry]; !ok || held != p.plan.sum(w) {
				ops = append(ops, w.put())
			}
			delete(have, w.entry)
		}
		if err := p.apply(ops); err != nil {
			p.lose(s, o, err)
		}
	}
	return p.forget(have)
}

// forget deletes what nobody wants, names first.
func (p *Publisher) forget(have map[entry]sum) error {
	for _, names := range []bool{true, false} {
		for q := range have {
			if (q.qtype == dns.TypeNone) != names {
				continue
			}
			if err := p.apply([]Op{Delete{q}}); err != nil {
				return err
			}
		}
	}
	return nil
}

// settle writes what owners want of a Snapshot, and returns the names of Services of which something has changed. The
// caller holds mu.
func (p *Publisher) settle(s *cluster.Snapshot, owners []owner) (changed []string) {
	for _, o := range owners {
		want := p.plan.wanted(s, o)
		var ops []Op
		if l := p.lost[o]; l != nil {
			ops = anew(l, want)
		} else {
			ops = difference(p.plan.wanted(p.last, o), want)
		}
		if err := p.apply(ops); err != nil {
			p.lose(s, o, err)
		} else {
			delete(p.lost, o)
		}
		if o.kind == ownsService && (len(ops) > 0 || isExternal(p.last, o.name) || isExternal(s, o.name)) {
			changed = append(changed, serviceHost(o.name, p.plan.domain))
		}
	}
	return changed
}

func isExternal(s *cluster.Snapshot, name cluster.Name) bool {
	svc := s.Service(name)
	return svc != nil && svc.ExternalName != ""
}

// heldTypes are all types of which the kernel may hold an answer from here.
var heldTypes = [...]uint16{dns.TypeA, dns.TypeAAAA, dns.TypeSRV, dns.TypeTXT, dns.TypePTR}

// anew writes all that is wanted, and forgets whatever else may be held of the names.
func anew(l *loss, want []held) []Op {
	var ops, last []Op
	wanted := map[entry]bool{}
	for _, w := range want {
		ops, wanted[w.entry] = append(ops, w.put()), true
	}
	for name := range l.names {
		if q := (entry{name: name}); !wanted[q] {
			ops = append(ops, Delete{q})
		}
		for _, t := range heldTypes {
			if q := (entry{name, t}); !wanted[q] {
				last = append(last, Delete{q})
			}
		}
	}
	return append(ops, last...)
}

func (p *Publisher) apply(ops []Op) error {
	debug := p.cfg.Log.Enabled(context.Background(), slog.LevelDebug)
	for _, op := range ops {
		if debug {
			p.cfg.Log.Debug("apply", "op", op)
		}
		if err := op.apply(p.cfg.Answers); err != nil {
			return fmt.Errorf("%s: %w", op, err)
		}
	}
	return nil
}

// lose makes the kernel ask for all names of an owner of which something could not be written. The caller holds mu.
func (p *Publisher) lose(s *cluster.Snapshot, o owner, err error) {
	_ = p.report(unpublished, err)
	l := p.lost[o]
	if l == nil {
		l = &loss{names: map[string]struct{}{}}
		p.lost[o] = l
	}
	want := p.plan.wanted(s, o)
	if p.last != nil {
		for _, h := range p.plan.wanted(p.last, o) {
			l.names[h.name] = struct{}{}
		}
	}
	exists := map[string]bool{}
	for _, h := range want {
		l.names[h.name] = struct{}{}
		exists[h.name] = exists[h.name] || h.qtype == dns.TypeNone
	}
	l.denied = false
	for name := range l.names {
		if known := p.askFor(name, exists[name]); exists[name] && !known {
			l.denied = true
		}
	}
}

// askFor leaves a name to userspace: the kernel knows it as one that is asked for, or at least holds nothing of it. What
// cannot be deleted is tried again with the rest.
func (p *Publisher) askFor(name string, exists bool) (known bool) {
	if exists {
		known = p.cfg.Answers.PutName(name, bpf.NameAskAll|bpf.NameAskBelow) == nil
	}
	if !known {
		_ = p.cfg.Answers.DeleteName(name)
	}
	for _, t := range heldTypes {
		_ = p.cfg.Answers.Delete(bpf.AnswerKey{Name: name, Type: t})
	}
	return known
}

const unpublished = "hold answers in the kernel: userspace answers instead"

// report counts a failure, and logs it once until it is over. It returns the error. The caller holds mu.
func (p *Publisher) report(what string, err error) error {
	if err == nil {
		delete(p.said, what)
		return nil
	}
	p.metrics.failures.Inc()
	if !p.said[what] {
		p.cfg.Log.Error(what, "err", err)
		p.said[what] = true
	}
	return err
}
