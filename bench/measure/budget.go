package measure

import (
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"text/tabwriter"

	"sigs.k8s.io/yaml"
)

// A Budget is a promise about one figure of nearpath.
type Budget struct {
	What      string `json:"what"`
	Benchmark string `json:"benchmark"`
	Series    string `json:"series"`
	Metric    string `json:"metric"`
	// Statistic is p50, p95, p99 or worst.
	Statistic string `json:"statistic"`
	// AtMost or AtLeast is the budget, in the metric's unit.
	AtMost  *float64 `json:"atMost,omitempty"`
	AtLeast *float64 `json:"atLeast,omitempty"`
}

// ReadBudgets reads a file with a list of budgets.
func ReadBudgets(path string) ([]Budget, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var list []Budget
	if err := yaml.UnmarshalStrict(text, &list); err != nil {
		return nil, fmt.Errorf("read budgets from %s: %w", path, err)
	}
	for i, b := range list {
		if (b.AtMost == nil) == (b.AtLeast == nil) {
			return nil, fmt.Errorf("read budgets from %s: [%d] %q: set one of atMost and atLeast", path, i, b.What)
		}
		if _, ok := (Summary{}).statistic(b.Statistic); !ok {
			return nil, fmt.Errorf("read budgets from %s: [%d] %q: statistic is %q: use p50, p95, p99 or worst", path, i, b.What, b.Statistic)
		}
	}
	return list, nil
}

// BudgetsNameSeries says which budgets of a benchmark, in the file at path, are about figures that none of its series has: they would always
// be missed. Without any budget it is an error, too.
func BudgetsNameSeries(path, benchmark string, series []Series) error {
	list, err := ReadBudgets(path)
	if err != nil {
		return err
	}
	var errs []error
	some := false
	for _, b := range list {
		if b.Benchmark != benchmark {
			continue
		}
		some = true
		found := slices.ContainsFunc(series, func(s Series) bool {
			return s.Name == b.Series && slices.ContainsFunc(s.Metrics, func(m Metric) bool { return m.Name == b.Metric })
		})
		if !found {
			errs = append(errs, fmt.Errorf("budget %q is about %q of series %q, which does not exist", b.What, b.Metric, b.Series))
		}
	}
	if !some {
		errs = append(errs, fmt.Errorf("no budget is about %s", benchmark))
	}
	return errors.Join(errs...)
}

func (s Summary) statistic(name string) (value float64, ok bool) {
	switch name {
	case "p50":
		return s.P50, true
	case "p95":
		return s.P95, true
	case "p99":
		return s.P99, true
	case "worst":
		return s.Worst, true
	}
	return 0, false
}

// String is the budget's limit.
func (b Budget) String() string {
	sign, limit := "<=", b.AtMost
	if limit == nil {
		sign, limit = ">=", b.AtLeast
	}
	return fmt.Sprintf("%s %s %g", b.Statistic, sign, *limit)
}

// holds tells whether a figure keeps the budget.
func (b Budget) holds(figure float64) bool {
	if b.AtMost != nil {
		return figure <= *b.AtMost
	}
	return figure >= *b.AtLeast
}

// A Verdict is a budget beside what was measured.
type Verdict struct {
	Budget
	Figure float64
	Unit   string
	// Pass is false also when there is no figure; Why says why there is none that counts.
	Pass bool
	Why  string
}

// Judge finds the budget's figure in a result of its benchmark.
func (b Budget) Judge(r Result) Verdict {
	v := Verdict{Budget: b, Why: "not measured"}
	for _, s := range r.Series {
		for _, m := range s.Metrics {
			for _, c := range s.byRole(Subject) {
				if s.Name != b.Series || m.Name != b.Metric || len(c.Samples[m.Name]) == 0 {
					continue
				}
				v.Figure, _ = c.Summary(m).statistic(b.Statistic)
				v.Unit, v.Pass, v.Why = m.Unit, b.holds(v.Figure), ""
			}
		}
	}
	if v.Why == "" && len(r.Drifts()) > 0 {
		v.Pass, v.Why = false, "does not count: the floor drifted"
	}
	return v
}

// Check judges every budget by the newest results in dir, prints the verdicts and returns whether all pass.
func Check(w io.Writer, budgets []Budget, dir string) (bool, error) {
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "budget\tlimit\tfigure\tverdict\tmeasured")
	all := true
	for _, b := range budgets {
		r, err := Newest(dir, b.Benchmark)
		if err != nil && !errors.Is(err, ErrNoResult) {
			return false, err
		}
		v := b.Judge(r)
		all = all && v.Pass
		fmt.Fprintln(table, strings.Join(v.row(r), "\t"))
	}
	return all, table.Flush()
}

func (v Verdict) row(r Result) []string {
	if v.Why == "not measured" {
		return []string{v.What, v.String() + " " + v.Unit, "-", "miss: " + v.Why, "-"}
	}
	verdict := "pass"
	if !v.Pass {
		verdict = "miss"
	}
	if v.Why != "" {
		verdict += ": " + v.Why
	}
	when := r.Began.UTC().Format("2006-01-02 15:04 UTC")
	if r.Quick {
		when += ", quick"
	}
	return []string{v.What, v.String() + " " + v.Unit, Figure(v.Figure) + " " + v.Unit, verdict, when}
}
