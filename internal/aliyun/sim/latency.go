package sim

import (
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"strings"
	"time"
)

// A Latency is a distribution of durations: uniform from Min to Max, or log-normal if P50 is set, with that median and, in
// P99, the value that one in a hundred exceeds. Min alone is fixed; the zero Latency is no time at all.
type Latency struct {
	Min, Max time.Duration
	P50, P99 time.Duration
}

// Fixed is always d.
func Fixed(d time.Duration) Latency { return Latency{Min: d} }

// Uniform is from least to most, each as likely.
func Uniform(least, most time.Duration) Latency { return Latency{Min: least, Max: most} }

// LogNormal has the median p50 and exceeds p99 one time in a hundred.
func LogNormal(p50, p99 time.Duration) Latency { return Latency{P50: p50, P99: p99} }

// z99 is how many standard deviations the 99th percentile of a normal distribution is above its median.
const z99 = 2.3263478740408408

func (l Latency) draw(rng *rand.Rand) time.Duration {
	switch {
	case l.P50 > 0:
		sigma := math.Log(float64(max(l.P99, l.P50))/float64(l.P50)) / z99
		return time.Duration(float64(l.P50) * math.Exp(sigma*rng.NormFloat64()))
	case l.Max > l.Min:
		return l.Min + time.Duration(rng.Int64N(int64(l.Max-l.Min)+1))
	}
	return l.Min
}

// scaled multiplies every duration.
func (l Latency) scaled(by float64) Latency {
	s := func(d time.Duration) time.Duration { return time.Duration(float64(d) * by) }
	return Latency{Min: s(l.Min), Max: s(l.Max), P50: s(l.P50), P99: s(l.P99)}
}

// String is what UnmarshalText reads.
func (l Latency) String() string {
	switch {
	case l.P50 > 0:
		return fmt.Sprintf("p50=%v p99=%v", l.P50, l.P99)
	case l.Max > l.Min:
		return fmt.Sprintf("%v..%v", l.Min, l.Max)
	}
	return l.Min.String()
}

// MarshalText is String.
func (l Latency) MarshalText() ([]byte, error) { return []byte(l.String()), nil }

var errLatency = errors.New(`use a duration such as 500ms, a range such as 1s..3s, or "p50=300ms p99=2s"`)

// UnmarshalText reads a duration, a range, or a median and 99th percentile.
func (l *Latency) UnmarshalText(text []byte) error {
	got, err := parseLatency(string(text))
	if err != nil {
		return err
	}
	*l = got
	return nil
}

func parseLatency(s string) (Latency, error) {
	if p50, p99, ok := strings.Cut(s, " "); ok {
		median, isMedian := strings.CutPrefix(p50, "p50=")
		tail, isTail := strings.CutPrefix(strings.TrimSpace(p99), "p99=")
		if !isMedian || !isTail {
			return Latency{}, errLatency
		}
		a, b, err := parsePair(median, tail)
		if err != nil || a == 0 {
			return Latency{}, errLatency
		}
		return LogNormal(a, b), nil
	}
	least, most, ok := strings.Cut(s, "..")
	if !ok {
		most = least
	}
	a, b, err := parsePair(least, most)
	if err != nil {
		return Latency{}, err
	}
	if a == b {
		return Fixed(a), nil
	}
	return Uniform(a, b), nil
}

// maxLatency keeps sums of durations far from overflow.
const maxLatency = 30 * 24 * time.Hour

// parsePair reads two durations, of which the second is not the smaller one.
func parsePair(first, second string) (a, b time.Duration, err error) {
	if a, err = time.ParseDuration(first); err != nil {
		return 0, 0, errLatency
	}
	if b, err = time.ParseDuration(second); err != nil || a < 0 || b < a || b > maxLatency {
		return 0, 0, errLatency
	}
	return a, b, nil
}
