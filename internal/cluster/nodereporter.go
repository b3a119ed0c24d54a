package cluster

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/wait"
	coreinformers "k8s.io/client-go/informers/core/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
)

const (
	// writePause is the pause after a write, doubled with every further one up to maxWritePause: after a failure, and
	// just so when a report changes all the time or another writer undoes what this one does.
	writePause    = time.Second
	maxWritePause = time.Minute
	// calm is how long nothing was written when the pauses start anew.
	calm = 2 * maxWritePause
)

// NodeReporterConfig configures a [NodeReporter].
type NodeReporterConfig struct {
	REST     *rest.Config
	NodeName string
	Log      *slog.Logger
	// Registerer takes the metrics; nil for none.
	Registerer prometheus.Registerer
}

// A NodeReporter keeps what the node shows (capacity, conditions, annotations) in line with what the agent says. It
// writes when the two differ, whoever changed what, and refreshes conditions every five minutes. The node keeps what it
// shows when the reporter ends.
//
// It is a task: Run once. It is ready from the start, since nothing on the node depends on what the API has heard.
type NodeReporter struct {
	client   kubernetes.Interface
	node     string
	log      *slog.Logger
	failures prometheus.Counter
	ready    chan struct{}
	changed  chan struct{} // holds a token when one of the fields below has changed

	mu       sync.Mutex  // guards what follows
	report   *NodeReport // nil until the agent has said something
	shown    *nodeState  // nil until the node has been seen, and when it is gone
	shortage shortage
}

// NewNodeReporter returns a reporter that has not started.
func NewNodeReporter(c NodeReporterConfig) (*NodeReporter, error) {
	client, err := newClient(c.REST)
	if err != nil {
		return nil, err
	}
	return newNodeReporter(client, c)
}

func newNodeReporter(client kubernetes.Interface, c NodeReporterConfig) (*NodeReporter, error) {
	failures := newReportFailuresMetric()
	if err := register(c.Registerer, failures); err != nil {
		return nil, err
	}
	r := &NodeReporter{
		client: client, node: c.NodeName, log: c.Log, failures: failures,
		ready: make(chan struct{}), changed: make(chan struct{}, 1),
	}
	close(r.ready)
	return r, nil
}

// Ready is closed.
func (r *NodeReporter) Ready() <-chan struct{} { return r.ready }

func (r *NodeReporter) String() string { return "report of node " + r.node }

// Set says what the node shall show from now on. It is safe for concurrent use, returns at once, and may be called
// before Run.
func (r *NodeReporter) Set(report NodeReport) {
	r.mu.Lock()
	defer r.mu.Unlock()
	var before []NodeCondition
	if r.report != nil {
		before = r.report.Conditions
	}
	r.shortage = r.shortage.note(before, report.Conditions, time.Now())
	r.report = &report
	r.wake()
}

// show takes what the node shows, nil for a node that is not there.
func (r *NodeReporter) show(state *nodeState) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.shown = state; state != nil {
		r.shortage = r.shortage.adopt(state, time.Now())
	}
	r.wake()
}

func (r *NodeReporter) wake() {
	select {
	case r.changed <- struct{}{}:
	default:
	}
}

// Run reports until ctx ends and returns nil then. Errors of the API server are retried for ever.
func (r *NodeReporter) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	var running sync.WaitGroup
	defer running.Wait()
	defer cancel()

	informer, err := r.informer()
	if err != nil {
		return fmt.Errorf("set up an informer: %w", err)
	}
	running.Go(func() { informer.RunWithContext(ctx) })
	var pauses wait.Backoff
	var written time.Time
	for ctx.Err() == nil {
		patch, next := r.plan(time.Now())
		if patch == nil {
			r.sleep(ctx, next)
			continue
		}
		if now := time.Now(); now.Sub(written) > calm {
			pauses = wait.Backoff{Duration: writePause, Factor: 2, Jitter: 0.2, Steps: 8, Cap: maxWritePause}
		}
		r.write(ctx, patch)
		written = time.Now()
		pause(ctx, pauses.Step())
	}
	return nil
}

// plan returns the patch that is due, or nil and when to look again though nothing changes, the zero time for never.
func (r *NodeReporter) plan(now time.Time) (*nodePatch, time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.report == nil || r.shown == nil {
		return nil, time.Time{}
	}
	want := *r.report
	want.Conditions = r.shortage.hold(r.report.Conditions, now)
	if patch := planNode(r.shown, want, now); !patch.empty() {
		return patch, time.Time{}
	}
	next := nextHeartbeat(r.shown, want.Conditions)
	if until := r.shortage.until(); now.Before(until) && until.Before(next) {
		next = until
	}
	return nil, next
}

func (r *NodeReporter) write(ctx context.Context, patch *nodePatch) {
	node, err := r.client.CoreV1().Nodes().Patch(ctx, r.node, types.StrategicMergePatchType, []byte(patch.String()),
		metav1.PatchOptions{}, "status")
	if ctx.Err() != nil {
		return
	}
	if err != nil {
		r.failures.Inc()
		r.log.Warn("node report failed", "node", r.node, "err", err)
		return
	}
	r.log.Debug("node report written", "node", r.node, "patch", patch)
	r.show(nodeStateOf(node)) // the watch may be behind
}

// sleep waits for a change, and not beyond a time that is not zero.
func (r *NodeReporter) sleep(ctx context.Context, until time.Time) {
	var due <-chan time.Time
	if !until.IsZero() {
		due = time.After(time.Until(until))
	}
	select {
	case <-ctx.Done():
	case <-r.changed:
	case <-due:
	}
}

func pause(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

// informer follows the one node, and keeps of it what a report can concern.
func (r *NodeReporter) informer() (cache.SharedIndexInformer, error) {
	const resync = 0
	informer := coreinformers.NewFilteredNodeInformer(r.client, resync, cache.Indexers{},
		func(options *metav1.ListOptions) { options.FieldSelector = selectField("metadata.name", r.node) })
	if err := informer.SetTransform(stripNode); err != nil {
		return nil, err
	}
	if err := informer.SetWatchErrorHandlerWithContext(r.watchFailed); err != nil {
		return nil, err
	}
	_, err := informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    r.put,
		UpdateFunc: func(_, obj any) { r.put(obj) },
		DeleteFunc: func(any) { r.show(nil) },
	})
	return informer, err
}

func (r *NodeReporter) put(obj any) {
	if node, ok := obj.(*corev1.Node); ok {
		r.show(nodeStateOf(node))
	}
}

func (r *NodeReporter) watchFailed(_ context.Context, _ *cache.Reflector, err error) {
	r.log.Warn("watch failed", "kind", "Node", "err", err)
}

// stripNode drops most of all the list of images, which is longer than the rest together.
func stripNode(obj any) (any, error) {
	in, ok := obj.(*corev1.Node)
	if !ok {
		return obj, nil
	}
	out := &corev1.Node{Status: corev1.NodeStatus{Capacity: in.Status.Capacity, Conditions: in.Status.Conditions}}
	out.Name, out.ResourceVersion, out.Annotations = in.Name, in.ResourceVersion, in.Annotations
	return out, nil
}
