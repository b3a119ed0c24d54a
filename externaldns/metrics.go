package externaldns

import (
	"context"
	"errors"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/nearpath/nearpath/internal/aliyun"
)

type metrics struct {
	calls     *prometheus.CounterVec
	listings  *prometheus.CounterVec
	reported  *prometheus.CounterVec
	published prometheus.Histogram
}

func newMetrics() *metrics {
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: "nearpath", Subsystem: "externaldns", Name: name, Help: help}, labels)
	}
	return &metrics{
		calls:    counter("calls_total", "Calls for single names, by kind and class of the outcome.", "call", "outcome"),
		listings: counter("listings_total", "Listings of zones, by outcome; drift: the zone changed meanwhile.", "outcome"),
		reported: counter("problems_total", "Problems that came up, by reason.", "reason"),
		published: prometheus.NewHistogram(prometheus.HistogramOpts{
			Namespace: "nearpath", Subsystem: "externaldns", Name: "publish_duration_seconds",
			Help: "Time from a change of what is wanted to the zone having it.", Buckets: prometheus.ExponentialBuckets(0.05, 2, 14),
		}),
	}
}

func (m *metrics) register(r prometheus.Registerer, s *Syncer) error {
	if r == nil {
		return nil
	}
	var errs []error
	for _, c := range []prometheus.Collector{m.calls, m.listings, m.reported, m.published, newStateCollector(s)} {
		errs = append(errs, r.Register(c))
	}
	return errors.Join(errs...)
}

func (m *metrics) call(c call, err error) {
	name := "find"
	if c.class != classFind {
		name = c.op.Verb.String()
	}
	m.calls.WithLabelValues(name, outcomeOf(err)).Inc()
}

func (m *metrics) listed(err error) { m.listings.WithLabelValues(outcomeOf(err)).Inc() }

func (m *metrics) problem(reason string) { m.reported.WithLabelValues(reason).Inc() }

// outcomeOf names the class of an error, from a closed set.
func outcomeOf(err error) string {
	if err == nil {
		return "ok"
	}
	for _, c := range []struct {
		class error
		name  string
	}{
		{errDrift, "drift"}, {errDryRun, "dry_run"}, {aliyun.ErrRecordConflict, "conflict"}, {aliyun.ErrInvalidRecord, "invalid"},
		{aliyun.ErrZoneGone, "zone_gone"}, {aliyun.ErrThrottled, "throttled"}, {aliyun.ErrForbidden, "forbidden"},
		{aliyun.ErrNotFound, "not_found"}, {aliyun.ErrQuota, "quota"}, {aliyun.ErrUnavailable, "unavailable"}, {context.Canceled, "canceled"},
	} {
		if errors.Is(err, c.class) {
			return c.name
		}
	}
	return "error"
}

// A stateCollector reads the Syncer's state when it is asked.
type stateCollector struct {
	syncer                                              *Syncer
	records, pending, held, problems, holds, leadership *prometheus.Desc
}

func newStateCollector(s *Syncer) *stateCollector {
	desc := func(name, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc("nearpath_externaldns_"+name, help, labels, nil)
	}
	return &stateCollector{
		syncer:     s,
		records:    desc("records", "Records in the zones in scope, by whose they are.", "owner"),
		pending:    desc("pending_names", "Names with something to do, by lane.", "lane"),
		held:       desc("held_deletes", "Deletes that the mass-delete guard holds."),
		holds:      desc("held_zones", "Zones in which the mass-delete guard holds deletes."),
		problems:   desc("problems", "Problems there are now, by reason.", "reason"),
		leadership: desc("leading", "1 if this replica leads."),
	}
}

// Describe implements prometheus.Collector.
func (c *stateCollector) Describe(descs chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{c.records, c.pending, c.held, c.holds, c.problems, c.leadership} {
		descs <- d
	}
}

// Collect implements prometheus.Collector.
func (c *stateCollector) Collect(out chan<- prometheus.Metric) {
	gauge := func(d *prometheus.Desc, n int, labels ...string) {
		out <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, float64(n), labels...)
	}
	st := c.syncer.Status()
	all, owned, held := 0, 0, 0
	for _, z := range st.Zones {
		all, owned = all+z.Records, owned+z.Owned
	}
	for _, h := range st.Holds {
		held += h.Pending
	}
	gauge(c.records, owned, "ours")
	gauge(c.records, all-owned, "others")
	for l, n := range st.Pending {
		gauge(c.pending, n, lane(l).String())
	}
	gauge(c.held, held)
	gauge(c.holds, len(st.Holds))
	reasons := map[string]int{}
	for _, p := range st.Problems {
		reasons[p.Reason]++
	}
	for reason, n := range reasons {
		gauge(c.problems, n, reason)
	}
	leading := 0
	if st.Leading {
		leading = 1
	}
	gauge(c.leadership, leading)
}
