package dns

import (
	"testing"

	"github.com/nearpath/nearpath/bench/measure"
)

// The budgets of DNS are about metrics that its series have.
func TestBudgets(t *testing.T) {
	t.Parallel()
	series := (&bed{}).all()
	if err := measure.BudgetsNameSeries("../budgets.yaml", Benchmark().Name, series); err != nil {
		t.Error(err)
	}
}
