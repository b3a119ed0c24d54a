package measure

import (
	"math"
	"slices"
)

// A Summary describes a set of samples from the best to the worst: p99 is what 99 of 100 samples are not worse than, be they
// times or rates. The zero value describes none.
type Summary struct {
	N                                    int
	Best, P25, P50, P75, P95, P99, Worst float64
}

// Summarize describes samples of a metric.
func (m Metric) Summarize(samples []float64) Summary {
	if len(samples) == 0 {
		return Summary{}
	}
	s := slices.Sorted(slices.Values(samples))
	if m.HigherIsBetter {
		slices.Reverse(s)
	}
	return Summary{
		N: len(s), Best: s[0], P25: quantile(s, 0.25), P50: quantile(s, 0.5), P75: quantile(s, 0.75),
		P95: quantile(s, 0.95), P99: quantile(s, 0.99), Worst: s[len(s)-1],
	}
}

// Spread is the middle half of the samples as a fraction of the median; 0 when the median is.
func (s Summary) Spread() float64 { return ratio(math.Abs(s.P75-s.P25), s.P50) }

// quantile is the nearest-rank quantile of ordered samples: always one that was measured, never one in between, so that a
// p99 of few samples is not made to look better than the worst of them.
func quantile(ordered []float64, q float64) float64 {
	rank := int(math.Ceil(q * float64(len(ordered))))
	return ordered[min(max(rank, 1), len(ordered))-1]
}

// ratio is a/b, and 0 where that says nothing.
func ratio(a, b float64) float64 {
	if b == 0 {
		return 0
	}
	return a / b
}

// leastForDrift is how many rounds it takes to speak of a first and a last third.
const leastForDrift = 6

// drift is by how much the median of the last third of the rounds differs from that of the first, as a fraction of the
// smaller: halving and doubling are equally far. It is 0 for too few rounds, and where chance alone would do it.
func drift(rounds [][]float64) float64 {
	if len(rounds) < leastForDrift {
		return 0
	}
	third := len(rounds) / 3
	first, last := slices.Concat(rounds[:third]...), slices.Concat(rounds[len(rounds)-third:]...)
	if byChance(first, last) {
		return 0
	}
	before, after := Metric{}.Summarize(first).P50, Metric{}.Summarize(last).P50
	if after < before {
		return 1 - ratio(before, after)
	}
	return ratio(after, before) - 1
}

// enough samples on both sides make the normal approximation of the rank sum good.
const enough = 10

// byChance tells whether two sets of samples may well come from the same distribution: the test of Mann and Whitney at
// 95 %. Some work takes very different times on a machine where nothing changes, such as waiting for the kernel's grace
// periods, and a hundred samples of it have medians that differ. Few samples prove nothing and get no such excuse.
func byChance(a, b []float64) bool {
	if min(len(a), len(b)) < enough {
		return false
	}
	n, m := float64(len(a)), float64(len(b))
	wins := 0.0 // of a over b, over all pairs; a tie is half of one
	for _, x := range a {
		for _, y := range b {
			switch {
			case x > y:
				wins++
			case x == y:
				wins += 0.5
			}
		}
	}
	deviation := math.Sqrt(n * m * (n + m + 1) / 12)
	return math.Abs(wins-n*m/2) < 1.96*deviation
}

// order is the order in which a round runs n cases. It turns by one each round and changes direction after a full turn,
// so that in 2n rounds every case was at every place twice and no case always follows the same other.
func order(n, round int) []int {
	cases := make([]int, n)
	for place := range cases {
		if at := (place + round) % n; round/n%2 == 0 {
			cases[place] = at
		} else {
			cases[place] = n - 1 - at
		}
	}
	return cases
}
