package measure

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

var speed = Metric{Name: "speed", What: "speed", Unit: "ms"}

// fake is a benchmark whose cases write down when they are run.
func fake(log *[]string, closed *int, fail string) Benchmark {
	round := func(name string, role Role) Case {
		return Case{Name: name, Role: role, Round: func(context.Context) (Samples, error) {
			*log = append(*log, name)
			if name == fail {
				return nil, errors.New("it broke")
			}
			return Samples{"speed": {float64(len(*log))}}, nil
		}}
	}
	return Benchmark{Name: "fake", What: "nothing", Setup: func(context.Context, Env) (*Bed, error) {
		return &Bed{
			Series: []Series{{
				Name: "s", Rounds: 2, Unmeasured: 1, Metrics: []Metric{speed},
				Cases: []Case{round("a", Subject), round("b", Peer), round("c", Floor)},
				After: func(context.Context) error { *log = append(*log, "after"); return nil },
			}},
			Close: func() error { *closed++; return nil },
		}, nil
	}}
}

func TestRunInterleaves(t *testing.T) {
	t.Parallel()
	var log []string
	closed := 0
	r, err := Run(t.Context(), fake(&log, &closed, ""), Env{Progress: io.Discard})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff("a b c after b c a after c a b after", strings.Join(log, " ")); diff != "" {
		t.Error(diff)
	}
	if closed != 1 {
		t.Errorf("closed %d times", closed)
	}
	want := []CaseResult{
		{"a", Subject, map[string][][]float64{"speed": {{7}, {10}}}},
		{"b", Peer, map[string][][]float64{"speed": {{5}, {11}}}},
		{"c", Floor, map[string][][]float64{"speed": {{6}, {9}}}},
	}
	if diff := cmp.Diff(want, r.Series[0].Cases); diff != "" {
		t.Error(diff)
	}
	if r.Machine.Kernel == "" || r.Machine.CPU == "" || r.Machine.Cores == 0 || r.Machine.MemoryMB == 0 || r.Machine.Go == "" {
		t.Errorf("the machine is %+v", r.Machine)
	}
}

func TestRunCloses(t *testing.T) {
	t.Parallel()
	var log []string
	closed := 0
	if _, err := Run(t.Context(), fake(&log, &closed, "b"), Env{Progress: io.Discard}); err == nil || !strings.Contains(err.Error(), "round 0 of b: it broke") {
		t.Errorf("error is %v", err)
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Run(ended, fake(&log, &closed, ""), Env{Progress: io.Discard}); !errors.Is(err, context.Canceled) {
		t.Errorf("error after an interrupt is %v", err)
	}
	if closed != 2 {
		t.Errorf("closed %d times in 2 runs", closed)
	}
}

// result has a subject twice as slow as its peer and four times as slow as the floor, which drifts if told so.
func result(floorDrifts bool) Result {
	subject, peer, floor := [][]float64{}, [][]float64{}, [][]float64{}
	for i := range 6 {
		f := 2.0
		if floorDrifts && i > 2 {
			f = 3
		}
		subject, peer, floor = append(subject, []float64{8}), append(peer, []float64{4}), append(floor, []float64{f})
	}
	of := func(name string, role Role, samples [][]float64) CaseResult {
		return CaseResult{name, role, map[string][][]float64{"speed": samples}}
	}
	return Result{
		Benchmark: "fake", What: "nothing", Began: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC),
		Series: []SeriesResult{{
			Name: "s", Metrics: []Metric{speed},
			Cases: []CaseResult{of("a", Subject, subject), of("b", Peer, peer), of("c", Floor, floor)},
		}},
	}
}

func TestPrint(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	if err := result(true).Print(&out); err != nil {
		t.Fatal(err)
	}
	for _, want := range [][]string{
		{"a", "6", "8.00", "8.00", "8.00", "0", "%", "2.00", "x", "4.00", "x"},
		{"b", "6", "4.00", "4.00", "4.00", "0", "%", "2.00", "x"},
		{"does", "not", "count:", "s,", "speed:", "the", "floor's", "median", "changed", "by", "+50", "%"},
	} {
		found := slices.ContainsFunc(strings.Split(out.String(), "\n"), func(line string) bool {
			fields := strings.Fields(line)
			return len(fields) >= len(want) && slices.Equal(fields[:len(want)], want)
		})
		if !found {
			t.Errorf("no line %q in\n%s", want, &out)
		}
	}
}

func TestFigure(t *testing.T) {
	t.Parallel()
	for want, v := range map[string]float64{"0": 0, "0.012": 0.0123, "0.123": 0.1234, "1.23": 1.234, "12.3": 12.34, "123": 123.4, "1234": 1234.5} {
		if got := Figure(v); got != want {
			t.Errorf("Figure(%v) is %q, want %q", v, got, want)
		}
	}
}

