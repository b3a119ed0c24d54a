package sim

import (
	"hash/fnv"
	"math/rand/v2"
	"time"

	"github.com/nearpath/nearpath/internal/aliyun"
)

// rng makes the random choices of the nth event of a kind. They depend on the seed, the kind and n alone: what other calls
// do at the same time does not change them.
func (c *Cloud) rng(kind string, n int) *rand.Rand {
	h := fnv.New64a()
	_, _ = h.Write([]byte(kind)) // it never fails
	return rand.New(rand.NewPCG(c.cfg.Seed, h.Sum64()+uint64(n)))
}

// event counts the events of a kind and makes the choices of this one. The caller holds no lock.
func (c *Cloud) event(kind string) *rand.Rand {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.events[kind]++
	return c.rng(kind, c.events[kind])
}

// fallsBack decides whether an attachment ends as Available instead of InUse.
func (c *Cloud) fallsBack() bool {
	return c.cfg.AttachFailure > 0 && c.event("attach failure").Float64() < c.cfg.AttachFailure
}

// lasts is how long an ENI that enters a state stays in it.
func (c *Cloud) lasts(status string) time.Duration {
	fixed := map[string]time.Duration{
		aliyun.StatusAttaching: c.cfg.Delays.Attach, aliyun.StatusDetaching: c.cfg.Delays.Detach, aliyun.StatusDeleting: c.cfg.Delays.Delete,
	}[status]
	return fixed + c.cfg.States[status].draw(c.event(status))
}

// text makes an identifier nobody guesses, as long as nobody knows the seed. The caller holds c.mu.
func (c *Cloud) text(kind string) string {
	const letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567"
	c.events[kind]++
	rng := c.rng(kind, c.events[kind])
	b := make([]byte, 26)
	for i := range b {
		b[i] = letters[rng.IntN(len(letters))]
	}
	return string(b)
}
