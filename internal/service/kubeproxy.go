package service

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/nearpath/nearpath/internal/cluster"
	"github.com/prometheus/client_golang/prometheus"
)

// healthTimeout is how long a change may wait to be served: kube-proxy's 2 x iptables.syncPeriod.
const healthTimeout = time.Minute

// KubeProxyConfig is what NewKubeProxy needs. All fields are required but NodeRequired.
type KubeProxyConfig struct {
	// Changes is a subscription of its own to what the Reconciler follows: a change is seen to wait also when the
	// Reconciler is stuck.
	Changes Changes
	// Node is the node's name. NodeRequired says that the source has Nodes: without one this node is gone then.
	Node         string
	NodeRequired bool
	// NoLocal counts Service ports of a family that a Local policy leaves without endpoints, by whether it binds clients
	// inside or outside the cluster; the Reconciler's NoLocalEndpoints.
	NoLocal func(v6 bool) (internal, external int)
	// Metrics are kube-proxy's, a registry of their own: dashboards ask another port for them.
	Metrics prometheus.Registerer
}

// A KubeProxy shows what kube-proxy shows of itself: whether changes are served in time, and its metrics
// (pkg/proxy/healthcheck/proxy_health.go and pkg/proxy/metrics of Kubernetes 1.36). It is a Task that follows the changes;
// Synced must be told what became of them. Its methods are safe for concurrent use.
type KubeProxy struct {
	cfg     KubeProxyConfig
	metrics kubeProxyMetrics
	started time.Time
	now     func() time.Time
	ready   chan struct{}

	mu      sync.Mutex
	newest  *cluster.Snapshot // the last one seen, nil: none
	served  *cluster.Snapshot // the last one that was served, nil: none
	updated time.Time         // when it was
	waits   time.Time         // since when a change has been waiting, zero: none is
	queued  time.Time         // when the last one came
	pending pendingChanges
	failed  error // of the last sync
}

// NewKubeProxy makes one that has seen nothing.
func NewKubeProxy(cfg KubeProxyConfig) (*KubeProxy, error) {
	k := &KubeProxy{
		cfg: cfg, metrics: newKubeProxyMetrics(), started: time.Now(), now: time.Now, ready: make(chan struct{}),
		pending: newPendingChanges(),
	}
	close(k.ready)
	return k, errors.Join(k.metrics.register(cfg.Metrics), cfg.Metrics.Register(noLocalCollector{cfg.NoLocal}))
}

func (k *KubeProxy) String() string { return "kube-proxy's endpoints" }

// Ready is closed.
func (k *KubeProxy) Ready() <-chan struct{} { return k.ready }

// Run notes changes until ctx ends.
func (k *KubeProxy) Run(ctx context.Context) error {
	for {
		change, err := k.cfg.Changes.Next(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return err
		}
		k.queue(change)
	}
}

func (k *KubeProxy) queue(change cluster.Change) {
	k.mu.Lock()
	defer k.mu.Unlock()
	now := k.now()
	k.metrics.note(k.pending.add(k.newest, change))
	k.newest = change.Snapshot
	if k.served != nil && k.served.Version() >= change.Snapshot.Version() {
		k.pending.clear() // the Reconciler was faster
	} else {
		k.queued = now
		if k.waits.IsZero() {
			k.waits = now
		}
	}
	k.metrics.queued(now, k.pending)
}

// Synced takes what the Reconciler did. A port that finds no room in the maps does not make the node unhealthy, which would
// take the others' traffic from it, too.
func (k *KubeProxy) Synced(s Sync) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.metrics.synced(s)
	k.failed = s.Err
	if s.Maps != nil {
		return
	}
	now := k.now()
	k.metrics.programmed(triggered(k.served, s, k.started), now)
	k.served, k.updated = s.Change.Snapshot, now
	if k.newest == nil || k.newest.Version() <= k.served.Version() {
		k.waits = time.Time{}
		k.pending.clear()
	} else {
		k.waits = k.queued
	}
	k.metrics.done(now, k.pending)
}

// Unserved says what of the newest Snapshot could not be served, and another try may: ports without room in the maps, above
// all. A port that another Service has is served, by that one.
func (k *KubeProxy) Unserved() error {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.failed
}

// A proxyHealth is what /healthz and /livez say.
type proxyHealth struct {
	LastUpdated  time.Time               `json:"lastUpdated"`
	CurrentTime  time.Time               `json:"currentTime"`
	NodeEligible *bool                   `json:"nodeEligible,omitempty"`
	Healthy      bool                    `json:"healthy"`
	Status       map[string]familyHealth `json:"status,omitempty"`
}

type familyHealth struct {
	LastUpdated time.Time `json:"lastUpdated"`
	Healthy     bool      `json:"healthy"`
}

