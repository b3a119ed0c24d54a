package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

const (
	// keptDrops is how many events are kept for those who ask.
	keptDrops = 1024
	// dropLines is how many of them are logged in a second.
	dropLines = 10
	// dropPatience bounds how long who asks for news waits for any.
	dropPatience = 30 * time.Second
)

// The directions of a pod.
const (
	ingressName = "ingress"
	egressName  = "egress"
)

const dropsPath = "/v1/policy/drops"

// A dropView is a packet of a pod of this node that was dropped, or of a connection that a rule has logged.
type dropView struct {
	// Sequence counts the events of this agent, from 1.
	Sequence uint64    `json:"sequence"`
	Time     time.Time `json:"time"`
	// Pod and PeerPod are namespace/name, empty if nobody is known to have the address.
	Pod         string     `json:"pod,omitempty"`
	Address     netip.Addr `json:"address"`
	PeerPod     string     `json:"peerPod,omitempty"`
	PeerAddress netip.Addr `json:"peerAddress"`
	// Direction is the pod's, ingress or egress.
	Direction string `json:"direction"`
	Protocol  string `json:"protocol"`
	// Port is where the packet went to; ICMP has its type there. SourcePort is 0 where there is none.
	Port       uint16 `json:"port"`
	SourcePort uint16 `json:"sourcePort,omitempty"`
	Reason     string `json:"reason"`
	// Logged says that it is a connection that was allowed, by a rule that logs.
	Logged bool `json:"logged,omitempty"`
	// Policies are those that isolate the pod in the direction.
	Policies   []string `json:"policies,omitempty"`
	Generation uint32   `json:"generation"`
}

func (d dropView) text() string {
	pod, peer := d.Pod, d.PeerPod
	if pod == "" {
		pod = "a pod"
	}
	if peer != "" {
		peer += " "
	}
	arrow := "to"
	if d.Direction == ingressName {
		arrow = "from"
	}
	text := fmt.Sprintf("%s %s: %s %s %s%s, %s port %d: %s", pod, d.Address, d.Direction, arrow, peer, d.PeerAddress, d.Protocol, d.Port, d.Reason)
	if len(d.Policies) > 0 {
		text += " (" + strings.Join(d.Policies, ", ") + ")"
	}
	return text
}

// A dropsRequest asks for events after one, and waits for some if there are none.
type dropsRequest struct {
	After uint64 `json:"after"`
	Wait  bool   `json:"wait,omitempty"`
}

// A dropsView is what there is of them; Lost is how many after the one that was asked for are not kept any more.
type dropsView struct {
	Drops []dropView `json:"drops"`
	Lost  uint64     `json:"lost,omitempty"`
}

// A dropLog is a Task that takes what the kernel tells of packets it has dropped, logs some and keeps the last of them for
// those who ask. It never stands in a packet's way: what it does not take in time, the kernel forgets.
type dropLog struct {
	read  func(context.Context) (dropView, error)
	logs  func() bool // whether they are to be logged
	log   *slog.Logger
	ready chan struct{}

	events, silent prometheus.Counter

	mu   sync.Mutex // guards what follows
	kept []dropView // the newest last
	seen uint64
	news chan struct{} // closed with the next event

	// Of Run alone.
	second     time.Time
	lines      int
	suppressed int
}

// newDropLog reads events by read, which waits for one; an error of it that is not the context's is told, and ends nothing.
func newDropLog(read func(context.Context) (dropView, error), logs func() bool, log *slog.Logger, metrics prometheus.Registerer) *dropLog {
	l := &dropLog{
		read: read, logs: logs, log: log, ready: make(chan struct{}), news: make(chan struct{}),
		events: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "nearpath_policy_events_total", Help: "Packets dropped by policy, or logged by it, that the kernel told of; it tells of a few of each pod in a second.",
		}),
		silent: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "nearpath_policy_events_unlogged_total", Help: "Events of policy that were not logged, because there were too many.",
		}),
	}
	metrics.MustRegister(l.events, l.silent)
	close(l.ready)
	return l
}

func (l *dropLog) String() string         { return "events of policy" }
func (l *dropLog) Ready() <-chan struct{} { return l.ready }

// dropRetry is the pause after events could not be read.
const dropRetry = time.Second

func (l *dropLog) Run(ctx context.Context) error {
	failed := ""
	for {
		d, err := l.read(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			if failed != err.Error() {
				failed = err.Error()
				l.log.Warn("events of policy cannot be read", "err", err)
			}
			select {
			case <-ctx.Done():
			case <-time.After(dropRetry):
			}
			continue
		}
		l.take(d)
	}
}

func (l *dropLog) take(d dropView) {
	l.events.Inc()
	l.mu.Lock()
	l.seen++
	d.Sequence = l.seen
	l.kept = append(l.kept, d)
	if len(l.kept) > 2*keptDrops { // seldom, so that an event costs the same as a thousand
		l.kept = append([]dropView(nil), l.kept[len(l.kept)-keptDrops:]...)
	}
	close(l.news)
	l.news = make(chan struct{})
	l.mu.Unlock()
	if l.logs() {
		l.print(d)
	}
}

// print logs an event unless there were too many in this second of theirs.
func (l *dropLog) print(d dropView) {
	if second := d.Time.Truncate(time.Second); !second.Equal(l.second) {
		if l.suppressed > 0 {
			l.log.Warn("further packets dropped by policy are not logged", "events", l.suppressed)
		}
		l.second, l.lines, l.suppressed = second, 0, 0
	}
	if l.lines++; l.lines > dropLines {
		l.suppressed++
		l.silent.Inc()
		return
	}
	if d.Logged {
		l.log.Info("connection logged by policy: "+d.text(), "generation", d.Generation)
		return
	}
	l.log.Warn("packet dropped by policy: "+d.text(), "generation", d.Generation)
}

// after returns the events after a sequence number, and a channel that is closed with the next one.
func (l *dropLog) after(sequence uint64) (dropsView, <-chan struct{}) {
	l.mu.Lock()
	defer l.mu.Unlock()
	kept := l.kept[max(0, len(l.kept)-keptDrops):]
	first := l.seen - uint64(len(kept)) // the one before the first that is kept
	if sequence > l.seen {              // of another agent
		sequence = 0
	}
	view := dropsView{Drops: []dropView{}}
	if sequence < first {
		view.Lost = first - sequence
		sequence = first
	}
	view.Drops = append(view.Drops, kept[sequence-first:]...)
	return view, l.news
}

// serve answers who asks for events.
func (l *dropLog) serve(ctx context.Context, r dropsRequest) (any, error) {
	view, news := l.after(r.After)
	if !r.Wait || len(view.Drops) > 0 {
		return view, nil
	}
	ctx, cancel := context.WithTimeoutCause(ctx, dropPatience, errNoNews)
	defer cancel()
	select {
	case <-news:
	case <-ctx.Done():
		if cause := context.Cause(ctx); !errors.Is(cause, errNoNews) {
			return nil, cause
		}
	}
	view, _ = l.after(r.After)
	return view, nil
}

var errNoNews = errors.New("nothing was dropped meanwhile")
