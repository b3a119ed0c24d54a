package autopath

import (
	"context"
	"errors"

	"github.com/coredns/coredns/plugin"
	"github.com/coredns/coredns/plugin/metrics"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/nearpath/nearpath/autopath"
)

// counters are the metrics of the plugin, one set for all server blocks and across reloads.
type counters struct {
	success  *prometheus.CounterVec // by server
	searches *prometheus.CounterVec // by server, outcome
	passed   *prometheus.CounterVec // by server, reason
	pods     *prometheus.GaugeVec   // by domain
}

func newCounters(r prometheus.Registerer) (*counters, error) {
	counter := func(metric, help string, labels ...string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(
			prometheus.CounterOpts{Namespace: plugin.Namespace, Subsystem: name, Name: metric, Help: help}, labels)
	}
	c := &counters{
		success:  counter("success_total", "Counter of requests that did autopath.", "server"),
		searches: counter("searches_total", "Counter of searches made for clients, by how they ended.", "server", "outcome"),
		passed:   counter("passed_total", "Counter of questions answered as they were asked, by why.", "server", "reason"),
		pods: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Namespace: plugin.Namespace, Subsystem: name, Name: "indexed_pods",
			Help: "Number of pods whose search is known.",
		}, []string{"domain"}),
	}
	return c, errors.Join(register(r, &c.success), register(r, &c.searches), register(r, &c.passed), register(r, &c.pods))
}

// register takes the collector of an earlier server block or configuration where there is one.
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

func (c *counters) observe(ctx context.Context, e autopath.Event) {
	server := metrics.WithServer(ctx)
	if e.Reason != autopath.NoReason {
		c.passed.WithLabelValues(server, e.Reason.String()).Inc()
		return
	}
	c.searches.WithLabelValues(server, e.Outcome.String()).Inc()
	if e.Elsewhere {
		c.success.WithLabelValues(server).Inc()
	}
}
