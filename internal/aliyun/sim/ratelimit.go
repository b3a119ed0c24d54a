package sim

import (
	"time"
)

// A RateLimit is a token bucket. Calls that find it empty are refused and take nothing.
type RateLimit struct {
	Action string `json:"action"` // empty: all of the API share the bucket
	// PerMinute tokens come back, up to Burst.
	PerMinute float64 `json:"perMinute"`
	Burst     int     `json:"burst"`
	// PerKey gives each access key a bucket of its own. Flow control of the real cloud counts by account, to which
	// temporary keys belong as well; that is the default.
	PerKey bool `json:"perKey"`
	// Code answers; empty: Throttling.User.
	Code string `json:"code"`
}

// A bucket is a RateLimit with its tokens. Cloud.mu guards it.
type bucket struct {
	RateLimit
	levels map[string]*level // by access key, or under "" for all
}

type level struct {
	tokens float64
	at     time.Time
}

func newBuckets(limits []RateLimit) []*bucket {
	var all []*bucket
	for _, l := range limits {
		all = append(all, &bucket{RateLimit: l, levels: map[string]*level{}})
	}
	return all
}

// SetRateLimits replaces all rate limits; the new buckets are full.
func (c *Cloud) SetRateLimits(limits []RateLimit) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.buckets = newBuckets(limits)
}

// throttle takes a token of each limit of the call, or refuses it and takes none.
func (c *Cloud) throttle(action, key string) error {
	now := c.cfg.Now()
	c.mu.Lock()
	defer c.mu.Unlock()
	var levels []*level
	for _, b := range c.buckets {
		if b.Action != action && (b.Action != "" || action == metadataCalls) {
			continue
		}
		l := b.level(key, now)
		if l.tokens < 1 {
			return refuse(orDefault(b.Code, codeThrottledUser), "Request was denied due to user flow control.")
		}
		levels = append(levels, l)
	}
	for _, l := range levels {
		l.tokens--
	}
	return nil
}

// level fills the bucket up to now.
func (b *bucket) level(key string, now time.Time) *level {
	if !b.PerKey {
		key = ""
	}
	l := b.levels[key]
	if l == nil {
		l = &level{tokens: float64(b.Burst), at: now}
		b.levels[key] = l
	}
	if passed := now.Sub(l.at); passed > 0 {
		l.tokens = min(l.tokens+b.PerMinute*passed.Minutes(), float64(b.Burst))
		l.at = now
	}
	return l
}
