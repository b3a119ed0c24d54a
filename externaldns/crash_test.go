package externaldns

import (
	"errors"
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/nearpath/nearpath/internal/aliyun"
)

// crashWants are what the lives of TestCrashAfterEveryCall want, in this order. They add, update, delete and flip.
func crashStages() []map[string][]string {
	return []map[string][]string{
		{"a": {"A 10.0.0.1"}, "b": {"A 10.0.0.2", "A 10.0.0.3"}, "c": {"CNAME a.corp"}, "d": {"TXT x"}},
		{"a": {"A 10.0.0.9"}, "b": {"A 10.0.0.3", "AAAA fd00::3"}, "c": {"A 10.0.0.4"}},
		{"b": {"CNAME a.corp"}},
	}
}

// live runs the stages from one on. It ends at the call with the number endAt, whose effect takes place or not. It
// reports at which stage it ended, and whether by that call.
func live(t *testing.T, cloud *fakeCloud, stage, endAt int, effect bool) (int, bool) {
	t.Helper()
	dead := make(chan struct{})
	over := false
	first := cloud.count()
	cloud.fault = func(n int, _ string, after bool) error {
		if n-first == endAt && after == effect && !over {
			over = true
			close(dead)
		}
		if over {
			return aliyun.ErrUnavailable
		}
		return nil
	}
	desired := &fakeDesired{}
	set := func(stage int) (names []string) {
		stages := crashStages()
		for _, rr := range []string{"a", "b", "c", "d"} {
			desired.set(rr+".corp", wantsFor(rr, stages[stage][rr]...))
			names = append(names, rr+".corp")
		}
		return names
	}
	set(stage)
	r := start(t, cloud, desired)
	defer r.stop()
	for ; ; stage++ {
		select {
		case <-dead:
			return stage, true
		case <-time.After(20 * time.Second):
		}
		if stage+1 == len(crashStages()) {
			return stage, false
		}
		r.Touch(set(stage + 1)...)
	}
}

// TestCrashAfterEveryCall ends the process at each of its calls in turn, the answer lost or the call never made, lets
// another one go on, and ends that one too, at its first calls.
func TestCrashAfterEveryCall(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		crashes := 0
		for _, effect := range []bool{true, false} {
			for endAt := 1; ; endAt++ {
				died := false
				for second := range 4 {
					cloud := corp()
					foreign := []int64{
						cloud.edit(aliyun.ZoneRecord{ZoneID: "z-1", RR: "b", Type: "TXT", Value: "theirs", TTL: 60, Enabled: true}),
						cloud.edit(aliyun.ZoneRecord{ZoneID: "z-1", RR: "d", Type: "A", Value: "10.1.1.1", TTL: 60, Enabled: true}),
					}
					cloud.edit(aliyun.ZoneRecord{ID: foreign[0]})
					var stage int
					stage, died = live(t, cloud, 0, endAt, effect)
					if second > 0 {
						stage, _ = live(t, cloud, stage, second, effect)
					}
					live(t, cloud, stage, -1, false)
					want := []string{"b CNAME a.corp me", "d A 10.1.1.1 -"}
					if diff := cmp.Diff(want, cloud.shown("z-1")); diff != "" {
						t.Fatalf("died at call %d (effect %v), then at %d:\n%s", endAt, effect, second, diff)
					}
					crashes++
				}
				if !died {
					break
				}
			}
		}
		t.Logf("%d sequences of crashes", crashes)
		if crashes < 100 {
			t.Errorf("only %d crashes: the test does not reach the calls", crashes)
		}
	})
}

// TestLostAnswers loses the answer to every write once, without a crash.
func TestLostAnswers(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		for _, after := range []bool{true, false} {
			cloud := corp()
			lost := map[string]bool{}
			cloud.fault = func(_ int, call string, done bool) error {
				if done == after && call[0] != 'D' && !lost[call] {
					lost[call] = true
					return aliyun.ErrUnavailable
				}
				return nil
			}
			r := start(t, cloud, desire(30, "web"))
			wait(time.Hour) // it looks as if the API were away
			if got := cloud.shown("z-1"); len(got) != 30 {
				t.Errorf("effect %v: %d records", after, len(got))
			}
			for i := range 30 {
				r.want(fmt.Sprint("web-", i), "A 10.9.9.9")
			}
			wait(time.Hour)
			for _, line := range cloud.shown("z-1") {
				if !slices.Contains([]string{"A 10.9.9.9 me"}, line[len(line)-13:]) {
					t.Errorf("effect %v: %s", after, line)
				}
			}
			r.stop()
		}
	})
}

// TestTokenOfARecordThatIsGone: an answer is lost, somebody deletes the record, and the cloud answers the repetition with
// the record that is no more.
func TestTokenOfARecordThatIsGone(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		cloud := corp()
		once := false
		cloud.fault = func(_ int, call string, done bool) error {
			if done && call == "AddZoneRecord web A 10.0.0.1" && !once {
				once = true
				go cloud.edit(aliyun.ZoneRecord{ID: 1})
				return errors.New("connection reset")
			}
			return nil
		}
		r := start(t, cloud, &fakeDesired{})
		wait(time.Second)
		r.want("web", "A 10.0.0.1")
		wait(20 * time.Second)
		r.expect("web A 10.0.0.1 me")
	})
}

func TestTwoInstancesWithoutALease(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		const n = 1000
		cloud := corp()
		cloud.latency, cloud.rate = 50*time.Millisecond, 20
		desired := desire(0, "web")
		a, b := start(t, cloud, desired), start(t, cloud, desired)
		wait(10 * time.Second)
		before := cloud.count()
		var names []string
		for i := range n {
			rr := fmt.Sprint("web-", i)
			desired.set(rr+".corp", wantsFor(rr, "A "+address(i)))
			names = append(names, rr+".corp")
		}
		a.Touch(names...)
		b.Touch(names...)
		started := time.Now()
		for len(cloud.shown("z-1")) < n {
			wait(time.Second)
			if time.Since(started) > 10*time.Minute {
				t.Fatalf("%d records after %v", len(cloud.shown("z-1")), time.Since(started))
			}
		}
		took := time.Since(started)
		wait(2 * time.Minute)
		calls := cloud.count() - before
		t.Logf("%d changes: %d calls, %v: %v", n, calls, took, cloud.acted())
		if calls > 13*n/10 {
			t.Errorf("%d calls for %d changes", calls, n)
		}
		want := make([]string, n)
		for i := range n {
			want[i] = fmt.Sprintf("web-%d A %s me", i, address(i))
		}
		a.expect(want...)
		a.want("web-0", "A 10.9.9.9")
		b.Touch("web-0.corp")
		a.want("web-1")
		b.Touch("web-1.corp")
		wait(3 * time.Minute)
		want[0] = "web-0 A 10.9.9.9 me"
		a.expect(slices.Delete(want, 1, 2)...)
		for _, r := range []*rig{a, b} {
			if got := r.seen.reasons(); len(got) > 0 {
				t.Error(got)
			}
		}
		synctest.Wait()
	})
}