func TestNewest(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if _, err := Newest(filepath.Join(dir, "absent"), "fake"); !errors.Is(err, ErrNoResult) {
		t.Errorf("error is %v", err)
	}
	old, other := result(false), result(false)
	older := result(true)
	older.Began = old.Began.Add(-time.Hour)
	other.Benchmark, other.Began = "fake-too", old.Began.Add(time.Hour)
	for _, r := range []Result{old, older, other} {
		if _, err := r.Write(dir); err != nil {
			t.Fatal(err)
		}
	}
	got, err := Newest(dir, "fake")
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(old, got); diff != "" {
		t.Error(diff)
	}
}

func TestInsert(t *testing.T) {
	t.Parallel()
	page := "# Page\n<!-- figures of fake -->\nold\n<!-- end of figures -->\ntext\n<!-- figures of other -->\nkept\n<!-- end of figures -->\n"
	got, err := result(false).insert([]byte(page), "benchmarks/echo.svg")
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"# Page\n<!-- figures of fake -->\n\n![nothing](benchmarks/echo.svg)\n\n2026-01-02", "| a | 6 | 8.00 |", "\n<!-- end of figures -->\ntext\n", "kept"} {
		if !strings.Contains(string(got), want) {
			t.Errorf("no %q in\n%s", want, got)
		}
	}
	if strings.Contains(string(got), "old") {
		t.Error("old figures are still there")
	}
	again, err := result(false).insert(got, "benchmarks/echo.svg")
	if diff := cmp.Diff(string(got), string(again)); diff != "" || err != nil {
		t.Errorf("a second time: %v %s", err, diff)
	}
	for _, bad := range []string{"", "<!-- figures of fake -->\n", "<!-- end of figures -->\n<!-- figures of fake -->\n"} {
		if _, err := result(false).insert([]byte(bad), ""); err == nil {
			t.Errorf("inserted into %q", bad)
		}
	}
}

func TestJudge(t *testing.T) {
	t.Parallel()
	budget := Budget{Benchmark: "fake", Series: "s", Metric: "speed", Statistic: "p50"}
	for name, tt := range map[string]struct {
		most, least *float64
		metric      string
		result      Result
		want        bool
		why         string
	}{
		"kept":         {most: new(8.0), metric: "speed", result: result(false), want: true},
		"missed":       {most: new(7.9), metric: "speed", result: result(false)},
		"rate kept":    {least: new(8.0), metric: "speed", result: result(false), want: true},
		"rate missed":  {least: new(8.1), metric: "speed", result: result(false)},
		"no figure":    {most: new(math.Inf(1)), metric: "taste", result: result(false), why: "not measured"},
		"no result":    {most: new(math.Inf(1)), metric: "speed", why: "not measured"},
		"drifted away": {most: new(8.0), metric: "speed", result: result(true), why: "does not count: the floor drifted"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := budget
			b.AtMost, b.AtLeast, b.Metric = tt.most, tt.least, tt.metric
			if v := b.Judge(tt.result); v.Pass != tt.want || v.Why != tt.why {
				t.Errorf("verdict is %+v", v)
			}
		})
	}
}

func TestCheck(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if _, err := result(false).Write(dir); err != nil {
		t.Fatal(err)
	}
	kept := Budget{What: "kept", Benchmark: "fake", Series: "s", Metric: "speed", Statistic: "p99", AtMost: new(9.0)}
	missed := Budget{What: "missed", Benchmark: "fake", Series: "s", Metric: "speed", Statistic: "p99", AtMost: new(1.0)}
	absent := Budget{What: "absent", Benchmark: "other", Series: "s", Metric: "speed", Statistic: "p99", AtMost: new(1.0)}
	var out bytes.Buffer
	if ok, err := Check(&out, []Budget{kept}, dir); !ok || err != nil {
		t.Errorf("a kept budget is %v, %v", ok, err)
	}
	for _, bad := range []Budget{missed, absent} {
		if ok, err := Check(&out, []Budget{kept, bad}, dir); ok || err != nil {
			t.Errorf("with one %s it is %v, %v", bad.What, ok, err)
		}
	}
	for _, want := range []string{"p99 <= 9 ms  8.00 ms  pass", "p99 <= 1 ms  8.00 ms  miss", "miss: not measured"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("no %q in\n%s", want, &out)
		}
	}
}

func TestReadBudgets(t *testing.T) {
	t.Parallel()
	good := "- {what: w, benchmark: b, series: s, metric: m, statistic: p50, "
	for text, fault := range map[string]string{
		good + "atMost: 1}":              "",
		good + "atLeast: 0}":             "",
		good + "atMost: 1, atLeast: 1}":  "set one of",
		good + "}":                       "set one of",
		good + "atMoist: 1}":             "atMoist",
		"- {statistic: mean, atMost: 1}": "mean",
	} {
		path := filepath.Join(t.TempDir(), "budgets.yaml")
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := ReadBudgets(path)
		if (err == nil) != (fault == "") || err != nil && !strings.Contains(err.Error(), fault) {
			t.Errorf("%s: error is %v, want %q", text, err, fault)
		}
	}
}
