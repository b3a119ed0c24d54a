package cluster

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"

	"github.com/prometheus/client_golang/prometheus"
	"k8s.io/client-go/dynamic"
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
	// NodeName says whose pods the Snapshot holds, and which Node; empty for none.
	NodeName string
	// Policy says that what policies are, and what they depend on, is read, too; it needs a NodeName.
	Policy bool
	// Publish says which kinds are read instead, for publishing their names: Pods are all then, and objects have what
	// only publishing reads. Empty for what a node acts on. With it NodeName must be empty.
	Publish []Kind
	// Warn tells the object's users that it is refused; [Events.WarnOnce] does. nil: nobody is told.
	Warn func(about Object, reason, message string)
	Log  *slog.Logger
	// Registerer takes the metrics; nil for none.
	Registerer prometheus.Registerer
}

// An APISource keeps a Store in step with a Kubernetes API. For a node it watches every Service, EndpointSlice and
// Namespace: no selector hides headless Services or those of another proxy, since DNS answers for them too. Of pods it
// watches those of its own node, and of nodes that one. ServiceCIDRs it follows where the API has them. For publishing it watches the kinds it is told to; those of an API that is not
// installed are taken for empty, and watched once it is. So are those of policies, for which it watches all pods and nodes as well.
//
// It is a task: Run once, Ready is closed when the Store is synced.
type APISource struct {
	client  kubernetes.Interface
	dynamic dynamic.Interface // nil for a node without policies
	store   *Store
	node    string
	publish kindSet // 0 for a node
	policy  bool
	log     *slog.Logger
	warn    func(about Object, reason, message string)
	refused *prometheus.CounterVec
	unread  *prometheus.GaugeVec
	labels  labelSets
	share   policySharer
	ready   chan struct{}

	mu  sync.Mutex
	bad map[Object]string // what is wrong with the objects that are refused; without UID
	// failing are the kinds that cannot be listed or watched, and why.
	failing map[string]string
}

// NewAPISource returns a source that has not started.
func NewAPISource(c APIConfig) (*APISource, error) {
	client, err := newClient(c.REST)
	if err != nil {
		return nil, err
	}
	if len(c.Publish) == 0 && !c.Policy {
		return newAPISource(client, nil, c)
	}
	custom, err := dynamic.NewForConfig(c.REST)
	if err != nil {
		return nil, fmt.Errorf("configure the Kubernetes client for %s: %w", c.REST.Host, err)
	}
	return newAPISource(client, custom, c)
}

func newAPISource(client kubernetes.Interface, custom dynamic.Interface, c APIConfig) (*APISource, error) {
	s := &APISource{
		client: client, dynamic: custom, store: c.Store, node: c.NodeName, log: c.Log, warn: c.Warn, ready: make(chan struct{}),
		policy: c.Policy, bad: map[Object]string{}, failing: map[string]string{}, unread: newUnreadMetric(),
	}
	if s.warn == nil {
		s.warn = NoEvents{}.Warn
	}
	kinds := []string{kindService, kindSlice, kindPod, kindNode, kindServiceCIDR}
	if len(c.Publish) > 0 {
		s.publish = kindsOf(c.Publish)
		kinds = append(kinds, kindIngress, kindHTTPRoute, kindGateway, kindDNSEndpoint)
	}
	if s.policy {
		kinds = append(kinds, policyRefusals()...)
	}
	s.refused = newRefusedMetric(kinds...)
	if s.policy && s.node == "" {
		return nil, errors.New("policies are enforced for pods of a node, and no node is given")
	}
	if s.publish != 0 && s.node != "" {
		return nil, fmt.Errorf("node %s: pods of a node and publishing exclude each other", s.node)
	}
	return s, register(c.Registerer, s.refused, s.unread)
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

	follow := func(list []*watched) (listed []cache.InformerSynced) {
		for _, w := range list {
			listed = append(listed, w.hasSynced)
			running.Go(func() { s.follow(ctx, w) })
		}
		return listed
	}
	listed := follow(s.watches())
	if s.policy {
		all := append(follow(s.policyWatches()), listed...)
		running.Go(func() {
			if cache.WaitForCacheSync(ctx.Done(), all...) {
				s.store.Update((*Edit).MarkPolicySynced)
			}
		})
	}
	if cache.WaitForCacheSync(ctx.Done(), listed...) {
		s.store.Update((*Edit).MarkSynced)
		close(s.ready)
	}
	<-ctx.Done()
	return nil
}
