package upstream

import (
	"math/bits"
	"time"
)

const (
	rttBuckets = 48
	// rttWindow is after how many samples old ones count half.
	rttWindow = 256
	// rttEnough samples say something about the slowest of them.
	rttEnough = 20
	// rttUnknown is taken for the 95th percentile until then.
	rttUnknown = 100 * time.Millisecond
)

// response times of one endpoint: a histogram with two buckets for every power of two from 1 us on, in which new samples
// outweigh old ones, and an average. The endpoint's mutex guards it.
type responseTimes struct {
	counts  [rttBuckets]uint32
	total   uint32
	average time.Duration // exponentially weighted; 0 before the first sample
	tail    time.Duration // the 95th percentile at the last reckoning
	fresh   int           // samples since then
}

func (r *responseTimes) add(took time.Duration) {
	took = max(took, time.Microsecond)
	if r.average == 0 {
		r.average = took
	}
	r.average += (took - r.average) / 8
	r.counts[bucketOf(took)]++
	r.total++
	if r.total >= rttWindow {
		r.total = 0
		for i := range r.counts {
			r.counts[i] /= 2
			r.total += r.counts[i]
		}
	}
	if r.fresh++; r.fresh >= rttEnough/2 {
		r.fresh, r.tail = 0, r.percentile95()
	}
}

// p95 is the 95th percentile, rounded up to a bucket's end; a guess until there are enough samples.
func (r *responseTimes) p95() time.Duration {
	if r.total < rttEnough || r.tail == 0 {
		return rttUnknown
	}
	return r.tail
}

func (r *responseTimes) percentile95() time.Duration {
	above := r.total / 20
	for i := rttBuckets - 1; i >= 0; i-- {
		if r.counts[i] > above {
			return bucketEnd(i)
		}
		above -= r.counts[i]
	}
	return 0
}

// bucketOf is 2n for [2^n, 1.5*2^n) microseconds and 2n+1 for [1.5*2^n, 2^(n+1)).
func bucketOf(took time.Duration) int {
	us := uint64(took / time.Microsecond)
	n := bits.Len64(us) - 1
	half := 0
	if n > 0 {
		half = int(us >> (n - 1) & 1)
	}
	return min(2*n+half, rttBuckets-1)
}

func bucketEnd(i int) time.Duration {
	start := time.Duration(1) << (i / 2) * time.Microsecond
	if i%2 == 0 {
		return start + start/2
	}
	return 2 * start
}
