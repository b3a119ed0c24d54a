package service

import (
	"errors"
	"slices"
	"time"

	"github.com/nearpath/nearpath/internal/cluster"
	"github.com/prometheus/client_golang/prometheus"
)

// kubeProxyMetrics are kube-proxy's (pkg/proxy/metrics/metrics.go of Kubernetes 1.36): names, labels, help and buckets. Those
// that count what only its rules have, iptables and nftables, are not here: they would stand for something else.
type kubeProxyMetrics struct {
	sync, fullSync, partialSync, programming *prometheus.HistogramVec
	lastSync, lastQueued                     *prometheus.GaugeVec
	endpointsPending, servicesPending        prometheus.Gauge
	endpointsTotal, servicesTotal            prometheus.Counter
	healthz, livez                           *prometheus.CounterVec
	conntrack                                *prometheus.HistogramVec
	conntrackDeleted                         *prometheus.CounterVec
}

func newKubeProxyMetrics() kubeProxyMetrics {
	const subsystem = "kubeproxy"
	family := []string{"ip_family"}
	histogram := func(name, help string, buckets []float64) *prometheus.HistogramVec {
		return prometheus.NewHistogramVec(prometheus.HistogramOpts{Subsystem: subsystem, Name: name, Help: "[ALPHA] " + help, Buckets: buckets}, family)
	}
	gauge := func(name, help string, labels []string) *prometheus.GaugeVec {
		return prometheus.NewGaugeVec(prometheus.GaugeOpts{Subsystem: subsystem, Name: name, Help: "[ALPHA] " + help}, labels)
	}
	plain := func(name, help string) prometheus.Gauge {
		return prometheus.NewGauge(prometheus.GaugeOpts{Subsystem: subsystem, Name: name, Help: "[ALPHA] " + help})
	}
	total := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Subsystem: subsystem, Name: name, Help: "[ALPHA] " + help})
	}
	counter := func(name, help string, labels []string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Subsystem: subsystem, Name: name, Help: "[ALPHA] " + help}, labels)
	}
	syncs := prometheus.ExponentialBuckets(0.001, 2, 15)
	return kubeProxyMetrics{
		sync:        histogram("sync_proxy_rules_duration_seconds", "SyncProxyRules latency in seconds", syncs),
		fullSync:    histogram("sync_full_proxy_rules_duration_seconds", "SyncProxyRules latency in seconds for full resyncs", syncs),
		partialSync: histogram("sync_partial_proxy_rules_duration_seconds", "SyncProxyRules latency in seconds for partial resyncs", syncs),
		programming: histogram("network_programming_duration_seconds", "In Cluster Network Programming Latency in seconds", slices.Concat(
			prometheus.LinearBuckets(0.25, 0.25, 2), prometheus.LinearBuckets(1, 1, 59), prometheus.LinearBuckets(60, 5, 12), prometheus.LinearBuckets(120, 30, 7),
		)),
		lastSync:         gauge("sync_proxy_rules_last_timestamp_seconds", "The last time proxy rules were successfully synced", family),
		lastQueued:       gauge("sync_proxy_rules_last_queued_timestamp_seconds", "The last time a sync of proxy rules was queued", family),
		endpointsPending: plain("sync_proxy_rules_endpoint_changes_pending", "Pending proxy rules Endpoint changes"),
		endpointsTotal:   total("sync_proxy_rules_endpoint_changes_total", "Cumulative proxy rules Endpoint changes"),
		servicesPending:  plain("sync_proxy_rules_service_changes_pending", "Pending proxy rules Service changes"),
		servicesTotal:    total("sync_proxy_rules_service_changes_total", "Cumulative proxy rules Service changes"),
		healthz:          counter("proxy_healthz_total", "Cumulative proxy healthz HTTP status", []string{"code"}),
		livez:            counter("proxy_livez_total", "Cumulative proxy livez HTTP status", []string{"code"}),
		conntrack:        histogram("conntrack_reconciler_sync_duration_seconds", "ReconcileConntrackFlowsLatency latency in seconds", syncs),
		conntrackDeleted: counter("conntrack_reconciler_deleted_entries_total", "Cumulative conntrack flows deleted by conntrack reconciler", family),
	}
}

func (m *kubeProxyMetrics) register(r prometheus.Registerer) error {
	var errs []error
	for _, c := range []prometheus.Collector{
		m.sync, m.fullSync, m.partialSync, m.programming, m.lastSync, m.lastQueued, m.endpointsPending,
		m.endpointsTotal, m.servicesPending, m.servicesTotal, m.healthz, m.livez, m.conntrack, m.conntrackDeleted,
	} {
		errs = append(errs, r.Register(c))
	}
	return errors.Join(errs...)
}

// note counts changes that have come.
func (m *kubeProxyMetrics) note(services, endpoints int) {
	m.servicesTotal.Add(float64(services))
	m.endpointsTotal.Add(float64(endpoints))
}

func (m *kubeProxyMetrics) queued(now time.Time, p pendingChanges) {
	for _, f := range families {
		m.lastQueued.WithLabelValues(f).Set(seconds(now))
	}
	m.waiting(p)
}

func (m *kubeProxyMetrics) waiting(p pendingChanges) {
	m.servicesPending.Set(float64(len(p.services)))
	m.endpointsPending.Set(float64(len(p.endpoints)))
}

// synced notes how long a sync took, which is of both families at once.
func (m *kubeProxyMetrics) synced(s Sync) {
	kind, took := m.partialSync, s.Done.Sub(s.Started).Seconds()
	if s.Change.Full {
		kind = m.fullSync
	}
	for _, f := range families {
		m.sync.WithLabelValues(f).Observe(took)
		kind.WithLabelValues(f).Observe(took)
	}
}

