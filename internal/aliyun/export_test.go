package aliyun

import "time"

// Hasten makes repetitions follow each other at once.
func (c *Client) Hasten() {
	c.caller.backoff = Backoff{Tries: 6, Throttle: time.Millisecond, Fault: time.Millisecond, Limit: 4 * time.Millisecond}
}

// SetClock replaces the clock.
func (t *TemporaryCredentials) SetClock(now func() time.Time) { t.now = now }

// SetClock replaces the clock.
func (f *FileCredentials) SetClock(now func() time.Time) { f.now = now }

// SetClock replaces the clock.
func (m *Metadata) SetClock(now func() time.Time) { m.now = now }
