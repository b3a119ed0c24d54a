package ipam

import (
	"errors"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/nearpath/nearpath/internal/aliyun"
)

// metrics are those that count events; what is there is collected from the pool at each scrape.
type metrics struct {
	allocations *prometheus.CounterVec
	seconds     *prometheus.HistogramVec
	refusals    *prometheus.CounterVec
	overdue     prometheus.Counter
}

func newMetrics() *metrics {
	return &metrics{
		allocations: prometheus.NewCounterVec(prometheus.CounterOpts{
			Namespace: "nearpath", Subsystem: "pool", Name: "allocations_total",
			Help: "Requests for a lease, by kind (shared, exclusive) and outcome (ok, exhausted, error).",
		}, []string{"kind", "outcome"}),
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Namespace: "nearpath", Subsystem: "pool", Name: "allocate_duration_seconds",
			Help: "Time that a request for a lease took, the wait for the cloud included.", Buckets: prometheus.ExponentialBuckets(0.0005, 4, 10),
		}, []string{"kind"}),
		refusals: prometheus.NewCounterVec(prometheus.CounterOpts{
			Namespace: "nearpath", Subsystem: "pool", Name: "cloud_errors_total",
			Help: "Cloud calls of the pool that failed, by class of the error.",
		}, []string{"class"}),
		overdue: prometheus.NewCounter(prometheus.CounterOpts{
			Namespace: "nearpath", Subsystem: "pool", Name: "overdue_addresses_total",
			Help: "Addresses that were made available though a Service or a socket on the node had not let go of them for 5 minutes.",
		}),
	}
}

func (m *metrics) register(r prometheus.Registerer, p *Pool) error {
	var errs []error
	for _, c := range []prometheus.Collector{m.allocations, m.seconds, m.refusals, m.overdue, newPoolCollector(p)} {
		errs = append(errs, r.Register(c))
	}
	return errors.Join(errs...)
}

func (m *metrics) allocated(r Request, took time.Duration, err error) {
	kind, outcome := "shared", "ok"
	if r.Exclusive {
		kind = "exclusive"
	}
	switch {
	case errors.Is(err, ErrExhausted):
		outcome = "exhausted"
	case err != nil:
		outcome = "error"
	}
	m.allocations.WithLabelValues(kind, outcome).Inc()
	m.seconds.WithLabelValues(kind).Observe(took.Seconds())
}

// refused counts an error if it is the cloud's.
func (m *metrics) refused(err error) {
	for _, class := range []struct {
		err  error
		name string
	}{
		{aliyun.ErrThrottled, "throttled"},
		{aliyun.ErrVSwitchFull, "vswitch_full"},
		{aliyun.ErrQuota, "quota"},
		{aliyun.ErrForbidden, "forbidden"},
		{aliyun.ErrConflict, "conflict"},
		{aliyun.ErrNotFound, "not_found"},
		{aliyun.ErrUnavailable, "unavailable"},
	} {
		if errors.Is(err, class.err) {
			m.refusals.WithLabelValues(class.name).Inc()
			return
		}
	}
	if _, ok := errors.AsType[*aliyun.APIError](err); ok {
		m.refusals.WithLabelValues("other").Inc()
	}
}

// A poolCollector shows what the pool has at the moment of the scrape.
type poolCollector struct {
	pool                                *Pool
	addresses, enis, capacity, breakers *prometheus.Desc
	unsettled                           *prometheus.Desc
}

func newPoolCollector(p *Pool) *poolCollector {
	desc := func(name, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc("nearpath_pool_"+name, help, labels, nil)
	}
	return &poolCollector{
		pool:      p,
		addresses: desc("addresses", "Addresses of both kinds of ENI and both families, by state in the journal.", "state"),
		enis:      desc("enis", "ENIs, by state in the journal.", "state"),
		capacity:  desc("capacity", "Pods that fit on the node if all are of the kind.", "kind"),
		breakers:  desc("vswitch_breaker_state", "0: addresses are asked of the vSwitch, 1: one as a trial, 2: none, because it was full.", "vswitch"),
		unsettled: desc("unsettled_addresses", "Addresses that are not available after their cooldown because a Service or a socket on the node still has them."),
	}
}

// Describe is for prometheus.Collector.
func (c *poolCollector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{c.addresses, c.enis, c.capacity, c.breakers, c.unsettled} {
		ch <- d
	}
}

// Collect is for prometheus.Collector. It takes the pool's lock once for each metric.
func (c *poolCollector) Collect(ch chan<- prometheus.Metric) {
	gauge := func(d *prometheus.Desc, value int, label string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, float64(value), label)
	}
	addresses, enis := c.pool.states()
	for state, n := range addresses {
		gauge(c.addresses, n, string(state))
	}
	for state, n := range enis {
		gauge(c.enis, n, string(state))
	}
	capacity := c.pool.Capacity()
	gauge(c.capacity, capacity.Shared, "shared")
	gauge(c.capacity, capacity.Exclusive, "exclusive")
	ch <- prometheus.MustNewConstMetric(c.unsettled, prometheus.GaugeValue, float64(c.pool.countUnsettled()))
	for _, v := range c.pool.VSwitches() {
		gauge(c.breakers, map[BreakerState]int{BreakerClosed: 0, BreakerHalfOpen: 1, BreakerOpen: 2}[v.Breaker], v.ID)
	}
}

func (p *Pool) countUnsettled() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.unsettled
}

// noteUnsettled runs under the lock.
func (p *Pool) noteUnsettled(over expiry) {
	p.unsettled = over.unsettled
	for _, a := range over.overdue {
		p.metrics.overdue.Inc()
		p.log.Warn("address is available again though a Service or a socket on the node still has it", "address", a, "waited", settleLimit)
	}
}

// states counts records; every state is there, so that a series does not end when it is 0.
func (p *Pool) states() (addresses map[addressState]int, enis map[ENIState]int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	addresses, enis = map[addressState]int{}, map[ENIState]int{}
	for state := range addressMoves {
		addresses[state] = 0
	}
	for state := range eniMoves {
		enis[state] = 0
	}
	for _, a := range p.ledger.addrs {
		addresses[a.State]++
	}
	for _, e := range p.ledger.enis {
		enis[e.State]++
	}
	return addresses, enis
}
