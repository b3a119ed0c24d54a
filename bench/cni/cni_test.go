package cni

import (
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
	b := &bed{}
	series := []measure.Series{b.latency(true), b.throughput(true), startUp("/bin", "/bin", true)}
	if err := measure.BudgetsNameSeries("../budgets.yaml", Benchmark().Name, series); err != nil {
		t.Error(err)
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
