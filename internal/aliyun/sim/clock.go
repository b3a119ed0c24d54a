package sim

import (
	"sync"
	"time"
)

// A Clock is the time a cloud lives in. Implementations are safe for concurrent use.
type Clock interface {
	Now() time.Time
	// NewTimer returns a channel that closes when d has passed, and what to call when nobody waits any more.
	NewTimer(d time.Duration) (fired <-chan struct{}, stop func())
}

// systemClock tells the machine's time, or what now says.
type systemClock struct{ now func() time.Time }

func (s systemClock) Now() time.Time { return s.now() }

func (systemClock) NewTimer(d time.Duration) (<-chan struct{}, func()) {
	fired := make(chan struct{})
	t := time.AfterFunc(d, func() { close(fired) })
	return fired, func() { t.Stop() }
}

// A ManualClock moves when it is told to. While it runs, it moves with the machine's time, too.
type ManualClock struct {
	mu      sync.Mutex // guards the fields below
	running bool
	base    time.Time // what it said at since
	since   time.Time
	timers  map[*manualTimer]struct{}
}

type manualTimer struct {
	due   time.Time
	fired chan struct{}
	stop  func()
}

// NewManualClock returns a clock that says start and runs or not.
func NewManualClock(start time.Time, running bool) *ManualClock {
	return &ManualClock{running: running, base: start, since: time.Now(), timers: map[*manualTimer]struct{}{}}
}

// Now implements Clock.
func (m *ManualClock) Now() time.Time {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.now()
}

func (m *ManualClock) now() time.Time {
	if !m.running {
		return m.base
	}
	return m.base.Add(time.Since(m.since))
}

// Advance moves the clock by d and fires the timers that are due.
func (m *ManualClock) Advance(d time.Duration) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.base = m.base.Add(d)
	now := m.now()
	for t := range m.timers {
		if !t.due.After(now) {
			m.fire(t)
		}
	}
}

// fire closes the timer's channel once. The caller holds m.mu.
func (m *ManualClock) fire(t *manualTimer) {
	if _, waiting := m.timers[t]; !waiting {
		return
	}
	delete(m.timers, t)
	t.stop()
	close(t.fired)
}

// NewTimer implements Clock.
func (m *ManualClock) NewTimer(d time.Duration) (<-chan struct{}, func()) {
	m.mu.Lock()
	defer m.mu.Unlock()
	t := &manualTimer{due: m.now().Add(d), fired: make(chan struct{}), stop: func() {}}
	m.timers[t] = struct{}{}
	if d <= 0 {
		m.fire(t)
		return t.fired, t.stop
	}
	if m.running {
		real := time.AfterFunc(d, func() {
			m.mu.Lock()
			defer m.mu.Unlock()
			m.fire(t)
		})
		t.stop = func() { real.Stop() }
	}
	return t.fired, func() {
		m.mu.Lock()
		defer m.mu.Unlock()
		if _, waiting := m.timers[t]; waiting {
			delete(m.timers, t)
			t.stop()
		}
	}
}
