package service

import (
	"errors"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

type metrics struct {
	frontends, records, refused prometheus.Gauge
	syncs                       *prometheus.HistogramVec
	lastSuccess                 prometheus.Gauge
}

func newMetrics() metrics {
	gauge := func(name, help string) prometheus.Gauge {
		return prometheus.NewGauge(prometheus.GaugeOpts{Namespace: "nearpath", Subsystem: "service", Name: name, Help: help})
	}
	return metrics{
		frontends:   gauge("frontends", "Frontends (address, port, protocol) in the kernel."),
		records:     gauge("records", "Service ports, per address family, and host ports that have a record in the kernel."),
		refused:     gauge("refused_ports", "Ports that could not be served at the last change, for lack of room or because another one has their address."),
		lastSuccess: gauge("last_sync_timestamp_seconds", "When the kernel last agreed with the newest Snapshot, in seconds since 1970."),
		syncs: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Namespace: "nearpath", Subsystem: "service", Name: "sync_duration_seconds",
			Help: "Time from a change to the kernel having it, without waiting for informers.", Buckets: prometheus.ExponentialBuckets(0.0001, 4, 9),
		}, []string{"result"}),
	}
}

func (m *metrics) register(r prometheus.Registerer) error {
	var errs []error
	for _, c := range []prometheus.Collector{m.frontends, m.records, m.refused, m.lastSuccess, m.syncs} {
		errs = append(errs, r.Register(c))
	}
	return errors.Join(errs...)
}

// observe notes a sync. A conflict is no error: the kernel has what the Snapshot means.
func (m *metrics) observe(started time.Time, t *table, o outcome) {
	result := "ok"
	if o.failure() != nil {
		result = "error"
	}
	m.syncs.WithLabelValues(result).Observe(time.Since(started).Seconds())
	m.refused.Set(float64(len(o.conflicts) + len(o.full)))
	m.count(t)
	if result == "ok" {
		m.lastSuccess.SetToCurrentTime()
	}
}

// count notes how much there is; a nil table is unknown.
func (m *metrics) count(t *table) {
	if t == nil {
		return
	}
	m.frontends.Set(float64(len(t.frontends)))
	m.records.Set(float64(len(t.records)))
}
