package aliyun

import (
	"math"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// Whatever is asked when and throttled when: no window gives out more than a burst and what the full rate makes of its
// length, the rate stays within its bounds, and a time without throttling makes it whole.
func TestBucketKeepsItsBudget(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		perMinute := rapid.IntRange(1, 600).Draw(t, "rate")
		pace := nodeStandard().pacing
		if rapid.Bool().Draw(t, "zone") {
			pace = zoneStandard().pacing
		}
		now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
		b := newBucket(perMinute, pace, now)
		var drawn []time.Time
		for range rapid.IntRange(1, 200).Draw(t, "steps") {
			now = now.Add(time.Duration(rapid.IntRange(0, 5000).Draw(t, "ms")) * time.Millisecond)
			if len(drawn) > 0 && rapid.IntRange(0, 3).Draw(t, "throttled") == 0 {
				b.throttled(drawn[rapid.IntRange(0, len(drawn)-1).Draw(t, "which")], now)
			}
			wait, ok := b.take(now)
			if ok {
				drawn = append(drawn, now)
			} else if wait <= 0 || wait > 2*time.Minute {
				t.Fatalf("wait is %v at %.3f calls per second", wait, b.rate)
			}
			if b.rate <= 0 || b.rate > b.full || b.tokens > b.burst {
				t.Fatalf("bucket is %+v", b)
			}
		}
		for i := range drawn {
			for j := i; j < len(drawn); j++ {
				most := b.burst + b.full*drawn[j].Sub(drawn[i]).Seconds()
				if float64(j-i+1) > math.Floor(most+1e-6) {
					t.Fatalf("%d calls within %v, want at most %.1f", j-i+1, drawn[j].Sub(drawn[i]), most)
				}
			}
		}
		b.advance(now.Add(pace.recovery))
		if b.rate != b.full || b.tokens < min(b.burst, b.full*pace.recovery.Seconds()/2)-1e-6 {
			t.Fatalf("after its time of recovery the bucket is %+v", b)
		}
	})
}

func TestBucketHalvesOncePerFlight(t *testing.T) {
	t.Parallel()
	start := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	b := newBucket(60, nodeStandard().pacing, start)
	for range 10 { // ten calls leave together, and all are throttled
		if _, ok := b.take(start); !ok {
			t.Fatal("the burst is smaller than 10")
		}
	}
	answered := start.Add(100 * time.Millisecond)
	for range 10 {
		b.throttled(start, answered)
	}
	if b.rate != 0.5 || b.tokens > 0 {
		t.Errorf("after one flight: %+v, want half a call per second and nothing saved", b)
	}
	b.throttled(answered.Add(time.Millisecond), answered.Add(2*time.Millisecond))
	if b.rate > 0.26 {
		t.Errorf("after a second flight the rate is %.2f", b.rate)
	}
}
