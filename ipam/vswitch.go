package ipam

import (
	"cmp"
	"hash/fnv"
	"math"
	"slices"
	"time"

	"github.com/nearpath/nearpath/internal/aliyun"
)

const (
	fullVSwitch = time.Minute // first pause of a vSwitch without addresses, doubled up to maxFull
	maxFull     = 10 * time.Minute
)

// A breaker keeps the pool from asking a full vSwitch again and again. It opens when the vSwitch has none left for even
// a single address; when the pause is over, one address is asked for, and the answer closes it or doubles the pause.
type breaker struct {
	pause time.Duration // 0: closed
	until time.Time
	// probing is until when an answer to the one address asked for may come; zero: none was asked for.
	probing time.Time
	err     error // the last refusal
}

// BreakerState says whether the pool asks a vSwitch for addresses.
type BreakerState string

// The states of a vSwitch's breaker.
const (
	BreakerClosed   BreakerState = "closed"    // it does
	BreakerOpen     BreakerState = "open"      // it does not
	BreakerHalfOpen BreakerState = "half-open" // it asks for one
)

func (b breaker) state(now time.Time) BreakerState {
	switch {
	case b.pause == 0:
		return BreakerClosed
	case now.Before(b.until):
		return BreakerOpen
	default:
		return BreakerHalfOpen
	}
}

// allows is how many addresses may be asked for.
func (b breaker) allows(now time.Time) int {
	switch {
	case b.pause == 0:
		return math.MaxInt
	case now.Before(b.until) || now.Before(b.probing):
		return 0
	default:
		return 1
	}
}

// refused opens the breaker.
func (b breaker) refused(err error, now time.Time) breaker {
	pause := min(max(2*b.pause, fullVSwitch), maxFull)
	return breaker{pause: pause, until: now.Add(pause), err: err}
}

// breakers are those of the vSwitches by ID; one that is not there is closed.
type breakers map[string]breaker

// probe notes that the one address of a half-open breaker was asked for.
func (b breakers) probe(id string, now time.Time) {
	if one := b[id]; one.state(now) == BreakerHalfOpen {
		one.probing = now.Add(intentMaxAge)
		b[id] = one
	}
}

// unprobe notes that the probe had no answer about addresses.
func (b breakers) unprobe(id string) {
	if one, ok := b[id]; ok {
		one.probing = time.Time{}
		b[id] = one
	}
}

// A choice is what decides about the vSwitch of a new ENI.
type choice struct {
	policy   VSwitchPolicy
	ids      []string // as configured
	zone     string
	instance string
	breakers breakers
	// promised counts, by vSwitch, addresses that calls not yet made or answered will take.
	promised map[string]int
	random   func(n int) int
	now      time.Time
}

// of picks among the described vSwitches and says how many addresses may be asked of the one it picked; 0: none can be
// asked.
func (c choice) of(all []aliyun.VSwitch) (aliyun.VSwitch, int) {
	left := func(v aliyun.VSwitch) int {
		return min(v.AvailableIPs-c.promised[v.ID], c.breakers[v.ID].allows(c.now))
	}
	usable := slices.DeleteFunc(slices.Clone(all), func(v aliyun.VSwitch) bool { return v.ZoneID != c.zone || left(v) <= 0 })
	if len(usable) == 0 {
		return aliyun.VSwitch{}, 0
	}
	var best aliyun.VSwitch
	switch c.policy {
	case Ordered:
		best = slices.MinFunc(usable, func(a, b aliyun.VSwitch) int {
			return cmp.Compare(slices.Index(c.ids, a.ID), slices.Index(c.ids, b.ID))
		})
	case Random:
		best = usable[c.random(len(usable))]
	default:
		best = slices.MinFunc(usable, func(a, b aliyun.VSwitch) int {
			return cmp.Or(cmp.Compare(b.AvailableIPs-c.promised[b.ID], a.AvailableIPs-c.promised[a.ID]), cmp.Compare(c.weight(a.ID), c.weight(b.ID)), cmp.Compare(a.ID, b.ID))
		})
	}
	return best, left(best)
}

// weight orders vSwitches with equally many addresses, for each instance in another way: else all nodes would take from
// the same one at a time.
func (c choice) weight(id string) uint64 {
	h := fnv.New64a()
	h.Write([]byte(c.instance + "\x00" + id))
	return h.Sum64()
}

// promised counts, by vSwitch, the IPv4 addresses that calls not yet made or answered will take.
func (l *ledger) promised() map[string]int {
	counts := map[string]int{}
	for _, e := range l.enis {
		counts[e.VSwitchID] += e.awaited(aliyun.IPv4)
	}
	return counts
}
