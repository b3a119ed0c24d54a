package dns

import (
	"slices"
	"testing"

	"github.com/nearpath/nearpath/bench/measure"
)

// The budgets of DNS are about metrics that its series have.
func TestBudgets(t *testing.T) {
	t.Parallel()
	budgets, err := measure.ReadBudgets("../budgets.yaml")
	if err != nil {
		t.Fatal(err)
	}
	series, some := (&bed{}).all(), false
	for _, budget := range budgets {
		if budget.Benchmark != Benchmark().Name {
			continue
		}
		some = true
		found := slices.ContainsFunc(series, func(s measure.Series) bool {
			return s.Name == budget.Series && slices.ContainsFunc(s.Metrics, func(m measure.Metric) bool { return m.Name == budget.Metric })
		})
		if !found {
			t.Errorf("budget %q is about %q of series %q, which does not exist", budget.What, budget.Metric, budget.Series)
		}
	}
	if !some {
		t.Error("no budget is about DNS")
	}
}
