package externaldns

import (
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"
)

func queued(q *queue, name string, l lane, asked time.Time) *item {
	it := q.item(name)
	it.lane, it.asked, it.class = l, asked, classAdd
	q.push(it)
	return it
}

func TestQueueTakesTheMostUrgent(t *testing.T) {
	t.Parallel()
	q, now := newQueue(), at(0)
	for _, l := range []lane{laneAudit, laneBacklog, laneFresh, laneDead} {
		for i := range 2 {
			queued(q, fmt.Sprint(l, i), l, now)
		}
	}
	var got []string
	for it := q.pop(classAdd, now); it != nil; it = q.pop(classAdd, now) {
		got = append(got, it.name)
	}
	want := []string{"dead 0", "dead 1", "fresh 0", "fresh 1", "backlog 0", "backlog 1", "audit 0", "audit 1"}
	if !slices.Equal(got, want) {
		t.Errorf("the order is %v", got)
	}
	if it := q.pop(classDelete, now); it != nil {
		t.Errorf("another class has %s", it.name)
	}
}

func TestQueueStarvesNobody(t *testing.T) {
	t.Parallel()
	q, now := newQueue(), at(0)
	served := map[lane]int{}
	for i := range 1600 {
		for _, l := range []lane{laneDead, laneFresh, laneBacklog, laneAudit} {
			queued(q, fmt.Sprint(l, i), l, now)
		}
		served[q.pop(classAdd, now).lane]++
	}
	if served[laneBacklog] < 90 || served[laneAudit] < 90 || served[laneDead] < 1300 {
		t.Errorf("served %v", served)
	}
}

func TestFreshGetsOld(t *testing.T) {
	t.Parallel()
	q := newQueue()
	queued(q, "old", laneFresh, at(0))
	queued(q, "backlog", laneBacklog, at(0))
	queued(q, "new", laneFresh, at(2*time.Second))
	for _, want := range []string{"new", "backlog", "old"} {
		if it := q.pop(classAdd, at(2*time.Second)); it.name != want {
			t.Errorf("%s comes, not %s", it.name, want)
		}
	}
}

func TestQueueHasANameOnce(t *testing.T) {
	t.Parallel()
	q, now := newQueue(), at(0)
	it := queued(q, "a", laneBacklog, now)
	queued(q, "a", laneFresh, now)
	q.delay(it, now.Add(time.Second))
	if got := q.pop(classAdd, now); got != nil {
		t.Errorf("%s comes before its time", got.name)
	}
	if got := q.ripe(now); got != nil {
		t.Errorf("%s is ripe before its time", got.name)
	}
	if got := q.ripe(now.Add(time.Second)); got != it || q.ripe(now.Add(time.Second)) != nil {
		t.Errorf("%v is ripe", got)
	}
	q.delay(it, now)
	q.push(it)
	if q.ripe(now.Add(time.Hour)) != nil || q.pop(classAdd, now) != it || q.pop(classAdd, now) != nil {
		t.Error("a name is in the queue twice")
	}
	q.push(it)
	q.drop(it)
	if q.pop(classAdd, now) != nil || len(q.items) > 0 {
		t.Error("a name that was dropped comes")
	}
}

func TestSlotsFollowTheRate(t *testing.T) {
	t.Parallel()
	for rate, want := range map[float64]int{20: 6, 10: 3, 1: 1, 0.01: 1, 100: 30} {
		if got := slots(rate); got != want {
			t.Errorf("%v calls a second: %d in flight, want %d", rate, got, want)
		}
	}
}

// TestDeadAddressesGoFirst deletes a name behind a backlog of deletes that only clean up.
func TestDeadAddressesGoFirst(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		cloud := corp()
		cloud.latency, cloud.rate = 50*time.Millisecond, 20
		d := &fakeDesired{}
		for i := range 800 {
			rr := fmt.Sprint("text-", i)
			d.set(rr+".corp", wantsFor(rr, "TXT a", "TXT b"))
		}
		d.set("pod.corp", wantsFor("pod", "A 10.0.0.1", "A 10.0.0.2"))
		r := start(t, cloud, d)
		wait(5 * time.Minute)
		var names []string
		for i := range 300 {
			rr := fmt.Sprint("text-", i)
			d.set(rr+".corp", wantsFor(rr, "TXT a"))
			names = append(names, rr+".corp")
		}
		r.Touch(names...)
		wait(3 * time.Second)
		wants := wantsFor("pod", "A 10.0.0.2")
		wants[0].Urgent = true
		d.set("pod.corp", wants)
		r.Touch("pod.corp")
		wait(time.Second)
		if slices.Contains(cloud.shown("z-1"), "pod A 10.0.0.1 me") {
			t.Errorf("the address of a dead pod is still served: %s", r.Explain("pod.corp"))
		}
		if n := cloud.deletes(); n > 100 {
			t.Fatalf("%d deletes already: the test shows nothing", n)
		}
	})
}

// TestChurn changes 200 pods a second for a minute.
func TestChurn(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		cloud := corp()
		cloud.latency, cloud.rate = 50*time.Millisecond, 20
		d := &fakeDesired{}
		r := start(t, cloud, d)
		wait(time.Second)
		const services = 50
		for i := range 60 * 200 {
			rr := fmt.Sprint("web-", i%services)
			r.want(rr, "A "+address(i), "A "+address(i/3+100_000))
			time.Sleep(5 * time.Millisecond)
			pending := 0
			for _, n := range r.Status().Pending {
				pending += n
			}
			if pending > services {
				t.Fatalf("%d names in the queue", pending)
			}
		}
		started := time.Now()
		want := func() (list []string) {
			for name, wants := range d.wants {
				for _, w := range wants {
					list = append(list, fmt.Sprintf("%s A %s me", name[:len(name)-5], w.Value))
				}
			}
			slices.Sort(list)
			return list
		}()
		for !slices.Equal(want, cloud.shown("z-1")) && time.Since(started) < time.Minute {
			wait(100 * time.Millisecond)
		}
		t.Logf("as wanted %v after the churn; calls %v", time.Since(started), cloud.acted())
		if took := time.Since(started); took > 10*time.Second { // 100 values at 20 calls a second are 5 s
			t.Errorf("not as wanted %v after the churn", took)
		}
	})
}