// Families as kube-proxy calls them (core/v1.IPFamily). A sync is of both.
var families = []string{"IPv4", "IPv6"}

func familyName(v6 bool) string {
	if v6 {
		return families[1]
	}
	return families[0]
}

// Healthy reports whether no change has been waiting for too long. Before the first sync it is true.
func (k *KubeProxy) Healthy() bool { return k.health().Healthy }

func (k *KubeProxy) health() proxyHealth {
	k.mu.Lock()
	defer k.mu.Unlock()
	h := proxyHealth{CurrentTime: k.now(), LastUpdated: k.updated, Healthy: true}
	if k.updated.IsZero() {
		return h
	}
	h.Healthy = k.waits.IsZero() || h.CurrentTime.Sub(k.waits) < healthTimeout
	h.Status = map[string]familyHealth{}
	for _, f := range families {
		h.Status[f] = familyHealth{k.updated, h.Healthy}
	}
	return h
}

// eligible reports whether load balancers should send to this node: it is neither being deleted nor about to be by the
// cluster autoscaler.
func (k *KubeProxy) eligible() bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.newest == nil {
		return !k.cfg.NodeRequired
	}
	node := k.newest.Node(k.cfg.Node)
	if node == nil {
		return !k.cfg.NodeRequired
	}
	return !node.Leaving
}

// Healthz is the handler of /healthz: 200 while changes are served in time and the node stays, else 503.
func (k *KubeProxy) Healthz() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		h, eligible := k.health(), k.eligible()
		h.NodeEligible = &eligible
		k.answer(w, h, h.Healthy && eligible, k.metrics.healthz)
	})
}

// Livez is the handler of /livez: 200 while changes are served in time, else 503.
func (k *KubeProxy) Livez() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		h := k.health()
		k.answer(w, h, h.Healthy, k.metrics.livez)
	})
}

// answer says that a healthy proxy was updated just now, as kube-proxy does for who has relied on that.
func (k *KubeProxy) answer(w http.ResponseWriter, h proxyHealth, ok bool, count *prometheus.CounterVec) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	if ok {
		count.WithLabelValues("200").Inc()
		h.LastUpdated = h.CurrentTime
	} else {
		count.WithLabelValues("503").Inc()
		w.WriteHeader(http.StatusServiceUnavailable)
	}
	text, err := json.Marshal(h)
	if err == nil {
		_, _ = w.Write(text)
	}
}

// Datagrams returns a function that tells whether a backend serves datagrams sent to a frontend, as of the newest
// Snapshot that was served. Of frontends that no Service has it says yes: they are somebody else's.
func (k *KubeProxy) Datagrams() func(frontend, backend netip.AddrPort) bool {
	k.mu.Lock()
	served := k.served
	k.mu.Unlock()
	if served == nil {
		return func(_, _ netip.AddrPort) bool { return true }
	}
	d := datagrams{map[netip.AddrPort][]backendSet{}, map[uint16][]backendSet{}}
	for svc := range served.Services() {
		for _, sp := range svc.Ports {
			if sp.Protocol == cluster.UDP {
				d.add(svc, sp, served.Slices(svc.Name))
			}
		}
	}
	return func(frontend, backend netip.AddrPort) bool {
		of := d.frontends[frontend]
		if of == nil {
			of = d.nodePorts[frontend.Port()]
		}
		return len(of) == 0 || slices.ContainsFunc(of, func(s backendSet) bool { return s[backend] })
	}
}

// A backendSet are the endpoints that serve a Service port.
type backendSet map[netip.AddrPort]bool

// datagrams are where datagrams to Services go, and which endpoints serve them. Several Services may claim an address.
type datagrams struct {
	frontends map[netip.AddrPort][]backendSet
	nodePorts map[uint16][]backendSet
}

func (d datagrams) add(svc *cluster.Service, sp cluster.ServicePort, slices []*cluster.EndpointSlice) {
	backends := serving(slices, sp)
	if sp.NodePort != 0 {
		d.nodePorts[sp.NodePort] = append(d.nodePorts[sp.NodePort], backends)
	}
	for _, list := range [][]netip.Addr{svc.ClusterIPs, svc.ExternalIPs, svc.LoadBalancerIPs} {
		for _, a := range list {
			f := netip.AddrPortFrom(a, sp.Port)
			d.frontends[f] = append(d.frontends[f], backends)
		}
	}
}

// serving are the endpoints of a Service port that serve.
func serving(slices []*cluster.EndpointSlice, sp cluster.ServicePort) backendSet {
	out := backendSet{}
	for _, slice := range slices {
		target := targetPort(slice, sp)
		if target == 0 {
			continue
		}
		for _, e := range slice.Endpoints {
			if e.Ready || e.Serving {
				out[netip.AddrPortFrom(e.Addr, target)] = true
			}
		}
	}
	return out
}
