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

// likely says whether chance alone gives such a statistic more often than once in a million times.
func likely(x float64, freedom int) bool {
	return freedom > 0 && x < 600 && chance(x, freedom) > 1e-6 // at 600 the series' terms are still numbers
}

// chance is the probability that the statistic is larger than x: one less the regularized incomplete gamma function, by its
// series.
func chance(x float64, freedom int) float64 {
	a, half := float64(freedom)/2, x/2
	term := 1 / a
	sum := term
	for n := 1.0; term > sum*1e-17; n++ {
		term *= half / (a + n)
		sum += term
	}
	logGamma, _ := math.Lgamma(a)
	return 1 - sum*math.Exp(a*math.Log(half)-half-logGamma)
}

// Quantiles of the chi-square distribution of 0.999, which are in every table, and of 0.999999.
func TestLikely(t *testing.T) {
	t.Parallel()
	for freedom, quantile := range map[int]float64{3: 16.266, 9: 27.877, 15: 37.697, 99: 148.23} {
		if p := chance(quantile, freedom); math.Abs(p-0.001) > 1e-6 {
			t.Errorf("with %d degrees of freedom more than %.3f has the chance %.6f", freedom, quantile, p)
		}
	}
	for freedom, quantile := range map[int]float64{3: 30.66, 9: 44.81, 15: 56.49, 99: 180.79} {
		if !likely(quantile-0.05, freedom) || likely(quantile+0.05, freedom) || likely(1000, freedom) {
			t.Errorf("with %d degrees of freedom %.2f is not the limit", freedom, quantile)
		}
	}
}
