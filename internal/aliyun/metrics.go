package aliyun

import (
	"context"
	"errors"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

type metrics struct {
	calls   *prometheus.CounterVec
	seconds *prometheus.HistogramVec
	waited  *prometheus.HistogramVec
	limits  limitCollector
}

func newMetrics(l *limiter) *metrics {
	return &metrics{
		calls: prometheus.NewCounterVec(prometheus.CounterOpts{
			Namespace: "nearpath", Subsystem: "aliyun", Name: "calls_total",
			Help: "Calls of the cloud's APIs, repetitions included, by action and class of the outcome.",
		}, []string{"action", "outcome"}),
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Namespace: "nearpath", Subsystem: "aliyun", Name: "call_duration_seconds",
			Help: "Time from sending a call to having its answer.", Buckets: prometheus.ExponentialBuckets(0.02, 2, 11),
		}, []string{"action"}),
		waited: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Namespace: "nearpath", Subsystem: "aliyun", Name: "wait_duration_seconds",
			Help: "Time a call waited for the budget of its action.", Buckets: []float64{0.001, 0.1, 1, 2, 5, 10, 30, 60, 120},
		}, []string{"action"}),
		limits: limitCollector{l, prometheus.NewDesc("nearpath_aliyun_limit_calls_per_minute",
			"Calls per minute that an action may make now; it falls when the cloud throttles.", []string{"action"}, nil)},
	}
}

func (m *metrics) register(r prometheus.Registerer) error {
	if r == nil {
		return nil
	}
	var errs []error
	for _, c := range []prometheus.Collector{m.calls, m.seconds, m.waited, m.limits} {
		errs = append(errs, r.Register(c))
	}
	return errors.Join(errs...)
}

func (m *metrics) called(action string, took time.Duration, err error) {
	m.calls.WithLabelValues(action, outcome(err)).Inc()
	m.seconds.WithLabelValues(action).Observe(took.Seconds())
}

// outcome names the class of an error, from a closed set.
func outcome(err error) string {
	if err == nil {
		return "ok"
	}
	for _, c := range []struct {
		class error
		name  string
	}{
		{ErrThrottled, "throttled"}, {ErrNotFound, "not_found"}, {ErrVSwitchFull, "vswitch_full"}, {ErrQuota, "quota"},
		{ErrForbidden, "forbidden"}, {ErrConflict, "conflict"}, {ErrUnavailable, "unavailable"},
		{ErrRecordConflict, "record_conflict"}, {ErrInvalidRecord, "invalid_record"}, {ErrZoneGone, "zone_gone"},
		{context.Canceled, "canceled"}, {context.DeadlineExceeded, "canceled"},
	} {
		if errors.Is(err, c.class) {
			return c.name
		}
	}
	return "error"
}

// A limitCollector reads the limits when it is asked: they change with time alone.
type limitCollector struct {
	limits *limiter
	desc   *prometheus.Desc
}

// Describe implements prometheus.Collector.
func (c limitCollector) Describe(descs chan<- *prometheus.Desc) { descs <- c.desc }

// Collect implements prometheus.Collector.
func (c limitCollector) Collect(metrics chan<- prometheus.Metric) {
	for action, n := range c.limits.present() {
		metrics <- prometheus.MustNewConstMetric(c.desc, prometheus.GaugeValue, n, action)
	}
}
