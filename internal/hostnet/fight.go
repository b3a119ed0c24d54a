package hostnet

import (
	"cmp"
	"fmt"
	"maps"
	"time"
)

const (
	// fightLimit is how often within fightWindow a change is undone at once. Two programs that disagree would else go on at
	// the rate of settle for ever.
	fightLimit  = 10
	fightWindow = time.Minute
)

// A fight is an Op that is undone by others again and again.
type fight struct {
	count       int
	since, last time.Time // the first and the last time that the Op was made
}

// delay is how long after the last time the Op is made again, after fightLimit times: twice as long each time, up to the
// interval.
func (f fight) delay(interval time.Duration) time.Duration {
	const doublings = 20 // of settle: more than a day
	return min(settle<<min(f.count-fightLimit+1, doublings), interval)
}

// again counts the Op once more. What was calm for the window begins anew.
func (f fight) again(now time.Time) fight {
	if now.Sub(f.last) >= fightWindow || f.count < fightLimit && now.Sub(f.since) >= fightWindow {
		return fight{1, now, now}
	}
	return fight{f.count + 1, f.since, now}
}

// hold takes from the steps those that somebody fights over and that are not due yet, and says in how long the first of
// them is; 0: none.
func (m *memory) hold(bases map[scope]string, found Found, steps []Step, interval time.Duration, now time.Time) (due []Step, again time.Duration) {
	if m.fights == nil {
		m.fights = map[string]fight{}
	}
	maps.DeleteFunc(m.fights, func(_ string, f fight) bool { return now.Sub(f.last) >= fightWindow+interval })
	down := map[string]bool{} // links that stay down for now
	for _, s := range steps {
		if r, ok := s.Op.(SetRoute); ok && down[r.Dev] {
			continue
		}
		left := m.left(s, bases, interval, now)
		if left <= 0 {
			m.count(s, bases, found, interval, now)
			due = append(due, s)
			continue
		}
		again = min(left, cmp.Or(again, left))
		if up, ok := s.Op.(SetUp); ok {
			down[up.Link.Name] = true
		}
	}
	return due, again
}

// left is how long the step is to wait.
func (m *memory) left(s Step, bases map[scope]string, interval time.Duration, now time.Time) time.Duration {
	f, ok := m.fights[s.String()]
	if !ok || f.count < fightLimit || !m.undoes(s, bases) {
		return 0
	}
	return f.last.Add(f.delay(interval)).Sub(now)
}

// count notes that the step is made now, if somebody has undone it, and reports when it becomes a fight.
func (m *memory) count(s Step, bases map[scope]string, found Found, interval time.Duration, now time.Time) {
	if !m.undoes(s, bases) {
		return
	}
	f := m.fights[s.String()].again(now)
	m.fights[s.String()] = f
	if f.count == fightLimit {
		m.undone = append(m.undone, fmt.Sprintf("%s: %s, %d times within %v, from now on ever later, up to %v",
			found.was(s.Op), s, f.count, now.Sub(f.since).Round(time.Second), interval))
	}
}
