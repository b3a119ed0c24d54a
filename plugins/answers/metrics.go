package answers

import (
	"errors"

	"github.com/coredns/coredns/plugin"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/nearpath/nearpath/nodelocaldns"
)

// A collector reads the counters of an External when they are asked for.
type collector struct {
	external *nodelocaldns.External
	counts   func() nodelocaldns.ExternalCounts

	held, stale, published, refreshes, removed, kept, failures *prometheus.Desc
}

func newCollector(e *nodelocaldns.External) *collector {
	desc := func(metric, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc(prometheus.BuildFQName(plugin.Namespace, name, metric), help, labels, nil)
	}
	return &collector{
		external: e, counts: e.Counts,
		held:      desc("entries", "Answers of userspace that the kernel holds.", "for"),
		stale:     desc("stale_entries", "Of these, stale ones."),
		published: desc("published_total", "Counter of answers published when a name was asked for again."),
		refreshes: desc("refreshes_total", "Counter of answers fetched before their end.", "result"),
		removed:   desc("removed_total", "Counter of answers removed, by why.", "reason"),
		kept:      desc("kept_total", "Counter of answers that are not for the kernel, by why.", "reason"),
		failures:  desc("write_failures_total", "Counter of answers that the kernel's map did not take.", "reason"),
	}
}

// Describe implements prometheus.Collector.
func (c *collector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{c.held, c.stale, c.published, c.refreshes, c.removed, c.kept, c.failures} {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (c *collector) Collect(ch chan<- prometheus.Metric) {
	n := c.counts()
	gauge := func(d *prometheus.Desc, v int, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, float64(v), labels...)
	}
	counter := func(d *prometheus.Desc, v uint64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(v), labels...)
	}
	gauge(c.held, n.Held-n.Scoped, "all")
	gauge(c.held, n.Scoped, "scope")
	gauge(c.stale, n.Stale)
	counter(c.published, n.Published)
	counter(c.refreshes, n.Refreshed, "fresh")
	counter(c.refreshes, n.RefreshFailed, "failed")
	counter(c.removed, n.Ended, "ended")
	counter(c.removed, n.Colder, "colder")
	counter(c.removed, n.Forgotten, "forgotten")
	for reason, v := range n.Unfit {
		if unfit := nodelocaldns.Unfit(reason); unfit != nodelocaldns.Fits {
			counter(c.kept, v, unfit.String())
		}
	}
	counter(c.failures, n.Full, "full")
	counter(c.failures, n.Failed, "error")
}

// register is called for each server block and configuration; a program has one External at a time.
func register(r prometheus.Registerer, e *nodelocaldns.External) error {
	c := newCollector(e)
	err := r.Register(c)
	var again prometheus.AlreadyRegisteredError
	if !errors.As(err, &again) {
		return err
	}
	if have, ok := again.ExistingCollector.(*collector); ok && have.external == e {
		return nil
	}
	r.Unregister(again.ExistingCollector)
	return r.Register(c)
}
