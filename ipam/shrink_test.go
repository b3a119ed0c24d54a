package ipam

import (
	"testing"
	"testing/synctest"
	"time"
)

// A surplus ENI goes as a whole, not address by address.
func TestSurplusENIIsDrained(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cloud := newFakeCloud(3, 5)
		c := testConfig(t, cloud)
		c.Settings.Watermarks = Watermarks{MinIdle: 1, MaxIdle: 2}
		p := mustOpen(t, c)
		defer start(t, p)()
		for i := range 10 {
			mustAllocate(t, p, i)
		}
		released := time.Now()
		for i := 1; i < 10; i++ {
			if err := p.Release(t.Context(), key(i), 0); err != nil {
				t.Fatal(err)
			}
		}
		eventuallyIn(t, time.Hour, "one ENI", func() bool { return len(cloud.ours()) == 1 })
		if age := time.Since(released); age < 10*time.Minute {
			t.Errorf("gone after %s", age)
		}
		eventuallyIn(t, time.Hour, "idle at the mark", func() bool { return p.Stats().Idle <= 2 })
		if _, ok := p.Lookup(key(0)); !ok {
			t.Error("a lease was lost")
		}
		if calls := cloud.count("UnassignIPs"); calls > 1 {
			t.Errorf("%d calls to unassign addresses of ENIs that go anyway", calls)
		}
	})
}

func TestMinENIsAreKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cloud := newFakeCloud(3, 5)
		c := testConfig(t, cloud)
		c.Settings.ENIs.Min = 2
		p := mustOpen(t, c)
		defer start(t, p)()
		eventually(t, "two ENIs", func() bool { return len(cloud.ours()) == 2 })
		time.Sleep(time.Hour) // the bubble's clock jumps
		if got := len(cloud.ours()); got != 2 || cloud.count("CreateENI") != 2 {
			t.Errorf("%d ENIs, %d created", got, cloud.count("CreateENI"))
		}
	})
}

// An ENI that is about to go serves again, as long as detaching has not begun.
func TestDrainingENIIsTakenBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cloud := newFakeCloud(2, 3)
		c := testConfig(t, cloud)
		c.Settings.Watermarks = Watermarks{MinIdle: 1, MaxIdle: 2}
		links := newFakeLinks()
		c.Links = links
		p := mustOpen(t, c)
		defer start(t, p)()
		for i := range 4 {
			mustAllocate(t, p, i)
		}
		stuck := p.ENIs()[1].MAC
		links.set(func() { links.stuck = stuck }) // RemoveENI fails
		if err := p.Release(t.Context(), key(3), 0); err != nil {
			t.Fatal(err)
		}
		for i := range 3 {
			if l, _ := p.Lookup(key(i)); l.ENI.MAC == stuck {
				if err := p.Release(t.Context(), key(i), 0); err != nil {
					t.Fatal(err)
				}
				mustAllocate(t, p, i) // on the other one
			}
		}
		if err := p.Release(t.Context(), key(0), 0); err != nil {
			t.Fatal(err)
		}
		eventuallyIn(t, time.Hour, "draining", func() bool { return p.ENIs()[1].State == ENIDraining })
		detached := cloud.count("DetachENI")
		for i := 10; i < 12; i++ {
			mustAllocate(t, p, i)
		}
		if e := p.ENIs()[1]; e.State != ENIInUse || !e.Wired || cloud.count("DetachENI") != detached {
			t.Errorf("ENI is %+v, %d detached", e, cloud.count("DetachENI")-detached)
		}
	})
}

func TestWarmUpIsReachedOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cloud := newFakeCloud(1, 20)
		c := testConfig(t, cloud)
		c.Settings.Watermarks = Watermarks{MinIdle: 1, MaxIdle: 3, WarmUp: 15}
		p := mustOpen(t, c)
		defer start(t, p)()
		eventually(t, "fifteen addresses", func() bool { return p.Stats().Idle == 15 })
		eventuallyIn(t, 2*time.Hour, "only the mark's", func() bool { return p.Stats().Idle == 3 })
	})
}

func TestIdleReclaimKeepsItsPace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cloud := newFakeCloud(1, 40)
		c := testConfig(t, cloud)
		c.Settings.Watermarks = Watermarks{MaxIdle: 1, WarmUp: 31}
		c.Settings.Idle = IdleReclaim{After: 20 * time.Minute, Interval: 4 * time.Minute, Batch: 10}
		c.Settings.ENIs.Min = 1
		p := mustOpen(t, c)
		defer start(t, p)()
		eventually(t, "all", func() bool { return p.Stats().Idle == 31 })
		began := time.Now()
		for _, left := range []int{21, 11, 1} {
			eventuallyIn(t, 2*time.Hour, "a batch", func() bool { return p.Stats().Idle <= left })
			if got := p.Stats().Idle; got != left {
				t.Errorf("%d left, want %d", got, left)
			}
		}
		if took := time.Since(began); took < 27*time.Minute || took > 31*time.Minute {
			t.Errorf("took %s, want 20m and 2 intervals of 4m", took)
		}
	})
}

// A short pace is kept though nothing happens that would have the pool look.
func TestIdleAddressesGoWhenTheyAreOldEnough(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cloud := newFakeCloud(1, 6)
		c := testConfig(t, cloud)
		c.Settings.Watermarks = Watermarks{MinIdle: 1, MaxIdle: 1}
		c.Settings.Idle = IdleReclaim{After: 3 * time.Second, Interval: time.Second, Batch: 2}
		c.Settings.Cooldown = time.Second
		p := mustOpen(t, c)
		defer start(t, p)()
		for i := range 5 {
			mustAllocate(t, p, i)
		}
		time.Sleep(syncEvery / 2) // the start is over, and what it looks for again
		for i := 1; i < 5; i++ {  // the first one has the primary address
			if err := p.Release(t.Context(), key(i), 0); err != nil {
				t.Fatal(err)
			}
		}
		released := time.Now()
		eventually(t, "two addresses", func() bool { return len(p.ENIs()[0].Addresses) == 2 })
		if took := time.Since(released); took > 10*time.Second {
			t.Errorf("took %s, want what cooling, two batches and their calls take", took)
		}
	})
}
