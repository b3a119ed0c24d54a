package preflight

import (
	"errors"
	"fmt"

	"github.com/prometheus/client_golang/prometheus"
)

type metrics struct {
	finding, egress *prometheus.GaugeVec
	failures        prometheus.Counter
	lastSuccess     prometheus.Gauge

	// shown are the series of finding; those that are no longer found stay at 0, so that their end is seen.
	shown map[findingKey]bool
}

func newMetrics() metrics {
	return metrics{
		shown: map[findingKey]bool{},
		finding: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "nearpath_preflight_finding",
			Help: "1 while the check finds an error or a warning on the object, 0 afterwards; what is unknown is 0.",
		}, []string{"check", "object"}),
		egress: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "nearpath_egress_ready",
			Help: "Whether packets of pods with addresses of the vSwitch find a way out of the VPC; absent while unknown.",
		}, []string{"vswitch"}),
		failures: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "nearpath_preflight_failures_total",
			Help: "Checks of the network that were not made because the cloud did not answer.",
		}),
		lastSuccess: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "nearpath_preflight_last_success_timestamp_seconds",
			Help: "When the network was last checked, in seconds since 1970; 0 for never.",
		}),
	}
}

func (m *metrics) register(r prometheus.Registerer) error {
	var errs []error
	for _, c := range []prometheus.Collector{m.finding, m.egress, m.failures, m.lastSuccess} {
		errs = append(errs, r.Register(c))
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("register metrics of the network checks: %w", err)
	}
	return nil
}

// show is called by one goroutine only.
func (m *metrics) show(findings []Finding) {
	now := map[findingKey]Finding{}
	for _, f := range findings {
		now[f.key()] = f
		m.shown[f.key()] = true
	}
	for k := range m.shown {
		f, found := now[k]
		m.finding.WithLabelValues(k.check, k.object).Set(number(f.problem()))
		switch {
		case k.check != CheckEgress:
		case found && f.Severity != Unknown:
			m.egress.WithLabelValues(k.object).Set(number(f.Severity == OK))
		default:
			m.egress.DeleteLabelValues(k.object)
		}
	}
	m.lastSuccess.SetToCurrentTime()
}

func number(b bool) float64 {
	if b {
		return 1
	}
	return 0
}
