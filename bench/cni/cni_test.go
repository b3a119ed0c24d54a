package cni

import (
	"slices"
	"testing"

	"github.com/nearpath/nearpath/bench/measure"
)

func TestPluginCheck(t *testing.T) {
	t.Parallel()
	for output, want := range map[string]bool{
		`{"ips": [{"address": "10.0.64.2/32"}]}`: true,
		`{"ips": []}`:                            false,
		`{"ips": [{}]}`:                          false,
		``:                                       false,
	} {
		if err := nearpath("/bin").check(output); (err == nil) != want {
			t.Errorf("%q: error is %v", output, err)
		}
	}
}

// The budgets of CNI are about metrics that its series have.
func TestBudgets(t *testing.T) {
	t.Parallel()
	budgets, err := measure.ReadBudgets("../budgets.yaml")
	if err != nil {
		t.Fatal(err)
	}
	b := &bed{}
	series := []measure.Series{b.latency(true), b.throughput(true), startUp("/bin", "/bin", true)}
	for _, budget := range budgets {
		if budget.Benchmark != Benchmark().Name {
			continue
		}
		found := slices.ContainsFunc(series, func(s measure.Series) bool {
			return s.Name == budget.Series && slices.ContainsFunc(s.Metrics, func(m measure.Metric) bool { return m.Name == budget.Metric })
		})
		if !found {
			t.Errorf("budget %q is about %q of series %q, which does not exist", budget.What, budget.Metric, budget.Series)
		}
	}
}

// Every sample has to find its metric.
func TestCallsAreCountedWhereThereIsACloud(t *testing.T) {
	t.Parallel()
	for role, want := range map[measure.Role]bool{measure.Subject: true, measure.Peer: false, measure.Floor: false} {
		got := (&bed{}).withCalls(measure.Samples{}, contender{role: role}, 3)
		if _, ok := got["calls"]; ok != want {
			t.Errorf("%s: samples are %v", role, got)
		}
	}
}
