package shaping

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/nearpath/nearpath/bench/measure"
)

// Every sample has to find its metric, and every budget a series.
func TestSamples(t *testing.T) {
	t.Parallel()
	got := measure.Samples{}
	transferred{bytes: []int64{1_250_000, 1_187_500, 1_350_000}, took: []time.Duration{time.Second, time.Second, time.Second}, again: 0.5}.add(got, "in", 10_000_000)
	want := measure.Samples{"in first": {100}, "in later": {95, 108}, "in over": {0, 0, 1}, "in again": {0.5}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	metrics := map[string]bool{}
	for _, m := range (&bed{}).series("", true).Metrics {
		metrics[m.Name] = true
	}
	for name := range got {
		if !metrics[name] || !metrics["out"+name[2:]] {
			t.Errorf("no metric %q", name)
		}
	}
	budgets, err := measure.ReadBudgets("../budgets.yaml")
	if err != nil {
		t.Fatal(err)
	}
	series := map[string]bool{}
	for _, r := range rates {
		series["veth, "+r.name], series["exclusive, "+r.name] = true, true
	}
	for _, b := range budgets {
		if b.Benchmark == Benchmark().Name && (!metrics[b.Metric] || !series[b.Series]) {
			t.Errorf("budget %q is about %q of series %q, which does not exist", b.What, b.Metric, b.Series)
		}
	}
}
