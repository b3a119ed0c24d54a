package main

import (
	"errors"
	"io"
	"slices"
	"testing"

	"github.com/nearpath/nearpath/bench/measure"
)

// A budget that names what nobody measures would always be missed, and one for what is renamed would be forgotten.
func TestBudgetsNameBenchmarks(t *testing.T) {
	t.Parallel()
	budgets, err := measure.ReadBudgets("../../budgets.yaml")
	if err != nil {
		t.Fatal(err)
	}
	for _, b := range budgets {
		known := slices.ContainsFunc(benchmarks(), func(have measure.Benchmark) bool { return have.Name == b.Benchmark })
		if !known {
			t.Errorf("budget %q is of benchmark %q, which does not exist", b.What, b.Benchmark)
		}
	}
}

func TestUsage(t *testing.T) {
	t.Parallel()
	for _, args := range [][]string{nil, {"walk"}, {"run", "-bench", "nothing"}} {
		if err := run(t.Context(), args, io.Discard); !errors.Is(err, errUsage) {
			t.Errorf("%q: error is %v", args, err)
		}
	}
}
