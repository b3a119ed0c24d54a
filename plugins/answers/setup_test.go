package answers

import (
	"slices"
	"strings"
	"testing"

	"github.com/coredns/caddy"
	"github.com/coredns/coredns/core/dnsserver"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/nearpath/nearpath/nodelocaldns"
)

func TestParse(t *testing.T) {
	t.Parallel()
	for corefile, ok := range map[string]bool{
		"answers": true, "answers now": false, "answers {\n ttl 5\n}": false, "answers\nanswers": false,
	} {
		if err := parse(caddy.NewTestController("dns", corefile)); (err == nil) != ok {
			t.Errorf("%q: %v", corefile, err)
		}
	}
}

// What the kernel gives is what the client gets, so nothing that changes an answer may stand before.
func TestPlaceInTheChain(t *testing.T) {
	t.Parallel()
	at := func(directive string) int { return slices.Index(dnsserver.Directives, directive) }
	for _, later := range []string{"dns64", "loadbalance", "rewrite", "autopath", "nearpath", "cache", "template", "hosts", "forward"} {
		if at("answers") < 0 || at("answers") > at(later) {
			t.Errorf("answers is at %d, %s at %d", at("answers"), later, at(later))
		}
	}
}

func TestMetrics(t *testing.T) {
	t.Parallel()
	r := prometheus.NewRegistry()
	external := nodelocaldns.NewExternal(nodelocaldns.ExternalConfig{})
	for range 2 { // two server blocks
		if err := register(r, external); err != nil {
			t.Fatal(err)
		}
	}
	c := newCollector(external)
	c.counts = func() nodelocaldns.ExternalCounts {
		n := nodelocaldns.ExternalCounts{Held: 9, Scoped: 2, Stale: 1, Published: 20, Refreshed: 30, RefreshFailed: 4, Ended: 5, Colder: 6, Forgotten: 7, Full: 8, Failed: 3}
		n.Unfit[nodelocaldns.UnfitSize] = 10
		return n
	}
	got := gather(t, c)
	for metric, want := range map[string]float64{
		"coredns_answers_entries all": 7, "coredns_answers_entries scope": 2, "coredns_answers_stale_entries": 1,
		"coredns_answers_published_total": 20, "coredns_answers_refreshes_total fresh": 30,
		"coredns_answers_refreshes_total failed": 4, "coredns_answers_removed_total colder": 6,
		"coredns_answers_kept_total size": 10, "coredns_answers_kept_total truncated": 0,
		"coredns_answers_write_failures_total full": 8,
	} {
		if value, ok := got[metric]; !ok || value != want {
			t.Errorf("%s is %v, %t; want %v", metric, value, ok, want)
		}
	}
	next := nodelocaldns.NewExternal(nodelocaldns.ExternalConfig{})
	if err := register(r, next); err != nil {
		t.Fatal(err)
	}
	families, err := r.Gather()
	if err != nil || len(families) != 7 {
		t.Errorf("%d families, %v", len(families), err)
	}
}

// gather returns the values of a collector by metric and label value.
func gather(t *testing.T, c prometheus.Collector) map[string]float64 {
	t.Helper()
	r := prometheus.NewPedanticRegistry()
	r.MustRegister(c)
	families, err := r.Gather()
	if err != nil {
		t.Fatal(err)
	}
	values := map[string]float64{}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			name := []string{f.GetName()}
			for _, l := range m.GetLabel() {
				name = append(name, l.GetValue())
			}
			values[strings.Join(name, " ")] = m.GetCounter().GetValue() + m.GetGauge().GetValue()
		}
	}
	return values
}