// done notes what holds after a sync that succeeded.
func (m *kubeProxyMetrics) done(now time.Time, p pendingChanges) {
	for _, f := range families {
		m.lastSync.WithLabelValues(f).Set(seconds(now))
	}
	m.waiting(p)
}

// A noLocalCollector counts when it is asked: after each change would be work for nobody.
type noLocalCollector struct {
	count func(v6 bool) (internal, external int)
}

func (c noLocalCollector) desc() *prometheus.Desc {
	return prometheus.NewDesc("kubeproxy_sync_proxy_rules_no_local_endpoints_total",
		"[ALPHA] Number of services with a Local traffic policy and no endpoints", []string{"traffic_policy", "ip_family"}, nil)
}

// Describe is prometheus.Collector's.
func (c noLocalCollector) Describe(to chan<- *prometheus.Desc) { to <- c.desc() }

// Collect is prometheus.Collector's.
func (c noLocalCollector) Collect(to chan<- prometheus.Metric) {
	for _, v6 := range []bool{false, true} {
		internal, external := c.count(v6)
		to <- prometheus.MustNewConstMetric(c.desc(), prometheus.GaugeValue, float64(internal), "internal", familyName(v6))
		to <- prometheus.MustNewConstMetric(c.desc(), prometheus.GaugeValue, float64(external), "external", familyName(v6))
	}
}

func seconds(t time.Time) float64 { return float64(t.UnixNano()) / float64(time.Second) }

// A trigger is when a change of endpoints began, as their controller says.
type trigger struct {
	at time.Time
	v6 bool
}

func (m *kubeProxyMetrics) programmed(triggers []trigger, now time.Time) {
	for _, t := range triggers {
		m.programming.WithLabelValues(familyName(t.v6)).Observe(now.Sub(t.at).Seconds())
	}
}

// Reconciled notes a look for datagrams' entries of conntrack whose endpoint is gone: it is a part of the take-over from
// kube-proxy. There is nothing else of ours in conntrack.
func (k *KubeProxy) Reconciled(v6 bool, took time.Duration, deleted int) {
	k.metrics.conntrack.WithLabelValues(familyName(v6)).Observe(took.Seconds())
	k.metrics.conntrackDeleted.WithLabelValues(familyName(v6)).Add(float64(deleted))
}

// triggered lists when the changes of endpoints began that a sync served and an earlier one did not. What began before
// this process, or stands in the slice since its last change, is not a delay of ours.
func triggered(before *cluster.Snapshot, s Sync, started time.Time) (out []trigger) {
	look := func(name cluster.Name) {
		var had []*cluster.EndpointSlice
		if before != nil {
			had = before.Slices(name)
		}
		for _, slice := range s.Change.Snapshot.Slices(name) {
			if !slice.Triggered.After(started) || slice.Headless || slices.Contains(had, slice) {
				continue
			}
			if v6, ok := familyOfSlice(slice, had); ok {
				out = append(out, trigger{slice.Triggered, v6})
			}
		}
	}
	eachTouched(s.Change, look)
	return out
}

// familyOfSlice tells the family of a slice's addresses; those of an empty one are of the family they were of.
func familyOfSlice(slice *cluster.EndpointSlice, had []*cluster.EndpointSlice) (v6, ok bool) {
	if i := slices.IndexFunc(had, func(h *cluster.EndpointSlice) bool { return h.Name == slice.Name }); i >= 0 && len(slice.Endpoints) == 0 {
		slice = had[i]
	}
	if len(slice.Endpoints) == 0 {
		return false, false
	}
	return slice.Endpoints[0].Addr.Is6(), true
}

// eachTouched calls look once for each Service of a Change: of a full one for all there are, and those it names that are gone.
func eachTouched(c cluster.Change, look func(cluster.Name)) {
	for _, name := range c.Services {
		if !c.Full || c.Snapshot.Service(name) == nil {
			look(name)
		}
	}
	if c.Full {
		for svc := range c.Snapshot.Services() {
			look(svc.Name)
		}
	}
}

// pendingChanges are objects that changed and are not served yet, by name.
type pendingChanges struct {
	services, endpoints map[cluster.Name]bool
}

func newPendingChanges() pendingChanges {
	return pendingChanges{map[cluster.Name]bool{}, map[cluster.Name]bool{}}
}

func (p pendingChanges) clear() {
	clear(p.services)
	clear(p.endpoints)
}

// add notes a change from one Snapshot to the next and returns how many Services and how many slices are in it.
func (p pendingChanges) add(before *cluster.Snapshot, c cluster.Change) (services, endpoints int) {
	look := func(name cluster.Name) {
		var svc *cluster.Service
		var had []*cluster.EndpointSlice
		if before != nil {
			svc, had = before.Service(name), before.Slices(name)
		}
		if c.Snapshot.Service(name) != svc {
			services++
			p.services[name] = true
		}
		if n := differences(had, c.Snapshot.Slices(name)); n > 0 {
			endpoints += n
			p.endpoints[name] = true
		}
	}
	eachTouched(c, look)
	return services, endpoints
}

// differences counts the slices that are in one list only, one that was replaced once.
func differences(before, after []*cluster.EndpointSlice) (n int) {
	names := map[cluster.Name]bool{}
	for _, s := range before {
		if !slices.Contains(after, s) {
			names[s.Name] = true
		}
	}
	for _, s := range after {
		if !slices.Contains(before, s) {
			names[s.Name] = true
		}
	}
	return len(names)
}
