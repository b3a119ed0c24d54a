package cluster

import (
	"context"
	"fmt"
	"log/slog"
	"sync"

	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	coreinformers "k8s.io/client-go/informers/core/v1"
	discoveryinformers "k8s.io/client-go/informers/discovery/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
)

// APIConfig configures an [APISource].
type APIConfig struct {
	// REST says how to reach the API server. It must not lead through a Service address: that is what the node
	// needs the objects for.
	REST  *rest.Config
	Store *Store
	// NodeName says whose pods the Snapshot holds; empty for none.
	NodeName string
	Log      *slog.Logger
	// Registerer takes the metrics; nil for none.
	Registerer prometheus.Registerer
}

// An APISource keeps a Store in step with a Kubernetes API. It watches every Service, EndpointSlice and Namespace: no
// selector hides headless Services or those of another proxy, since DNS answers for them too. Of pods it watches those of
// its own node.
//
// It is a task: Run once, Ready is closed when the Store is synced.
type APISource struct {
	client  kubernetes.Interface
	store   *Store
	node    string
	log     *slog.Logger
	refused *prometheus.CounterVec
	ready   chan struct{}
}

// NewAPISource returns a source that has not started.
func NewAPISource(c APIConfig) (*APISource, error) {
	client, err := newClient(c.REST)
	if err != nil {
		return nil, err
	}
	return newAPISource(client, c)
}

func newAPISource(client kubernetes.Interface, c APIConfig) (*APISource, error) {
	refused := newRefusedMetric()
	if err := register(c.Registerer, refused); err != nil {
		return nil, err
	}
	return &APISource{
		client: client, store: c.Store, node: c.NodeName, log: c.Log, refused: refused, ready: make(chan struct{}),
	}, nil
}

// Ready is closed once every kind has been listed and is in the Store.
func (s *APISource) Ready() <-chan struct{} { return s.ready }

func (s *APISource) String() string { return "cluster API source" }

// Run watches until ctx ends and returns nil then. Errors of the API server are retried for ever, with the Store as it
// was.
func (s *APISource) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	var running sync.WaitGroup
	defer running.Wait()
	defer cancel()

	var listed []cache.InformerSynced
	for _, informer := range s.informers() {
		handlers, err := s.follow(informer)
		if err != nil {
			return err
		}
		listed = append(listed, handlers.HasSynced)
		running.Go(func() { informer.RunWithContext(ctx) })
	}
	if cache.WaitForCacheSync(ctx.Done(), listed...) {
		s.store.Update((*Edit).MarkSynced)
		close(s.ready)
	}
	<-ctx.Done()
	return nil
}

func (s *APISource) informers() []cache.SharedIndexInformer {
	const resync, everywhere = 0, metav1.NamespaceAll
	informers := []cache.SharedIndexInformer{
		coreinformers.NewNamespaceInformer(s.client, resync, cache.Indexers{}),
		discoveryinformers.NewEndpointSliceInformer(s.client, everywhere, resync, cache.Indexers{}),
		coreinformers.NewServiceInformer(s.client, everywhere, resync, cache.Indexers{}),
	}
	if s.node == "" {
		return informers
	}
	pods := coreinformers.NewFilteredPodInformer(s.client, everywhere, resync, cache.Indexers{},
		selectField("spec.nodeName", s.node))
	return append(informers, pods)
}

// selectField narrows a list and its watch to the objects whose field has this value.
func selectField(field, value string) func(*metav1.ListOptions) {
	selector := fields.OneTermEqualSelector(field, value).String()
	return func(options *metav1.ListOptions) { options.FieldSelector = selector }
}

func (s *APISource) follow(informer cache.SharedIndexInformer) (cache.ResourceEventHandlerRegistration, error) {
	if err := informer.SetTransform(strip); err != nil {
		return nil, fmt.Errorf("set up an informer: %w", err)
	}
	if err := informer.SetWatchErrorHandlerWithContext(s.watchFailed); err != nil {
		return nil, fmt.Errorf("set up an informer: %w", err)
	}
	handlers, err := informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    s.put,
		UpdateFunc: func(_, obj any) { s.put(obj) },
		DeleteFunc: s.delete,
	})
	if err != nil {
		return nil, fmt.Errorf("set up an informer: %w", err)
	}
	return handlers, nil
}

func (s *APISource) watchFailed(_ context.Context, r *cache.Reflector, err error) {
	s.log.Warn("watch failed", "kind", r.TypeDescription(), "err", err)
}

func (s *APISource) put(obj any) {
	o, ok := obj.(*stripped)
	if !ok {
		return
	}
	if o.err != nil {
		s.refused.WithLabelValues(o.kind).Inc()
		s.log.Error("object refused, its last good state stays", "err", o.err)
		return
	}
	s.store.Update(o.put)
}

func (s *APISource) delete(obj any) {
	if last, ok := obj.(cache.DeletedFinalStateUnknown); ok {
		obj = last.Obj
	}
	if o, ok := obj.(*stripped); ok {
		s.store.Update(o.delete)
	}
}

// A stripped object is what the informers keep instead of the API's own: what a cache needs, and the converted object
// the Snapshot shares.
type stripped struct {
	metav1.ObjectMeta // namespace, name and resourceVersion only
	kind              string
	service           *Service
	slice             *EndpointSlice // nil for a slice no Snapshot holds
	pod               *Pod
	err               error // why the object is refused
}

// strip is the informers' transform. They may call it on what it returned, and it never fails: an error here would
// make them list again and again for one bad object.
func strip(obj any) (any, error) {
	switch in := obj.(type) {
	case *corev1.Service:
		o := newStripped(kindService, in)
		o.service, o.err = ServiceFrom(in)
		return o, nil
	case *discoveryv1.EndpointSlice:
		o := newStripped(kindSlice, in)
		o.slice, o.err = SliceFrom(in)
		return o, nil
	case *corev1.Pod:
		o := newStripped(kindPod, in)
		o.pod, o.err = PodFrom(in)
		return o, nil
	case *corev1.Namespace:
		return newStripped(kindNamespace, in), nil
	}
	return obj, nil
}

func newStripped(kind string, in metav1.Object) *stripped {
	meta := metav1.ObjectMeta{Namespace: in.GetNamespace(), Name: in.GetName(), ResourceVersion: in.GetResourceVersion()}
	return &stripped{ObjectMeta: meta, kind: kind}
}

func (o *stripped) put(e *Edit) {
	switch {
	case o.kind == kindNamespace:
		e.PutNamespace(o.Name)
	case o.service != nil:
		e.PutService(o.service)
	case o.slice != nil:
		e.PutSlice(o.slice)
	case o.pod != nil:
		e.PutPod(o.pod)
	default:
		o.delete(e) // the slice has lost its Service, or its name was used again for one we do not hold
	}
}

func (o *stripped) delete(e *Edit) {
	switch o.kind {
	case kindNamespace:
		e.DeleteNamespace(o.Name)
	case kindService:
		e.DeleteService(Name{o.Namespace, o.Name})
	case kindSlice:
		e.DeleteSlice(Name{o.Namespace, o.Name})
	case kindPod:
		e.DeletePod(Name{o.Namespace, o.Name})
	}
}
