package aliyun

import "time"

// Hasten makes repetitions follow each other at once.
func (c *Client) Hasten() {
	c.caller.backoff.throttle, c.caller.backoff.fault, c.caller.backoff.limit = time.Millisecond, time.Millisecond, 4*time.Millisecond
}

// SetClock replaces the clock.
func (r *RoleCredentials) SetClock(now func() time.Time) { r.now = now }

// SetClock replaces the clock.
func (m *Metadata) SetClock(now func() time.Time) { m.now = now }
