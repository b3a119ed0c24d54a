package hostnet

import (
	"slices"
	"strings"
	"testing"
	"time"
)

// What somebody undoes all the time is put back ever later, up to the interval, and one report says so; what is calm for
// a minute is put back at once again.
func TestFight(t *testing.T) {
	const interval = 10 * time.Second
	var m memory
	var reports []string
	now := time.Now()
	wanted, found := twoENIs(), bareNode()
	found.Links[2].Up, found.Links[2].Running = true, true
	pass := func() (made []Step, again time.Duration) {
		steps, _ := Build(wanted, found)
		made, again = m.hold(found.bases(wanted), found, steps, interval, now)
		for _, r := range m.judge(wanted, found, made, outcome{}, false, now) {
			reports = append(reports, r.message)
		}
		carry(&found, made)
		return made, again
	}
	pass()
	pass()
	undo := func() { found.Links[2].Up, found.Routes = false, nil }
	start := now
	var gaps []time.Duration
	for last := now; now.Sub(start) < fightWindow; now = now.Add(settle) {
		undo()
		made, again := pass()
		if again > interval {
			t.Fatalf("next in %v", again)
		}
		if len(made) > 0 {
			gaps, last = append(gaps, now.Sub(last)), now
		} else if again == 0 {
			t.Fatal("held back, and nobody looks again")
		}
		if slices.ContainsFunc(made, func(s Step) bool { _, ok := s.Op.(SetRoute); return ok }) && !found.Links[2].Up {
			t.Fatalf("routes by a link that is down:\n%s", text(made))
		}
	}
	if n := len(gaps); n < fightLimit+5 || n > 2*fightLimit+3 || slices.Max(gaps[:fightLimit]) > settle || slices.Max(gaps) != interval {
		t.Errorf("put back after %v", gaps)
	}
	told := slices.DeleteFunc(slices.Clone(reports), func(r string) bool {
		return !strings.Contains(r, "10 times within 1s, from now on ever later, up to 10s")
	})
	if len(told) != 1 || !strings.Contains(told[0], "ip link set dev eth1 up") {
		t.Errorf("reports %q", reports)
	}
	now = now.Add(fightWindow + interval)
	undo()
	if made, again := pass(); len(made) == 0 || again != 0 {
		t.Errorf("after a calm time: %d steps, next in %v", len(made), again)
	}
	// Ten times, but not within a minute.
	for range 3 * fightLimit {
		now = now.Add(fightWindow / fightLimit * 2)
		undo()
		if made, _ := pass(); len(made) == 0 {
			t.Fatal("held back without a fight")
		}
	}
}
