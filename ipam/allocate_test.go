package ipam

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nearpath/nearpath/internal/aliyun"
)

// A lease that cannot be written is not given, and the address is there for the next caller.
func TestFailedWriteLeaksNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := testConfig(t, newFakeCloud(1, 2))
		p := mustOpen(t, c)
		defer start(t, p)()
		eventually(t, "idle", func() bool { return p.Stats().Idle == 2 })
		full := errors.New("no space left on device")
		p.journal.turn.Lock()
		p.journal.fault = func(bool) error { return full }
		p.journal.turn.Unlock()
		ctx, cancel := within(time.Minute)
		defer cancel()
		if l, err := p.Allocate(ctx, Request{Key: key(1)}); !errors.Is(err, full) || l.Addrs != nil {
			t.Errorf("got %v, %v", l.Addrs, err)
		}
		if _, ok := p.Lookup(key(1)); ok || p.Stats().Used != 0 {
			t.Errorf("used %d", p.Stats().Used)
		}
		p.journal.turn.Lock()
		p.journal.fault = nil
		p.journal.turn.Unlock()
		mustAllocate(t, p, 2)
		mustAllocate(t, p, 3)
	})
}

// A nosyCloud looks at the pool during each call: that ends only if the pool's lock is not held meanwhile.
type nosyCloud struct {
	*fakeCloud
	pool *Pool
}

func (c *nosyCloud) look() { _ = c.pool.Stats() }

type nosyLinks struct {
	*fakeLinks
	look func()
}

func (l *nosyLinks) EnsureENI(ctx context.Context, e LeaseENI) error {
	l.look()
	return l.fakeLinks.EnsureENI(ctx, e)
}

func (l *nosyLinks) RemoveENI(ctx context.Context, e LeaseENI) error {
	l.look()
	return l.fakeLinks.RemoveENI(ctx, e)
}

func TestNoLockIsHeldWhileWaiting(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cloud := &nosyCloud{fakeCloud: newFakeCloud(3, 4)}
		cloud.fail = func(string) error { cloud.look(); return nil } // in every call
		c := testConfig(t, cloud)
		c.Links = &nosyLinks{newFakeLinks(), cloud.look}
		c.InUse = func(context.Context) ([]InUse, error) { cloud.look(); return nil, nil }
		c.Settings.Watermarks, c.Settings.Idle = Watermarks{MinIdle: 1, MaxIdle: 1}, IdleReclaim{After: time.Minute}
		p := mustOpen(t, c)
		cloud.pool = p
		p.journal.fault = func(bool) error { cloud.look(); return nil }
		defer start(t, p)()
		for i := range 5 {
			mustAllocate(t, p, i)
		}
		exclusively(t, p, 5)
		cloud.set(func() {
			cloud.enis["eni-1"].PrivateIPs = append(cloud.enis["eni-1"].PrivateIPs, cloud.mint(aliyun.IPv4, 1)...)
			cloud.enis["eni-1"].DeleteOnRelease = false
		})
		eventually(t, "repaired", func() bool { return cloud.count("ModifyENI") > 0 }) // after the next sync
		for i := range 6 {
			if err := p.Release(t.Context(), key(i), 0); err != nil {
				t.Fatal(err)
			}
		}
		eventuallyIn(t, time.Hour, "all kinds of calls", func() bool {
			return cloud.count("DeleteENI") > 0 && cloud.count("UnassignIPs") > 0
		})
	})
}

// What is free at the moment is for those who wait already.
func TestWaitersComeFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := mustOpen(t, testConfig(t, newFakeCloud(1, 4)))
		defer start(t, p)()
		eventually(t, "idle", func() bool { return p.Stats().Idle == 2 })
		p.mu.Lock()
		p.queue = append(p.queue, &waiter{request: Request{Key: key(1)}, served: make(chan offer, 1)})
		p.mu.Unlock()
		late := p.ask(Request{Key: key(2)})
		if len(late.served) > 0 {
			t.Error("a newcomer was served before the one who waits")
		}
		p.mu.Lock()
		first := p.queue[0]
		p.announce()
		p.mu.Unlock()
		if len(first.served) != 1 || len(late.served) != 1 {
			t.Error("two are free, and not both were served")
		}
	})
}

// Leases that come shortly after each other are made up for together.
func TestLostLeasesAreGathered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cloud := newFakeCloud(1, 40)
		c := testConfig(t, cloud)
		c.Settings.Watermarks = Watermarks{MinIdle: 9, MaxIdle: 9}
		p := mustOpen(t, c)
		defer start(t, p)()
		eventually(t, "idle", func() bool { return p.Stats().Idle == 9 })
		time.Sleep(time.Minute)
		for i := range 9 {
			mustAllocate(t, p, i)
			time.Sleep(gatherFor / 10)
		}
		eventually(t, "idle again", func() bool { return p.Stats().Idle == 9 })
		if n := cloud.count("AssignIPs"); n != 1 {
			t.Errorf("%d calls for 9 addresses", n)
		}
	})
}

// The answer to a creation is lost and its repetition refused: the ENI may be there, and so none is made in its place.
func TestUnclearCreationCounts(t *testing.T) {
	for _, refusal := range []error{aliyun.ErrConflict, aliyun.ErrForbidden} {
		synctest.Test(t, func(t *testing.T) {
			cloud := newFakeCloud(1, 4)
			lossy := &lossyCloud{fakeCloud: cloud, at: 3} // after the listings of the first sync
			c := testConfig(t, lossy)
			created := 0
			cloud.fail = func(call string) error {
				if call == "CreateENI" {
					if created++; created > 1 {
						return refusal
					}
				}
				return nil
			}
			p := mustOpen(t, c)
			defer start(t, p)()
			eventually(t, "found by its tag", func() bool { return p.Stats().Idle == 2 })
			if cloud.count("CreateENI") != 2 || cloud.most != 1 {
				t.Errorf("%d calls to create, %d ENIs", cloud.count("CreateENI"), cloud.most)
			}
		})
	}
}
