package main

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// policyMetrics are those of policySync.
type policyMetrics struct {
	syncs      *prometheus.CounterVec
	took, late prometheus.Histogram
	good       prometheus.Gauge
	refused    prometheus.Gauge
}

func newPolicyMetrics(r prometheus.Registerer) *policyMetrics {
	m := &policyMetrics{
		syncs: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "nearpath_policy_syncs_total", Help: "Tries to bring the kernel's policies to a state of the cluster.",
		}, []string{"result"}),
		took: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "nearpath_policy_sync_duration_seconds", Help: "Time that such a try took.", Buckets: prometheus.ExponentialBuckets(0.0001, 4, 9),
		}),
		late: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name:    "nearpath_policy_programming_duration_seconds",
			Help:    "Time from when the agent heard of a change of the cluster to when the kernel enforced it.",
			Buckets: prometheus.ExponentialBuckets(0.001, 2, 14),
		}),
		good: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "nearpath_policy_good", Help: "1 when the kernel enforces the policies as they are, 0 when it enforces earlier ones because these were refused or could not be written.",
		}),
	}
	m.refused = prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "nearpath_policy_refused", Help: "Policies that the kernel's tables have no room for as they are.",
	})
	for _, result := range []string{"success", "failure"} {
		m.syncs.WithLabelValues(result)
	}
	r.MustRegister(m.syncs, m.took, m.late, m.good, m.refused)
	return m
}

// synced counts a try that began at a time, for a change that was heard of at another; the zero time: for none.
func (m *policyMetrics) synced(began, heard time.Time, err error) {
	m.took.Observe(time.Since(began).Seconds())
	if err != nil {
		m.syncs.WithLabelValues("failure").Inc()
		m.good.Set(0)
		return
	}
	m.syncs.WithLabelValues("success").Inc()
	m.good.Set(1)
	if !heard.IsZero() {
		m.late.Observe(time.Since(heard).Seconds())
	}
}
