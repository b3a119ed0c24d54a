package nodelocaldns

import (
	"errors"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

type publishMetrics struct {
	failures    prometheus.Counter
	lost        prometheus.Gauge
	complete    prometheus.Gauge
	lastPublish prometheus.Gauge
	durations   prometheus.Histogram
}

func newPublishMetrics() publishMetrics {
	opts := func(name, help string) prometheus.Opts {
		return prometheus.Opts{Namespace: "nearpath", Subsystem: "nodelocaldns", Name: name, Help: help}
	}
	return publishMetrics{
		failures: prometheus.NewCounter(prometheus.CounterOpts(opts("publish_failures_total",
			"Failures to write the cluster's names to the kernel; userspace answers those it concerns."))),
		lost: prometheus.NewGauge(prometheus.GaugeOpts(opts("unpublished_owners",
			"Services, namespaces and addresses of whose names some could not be written to the kernel."))),
		complete: prometheus.NewGauge(prometheus.GaugeOpts(opts("zone_complete",
			"1 while the kernel denies names of the cluster's zone that do not exist."))),
		lastPublish: prometheus.NewGauge(prometheus.GaugeOpts(opts("last_publish_timestamp_seconds",
			"When the kernel's answers last agreed with the newest Snapshot, in seconds since 1970."))),
		durations: prometheus.NewHistogram(prometheus.HistogramOpts{
			Namespace: "nearpath", Subsystem: "nodelocaldns", Name: "publish_duration_seconds",
			Help: "Time to write a change of the cluster's names to the kernel.", Buckets: prometheus.ExponentialBuckets(0.00001, 4, 10),
		}),
	}
}

func (m *publishMetrics) register(r prometheus.Registerer) error {
	var errs []error
	for _, c := range []prometheus.Collector{m.failures, m.lost, m.complete, m.lastPublish, m.durations} {
		errs = append(errs, r.Register(c))
	}
	return errors.Join(errs...)
}

// published notes a try.
func (m *publishMetrics) published(started time.Time, lost int, complete bool) {
	m.durations.Observe(time.Since(started).Seconds())
	m.lost.Set(float64(lost))
	m.complete.Set(0)
	if complete {
		m.complete.Set(1)
	}
	if lost == 0 {
		m.lastPublish.SetToCurrentTime()
	}
}
