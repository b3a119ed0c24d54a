package cluster

import (
	"cmp"
	"context"
	"log/slog"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/scheme"
	typedcorev1 "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/record"
)

const (
	// eventComponent is who events are from unless somebody else says so.
	eventComponent = "nearpath-agent"
	// eventQueue is how many warnings wait for the task to run or to catch up.
	eventQueue = 256
	// maxEventMessage is the API server's limit for events.k8s.io, in bytes.
	maxEventMessage = 1024
	// eventTimeout bounds one call: the recorder gives its calls no context that could end them.
	eventTimeout = 10 * time.Second
)

// An Object is what an event is about; the zero value is this node.
type Object struct {
	Kind string // one that this package reads, such as Pod
	Name Name   // without a namespace where the kind has none
	UID  string
}

// refusedReason is the reason of events on objects that could not be converted.
const refusedReason = "Malformed"

// Object is the Service as the object of an event.
func (s *Service) Object() Object { return Object{kindService, s.Name, s.UID} }

// Object is the pod as the object of an event.
func (p *Pod) Object() Object { return Object{kindPod, p.Name, p.UID} }

// EventsConfig configures an [Events].
type EventsConfig struct {
	REST *rest.Config
	// Component is who the events are from; empty: the agent.
	Component string
	// NodeName is the node that the zero Object is; empty for a process that stands for none.
	NodeName string
	Log      *slog.Logger
}

// Events writes Kubernetes events for what a user can put right. Events that repeat become one with a count, many that
// are alike become one, and one object gets 25 and then one in five minutes, as client-go's recorder does by itself.
// Some may get lost: when the API is away for long, or too many wait.
//
// It is a task: Run once; it is ready from the start.
type Events struct {
	client    kubernetes.Interface
	component string
	node      string
	log       *slog.Logger
	queue     chan warning
	once      chan warning // of WarnOnce
	ready     chan struct{}
}

type warning struct {
	about           corev1.ObjectReference
	reason, message string
}

// NewEvents returns a recorder that has not started.
func NewEvents(c EventsConfig) (*Events, error) {
	config := rest.CopyConfig(c.REST)
	config.Timeout = eventTimeout
	client, err := newClient(config)
	if err != nil {
		return nil, err
	}
	return newEvents(client, c), nil
}

func newEvents(client kubernetes.Interface, c EventsConfig) *Events {
	e := &Events{
		client: client, component: cmp.Or(c.Component, eventComponent), node: c.NodeName, log: c.Log,
		queue: make(chan warning, eventQueue), once: make(chan warning, eventQueue), ready: make(chan struct{}),
	}
	close(e.ready)
	return e
}

// Ready is closed.
func (e *Events) Ready() <-chan struct{} { return e.ready }

func (e *Events) String() string { return "events" }

// Warn records a warning. The reason is one word in CamelCase that stands for a kind of trouble, the message names the
// values and the fix. It never waits, is safe for concurrent use, and may be called before Run. What is no object of the
// API has no events: a kind that this package does not read, or this node where the process stands for none.
func (e *Events) Warn(about Object, reason, message string) {
	e.enqueue(e.queue, about, reason, message)
}

func (e *Events) enqueue(queue chan<- warning, about Object, reason, message string) {
	reference, ok := e.reference(about)
	if !ok {
		return
	}
	if len(message) > maxEventMessage {
		message = strings.ToValidUTF8(message[:maxEventMessage], "")
	}
	select {
	case queue <- warning{reference, reason, message}:
	default:
		e.log.Warn("event dropped, too many wait", "reason", reason, "message", message)
	}
}

// reference gives this node's name as its UID, as the kubelet does: kubectl describe looks for that.
func (e *Events) reference(o Object) (corev1.ObjectReference, bool) {
	if o == (Object{}) {
		return corev1.ObjectReference{APIVersion: "v1", Kind: kindNode, Name: e.node, UID: types.UID(e.node)}, e.node != ""
	}
	version, ok := map[string]string{
		kindPod: "v1", kindService: "v1", kindNode: "v1", kindSlice: versionDiscovery, kindServiceCIDR: networkingv1.SchemeGroupVersion.String(), kindIngress: networkingv1.SchemeGroupVersion.String(),
		kindHTTPRoute: versionGateway, kindGateway: versionGateway, kindDNSEndpoint: versionDNSEndpoint,
	}[o.Kind]
	kind := o.Kind
	if policy, found := policyAPIKinds()[o.Kind]; found {
		version, kind, ok = policy.version, policy.kind, true
	}
	return corev1.ObjectReference{
		APIVersion: version, Kind: kind, Namespace: o.Name.Namespace, Name: o.Name.Name, UID: types.UID(o.UID),
	}, ok
}

// Run writes events until ctx ends and returns nil then.
func (e *Events) Run(ctx context.Context) error {
	broadcaster := record.NewBroadcaster(record.WithContext(ctx))
	defer broadcaster.Shutdown()
	broadcaster.StartRecordingToSink(&typedcorev1.EventSinkImpl{Interface: e.client.CoreV1().Events("")})
	recorder := broadcaster.NewRecorder(scheme.Scheme, corev1.EventSource{Component: e.component, Host: e.node})
	var once sync.WaitGroup
	defer once.Wait()
	once.Go(func() { e.writeOnce(ctx) })
	for {
		select {
		case <-ctx.Done():
			return nil
		case w := <-e.queue:
			recorder.Event(&w.about, corev1.EventTypeWarning, w.reason, w.message)
		}
	}
}

// NoEvents takes warnings where there is no API to write them to.
type NoEvents struct{}

// Warn does nothing.
func (NoEvents) Warn(Object, string, string) {}

// WarnOnce does nothing.
func (NoEvents) WarnOnce(Object, string, string) {}
