package measure

import (
	"math"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

func upTo(n int) []float64 {
	var list []float64
	for i := range n {
		list = append(list, float64(i+1))
	}
	return list
}

func TestSummarize(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		metric  Metric
		samples []float64
		want    Summary
	}{
		"none":           {Metric{}, nil, Summary{}},
		"one":            {Metric{}, []float64{7}, Summary{1, 7, 7, 7, 7, 7, 7, 7}},
		"times":          {Metric{}, upTo(100), Summary{100, 1, 25, 50, 75, 95, 99, 100}},
		"rates":          {Metric{HigherIsBetter: true}, upTo(100), Summary{100, 100, 76, 51, 26, 6, 2, 1}},
		"p99 of a few":   {Metric{}, []float64{5, 1, 4, 2, 3}, Summary{5, 1, 2, 3, 4, 5, 5, 5}},
		"zeros":          {Metric{}, []float64{0, 0}, Summary{N: 2}},
		"not in between": {Metric{}, []float64{1, 2}, Summary{2, 1, 1, 1, 2, 2, 2, 2}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if got := tt.metric.Summarize(tt.samples); got != tt.want {
				t.Errorf("got %+v, want %+v", got, tt.want)
			}
		})
	}
}

func TestSummarizeKeepsOrder(t *testing.T) {
	t.Parallel()
	samples := []float64{3, 1, 2}
	Metric{}.Summarize(samples)
	if !slices.Equal(samples, []float64{3, 1, 2}) {
		t.Errorf("samples became %v", samples)
	}
}

func TestQuantileIsASample(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) {
		sorted := slices.Sorted(slices.Values(rapid.SliceOfN(rapid.Float64Range(0, 100), 1, 50).Draw(rt, "samples")))
		q := rapid.Float64Range(0, 1).Draw(rt, "q")
		got := quantile(sorted, q)
		notAbove := 0
		for _, v := range sorted {
			if v <= got {
				notAbove++
			}
		}
		if !slices.Contains(sorted, got) || float64(notAbove) < q*float64(len(sorted))-1e-9 {
			rt.Fatalf("quantile %v of %v is %v", q, sorted, got)
		}
	})
}

func TestSpread(t *testing.T) {
	t.Parallel()
	for _, higher := range []bool{false, true} {
		if got := (Metric{HigherIsBetter: higher}).Summarize(upTo(100)).Spread(); math.Abs(got-1) > 0.02 {
			t.Errorf("spread is %v, want about 1", got)
		}
	}
	if got := (Summary{}).Spread(); got != 0 {
		t.Errorf("spread of nothing is %v", got)
	}
}

// each makes rounds of one sample.
func each(values ...float64) (rounds [][]float64) {
	for _, v := range values {
		rounds = append(rounds, []float64{v})
	}
	return rounds
}

func TestDrift(t *testing.T) {
	t.Parallel()
	scattered := []float64{10, 40, 20, 30, 10, 40, 20, 30, 10, 40, 20, 30}
	for name, tt := range map[string]struct {
		rounds [][]float64
		want   float64
	}{
		"too few rounds": {each(1, 1, 2, 2, 2), 0},
		"steady":         {each(10, 10, 10, 10, 10, 10), 0},
		"slower":         {each(10, 10, 99, 99, 12, 12), 0.2},
		"faster":         {each(12, 12, 0, 0, 10, 10), -0.2},
		"doubled":        {each(1, 1, 1, 2, 2, 2), 1},
		"halved":         {each(2, 2, 2, 1, 1, 1), -1},
		"an outlier":     {each(10, 10, 10, 10, 10, 10, 10, 10, 500), 0},
		"several each":   {[][]float64{{1, 1, 1}, {1}, {9}, {9}, {2, 2}, {2, 2, 2}}, 1},
		"scattered":      {each(slices.Concat(scattered, scattered, scattered)...), 0},
		// The medians differ by half, and so would those of any two dozens of such samples.
		"scattered by chance": {each(slices.Concat(scattered, scattered, []float64{10, 40, 30, 30, 10, 40, 20, 30, 30, 40, 20, 30})...), 0},
		"scattered and slower": {each(slices.Concat(scattered, scattered,
			[]float64{20, 80, 40, 60, 20, 80, 40, 60, 20, 80, 40, 60})...), 1},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if got := drift(tt.rounds); math.Abs(got-tt.want) > 1e-9 {
				t.Errorf("drift is %v, want %v", got, tt.want)
			}
		})
	}
}

func TestOrder(t *testing.T) {
	t.Parallel()
	for n := 1; n <= 5; n++ {
		at := make([][]int, n)
		for i := range at {
			at[i] = make([]int, n)
		}
		follows := map[[2]int]int{}
		for round := range 2 * n {
			cases := order(n, round)
			for place, c := range cases {
				at[place][c]++
				if place > 0 {
					follows[[2]int{cases[place-1], c}]++
				}
			}
		}
		for place := range n {
			for c := range n {
				if at[place][c] != 2 {
					t.Errorf("of %d cases, case %d is at place %d %d times, want 2", n, c, place, at[place][c])
				}
			}
		}
		for pair, times := range follows {
			if back := follows[[2]int{pair[1], pair[0]}]; back != times {
				t.Errorf("of %d cases, %v follow each other %d times and the other way %d", n, pair, times, back)
			}
		}
	}
}
