package churn

import (
	"math"
	"testing"
)

// chiSquare is the statistic of counts beside what was expected, and its degrees of freedom. Cells of which less than five
// are expected are left out.
func chiSquare(counted, expected []float64) (x float64, freedom int) {
	freedom = -1
	for i := range counted {
		if expected[i] >= 5 {
			d := counted[i] - expected[i]
			x += d * d / expected[i]
			freedom++
		}
	}
	return x, freedom
}

// likely says whether chance alone gives such a statistic more often than once in a thousand times, by the approximation
// of Wilson and Hilferty, which is good for three and more degrees of freedom.
func likely(x float64, freedom int) bool {
	k := float64(freedom)
	z := (math.Cbrt(x/k) - (1 - 2/(9*k))) / math.Sqrt(2/(9*k))
	return freedom > 0 && z < 3.0902 // the normal distribution's quantile of 0.999
}

// The quantiles of 0.999 of the chi-square distribution are in every table.
func TestLikely(t *testing.T) {
	t.Parallel()
	for freedom, quantile := range map[int]float64{3: 16.27, 9: 27.88, 15: 37.70, 99: 148.23} {
		if !likely(quantile*0.97, freedom) || likely(quantile*1.03, freedom) {
			t.Errorf("with %d degrees of freedom %.2f is not the limit", freedom, quantile)
		}
	}
}
