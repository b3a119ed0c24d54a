package upstream

import (
	"errors"
	"net/netip"
	"strconv"
	"time"

	"github.com/miekg/dns"
	"github.com/prometheus/client_golang/prometheus"
)

// proxyName is what we are called in the metrics that CoreDNS has for `forward`.
const proxyName = "upstream"

// Metrics are those of all Upstreams of a process, across configurations. The ones of CoreDNS's own `forward` keep their
// names where they mean the same.
type Metrics struct {
	duration    *prometheus.HistogramVec // by proxy_name, to, rcode
	failures    *prometheus.CounterVec   // by proxy_name, to
	reused      *prometheus.CounterVec   // by proxy_name, to, proto
	made        *prometheus.CounterVec   // by proxy_name, to, proto
	broken      prometheus.Counter
	truncated   *prometheus.CounterVec // by to
	mismatched  *prometheus.CounterVec // by to
	connections *prometheus.GaugeVec   // by to
	looped      *prometheus.GaugeVec   // by to, zone
	coalesced   prometheus.Counter
	hedged      prometheus.Counter
	retried     prometheus.Counter
	dropped     prometheus.Counter
	failed      prometheus.Counter
	scrubbed    prometheus.Counter
	waiting     prometheus.Gauge
}

// NewMetrics registers the metrics, or takes those that another configuration, or `forward`, has registered.
func NewMetrics(r prometheus.Registerer) (*Metrics, error) {
	proxy := func(name, help string) prometheus.CounterOpts {
		return prometheus.CounterOpts{Namespace: "coredns", Subsystem: "proxy", Name: name, Help: help}
	}
	own := func(name, help string) prometheus.CounterOpts {
		return prometheus.CounterOpts{Namespace: "nearpath", Subsystem: "upstream", Name: name, Help: help}
	}
	byTo := []string{"to"}
	m := &Metrics{
		duration: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Namespace: "coredns", Subsystem: "proxy", Name: "request_duration_seconds",
			Buckets: prometheus.ExponentialBuckets(0.00025, 2, 16), NativeHistogramBucketFactor: 1.05,
			Help: "Histogram of the time each request took.",
		}, []string{"proxy_name", "to", "rcode"}),
		failures: prometheus.NewCounterVec(proxy("healthcheck_failures_total", "Counter of the number of failed healthchecks."),
			[]string{"proxy_name", "to"}),
		reused: prometheus.NewCounterVec(proxy("conn_cache_hits_total", "Counter of connection cache hits per upstream and protocol."),
			[]string{"proxy_name", "to", "proto"}),
		made: prometheus.NewCounterVec(proxy("conn_cache_misses_total", "Counter of connection cache misses per upstream and protocol."),
			[]string{"proxy_name", "to", "proto"}),
		broken: prometheus.NewCounter(prometheus.CounterOpts{
			Namespace: "coredns", Subsystem: "forward", Name: "healthcheck_broken_total",
			Help: "Counter of the number of complete failures of the healthchecks.",
		}),
		truncated:  prometheus.NewCounterVec(own("truncated_total", "Replies over UDP that were asked for again over TCP."), byTo),
		mismatched: prometheus.NewCounterVec(own("mismatched_total", "Messages that were not the reply to the question they came for."), byTo),
		connections: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Namespace: "nearpath", Subsystem: "upstream", Name: "connections", Help: "TCP connections that are open.",
		}, byTo),
		looped: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Namespace: "nearpath", Subsystem: "upstream", Name: "looped",
			Help: "1 for an upstream that leads back to this server, and is not asked therefore.",
		}, []string{"to", "zone"}),
		coalesced: prometheus.NewCounter(own("coalesced_total", "Questions answered with the reply to another one that was the same.")),
		hedged:    prometheus.NewCounter(own("hedged_total", "Questions asked once more as the reply was later than 95 of 100.")),
		retried:   prometheus.NewCounter(own("retried_total", "Questions asked once more as there was no good reply.")),
		dropped:   prometheus.NewCounter(own("dropped_total", "Questions dropped, the oldest first, as too many were in flight.")),
		failed:    prometheus.NewCounter(own("failed_total", "Questions without any reply.")),
		scrubbed:  prometheus.NewCounter(own("scrubbed_total", "Records removed from replies, as they do not belong to the question.")),
		waiting: prometheus.NewGauge(prometheus.GaugeOpts{
			Namespace: "nearpath", Subsystem: "upstream", Name: "in_flight", Help: "Different questions that wait for a reply.",
		}),
	}
	return m, m.register(r)
}

func (m *Metrics) register(r prometheus.Registerer) error {
	return errors.Join(
		register(r, &m.duration), register(r, &m.failures), register(r, &m.reused), register(r, &m.made), register(r, &m.broken),
		register(r, &m.truncated), register(r, &m.mismatched), register(r, &m.connections), register(r, &m.looped),
		register(r, &m.coalesced), register(r, &m.hedged), register(r, &m.retried), register(r, &m.dropped), register(r, &m.failed),
		register(r, &m.scrubbed), register(r, &m.waiting))
}

// register takes the collector that is there already, if one is.
func register[C prometheus.Collector](r prometheus.Registerer, c *C) error {
	err := r.Register(*c)
	var again prometheus.AlreadyRegisteredError
	if !errors.As(err, &again) {
		return err
	}
	have, ok := again.ExistingCollector.(C)
	if !ok {
		return err
	}
	*c = have
	return nil
}

// endpointMetrics are those of one endpoint.
type endpointMetrics struct {
	duration                        prometheus.ObserverVec // by rcode
	failures, truncated, mismatched prometheus.Counter
	connections                     prometheus.Gauge
	reused, made                    map[string]prometheus.Counter // by proto
}

func (m *Metrics) endpoint(addr netip.AddrPort) *endpointMetrics {
	to := addr.String()
	counters := func(v *prometheus.CounterVec) map[string]prometheus.Counter {
		return map[string]prometheus.Counter{
			"udp": v.WithLabelValues(proxyName, to, "udp"), "tcp": v.WithLabelValues(proxyName, to, "tcp"),
		}
	}
	return &endpointMetrics{
		duration: m.duration.MustCurryWith(prometheus.Labels{"proxy_name": proxyName, "to": to}),
		failures: m.failures.WithLabelValues(proxyName, to), truncated: m.truncated.WithLabelValues(to),
		mismatched: m.mismatched.WithLabelValues(to), connections: m.connections.WithLabelValues(to),
		reused: counters(m.reused), made: counters(m.made),
	}
}

func (m *endpointMetrics) took(rcode int, took time.Duration) {
	name, ok := dns.RcodeToString[rcode]
	if !ok {
		name = strconv.Itoa(rcode)
	}
	m.duration.WithLabelValues(name).Observe(took.Seconds())
}

func (m *endpointMetrics) connected(reused bool, proto string) {
	if reused {
		m.reused[proto].Inc()
	} else {
		m.made[proto].Inc()
	}
}
