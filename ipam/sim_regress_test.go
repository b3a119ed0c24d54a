package ipam_test

import (
	"context"
	"errors"
	"net/netip"
	"os"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nearpath/nearpath/internal/aliyun"
	"github.com/nearpath/nearpath/internal/aliyun/sim"
	"github.com/nearpath/nearpath/ipam"
)

// What other pools of ENIs got wrong, one test for each that nothing else here covers.

// rested waits until nothing of the pool's ENIs is under way and enough is idle.
func rested(tb testing.TB, l *life, idle int) {
	tb.Helper()
	for began := time.Now(); l.pool.Unrest() != "" || l.pool.Stats().Idle < idle; time.Sleep(time.Second) {
		if time.Since(began) > 30*time.Minute {
			tb.Fatalf("no rest: %s, %+v", l.pool.Unrest(), l.pool.Stats())
		}
	}
}

func mustLease(tb testing.TB, l *life, r ipam.Request) ipam.Lease {
	tb.Helper()
	ctx, cancel := context.WithTimeout(tb.Context(), 10*time.Minute)
	defer cancel()
	lease, err := l.pool.Allocate(ctx, r)
	if err != nil {
		tb.Fatal(err)
	}
	return lease
}

func smallMarks() ipam.Settings {
	return ipam.Settings{Watermarks: ipam.Watermarks{MinIdle: 2, MaxIdle: 3}, VSwitches: []string{"vsw-0"}}
}

// An address that could not be journalled stays free, and one whose end could not be stays its owner's or cools: never
// both, never neither, also after a restart.
func TestDiskFailureIsUndone(t *testing.T) {
	t.Parallel()
	inBubble(t, "disk", podCloud(24), smallMarks(), func(t scene, land *landscape, l *life) {
		rested(t, l, 2)
		r := ipam.Request{Key: keyOf(1)}
		l.failDisk.Store(1)
		if _, err := l.pool.Allocate(t.Context(), r); !errors.Is(err, errDisk) {
			t.Errorf("a lease that is not on disk: %v", err)
		}
		if got, ok := l.pool.Lookup(r.Key); ok || len(l.pool.Leases()) > 0 || l.pool.Stats().Idle != 2 {
			t.Errorf("%+v is left of it, %+v", got, l.pool.Stats())
		}
		lease := mustLease(t, l, r)
		l.failDisk.Store(1)
		if err := l.pool.Release(t.Context(), r.Key, 0); !errors.Is(err, errDisk) {
			t.Errorf("an end that is not on disk: %v", err)
		}
		again := reborn(t, land, l) // the disk has the lease
		if got := mustLease(t, again, r); !slices.Equal(got.Addrs, lease.Addrs) {
			t.Errorf("it comes again and gets %v, had %v", got.Addrs, lease.Addrs)
		}
	})
}

// reborn begins another life on the journal of one that ends.
func reborn(tb testing.TB, land *landscape, l *life) *life {
	tb.Helper()
	c := l.config
	c.Path = l.bury(tb)
	return begin(tb, land.cloud, c, nil, nil)
}

// tokens are the client tokens that calls of an action came with, each once.
func tokens(land *landscape, action string) (list []string) {
	for _, c := range land.cloud.CallLog(0) {
		if token := c.Params["ClientToken"]; c.Action == action && !slices.Contains(list, token) {
			list = append(list, token)
		}
	}
	return list
}

// A call whose answer is lost, again and again and over a restart, is repeated with its token: one ENI, and no address
// more than were asked for.
func TestTokensOutliveTheProcess(t *testing.T) {
	t.Parallel()
	inBubble(t, "create", podCloud(24), ipam.Settings{}, func(t scene, land *landscape, l *life) {
		lost := land.cloud.Inject(sim.Fault{Action: "CreateNetworkInterface", LoseAnswer: true, Times: -1})
		blind := land.cloud.Inject(sim.Fault{Action: "DescribeNetworkInterfaces", Code: "ServiceUnavailable", Times: -1})
		l.config.Settings = smallMarks()
		if err := l.pool.Configure(l.config.Settings); err != nil {
			t.Fatal(err)
		}
		for len(land.ours()) == 0 {
			time.Sleep(time.Second)
		}
		time.Sleep(2 * time.Minute)
		again := reborn(t, land, l)
		lost.Remove()
		blind.Remove()
		rested(t, again, 2)
		if list := tokens(land, "CreateNetworkInterface"); len(list) != 1 || len(land.ours()) != 1 {
			t.Errorf("%d tokens, %d ENIs", len(list), len(land.ours()))
		}
	})
	inBubble(t, "assign", podCloud(24), smallMarks(), func(t scene, land *landscape, l *life) {
		rested(t, l, 2)
		lost := land.cloud.Inject(sim.Fault{Action: "AssignPrivateIpAddresses", LoseAnswer: true, Times: -1})
		mustLease(t, l, ipam.Request{Key: keyOf(1)})
		time.Sleep(3 * time.Minute)
		again := reborn(t, land, l)
		time.Sleep(time.Minute)
		lost.Remove()
		rested(t, again, 2)
		if list, n := tokens(land, "AssignPrivateIpAddresses"), len(land.ours()[0].PrivateIPs); len(list) != 1 || n != 3 {
			t.Errorf("%d tokens, %d addresses", len(list), n)
		}
	})
}

// The answer to a repeated assignment is the one of the first try. What it names must not have been given back meanwhile:
// after a restart the sync sees the addresses before the answer comes, and with those still asked for they are too many.
func TestRepeatedAssignmentGivesBackNothing(t *testing.T) {
	t.Parallel()
	cfg := podCloud(24)
	cfg.Latencies["AssignPrivateIpAddresses"], cfg.Latencies["UnassignPrivateIpAddresses"] = sim.Fixed(time.Second), sim.Fixed(100*time.Millisecond)
	onType(t, "restart", aliyun.InstanceType{ENIs: 2, AddressesPerENI: 4}, cfg, smallMarks(), func(t scene, land *landscape, l *life) {
		rested(t, l, 2)
		land.cloud.Inject(sim.Fault{Action: "AssignPrivateIpAddresses", After: func(sim.Call) { l.die() }})
		for i := range 2 {
			mustLease(t, l, ipam.Request{Key: keyOf(i)})
		}
		for !l.dead.Load() {
			time.Sleep(time.Second)
		}
		again := reborn(t, land, l)
		rested(t, again, 2)
		for i := 2; i < 4; i++ {
			lease := mustLease(t, again, ipam.Request{Key: keyOf(i)})
			if e := land.find(lease.ENI.ID); !slices.Contains(e.PrivateIPs, lease.Addrs[0]) {
				t.Errorf("leased %v, and the cloud has %v on %s", lease.Addrs, e.PrivateIPs, e.ID)
			}
		}
	})
}

// An ENI whose routes cannot be removed is not detached under them.
func TestTeardownFailureKeepsTheENI(t *testing.T) {
	t.Parallel()
	settings := smallMarks()
	settings.Idle = ipam.IdleReclaim{After: time.Minute, Interval: time.Second}
	inBubble(t, "teardown", podCloud(24), settings, func(t scene, land *landscape, l *life) {
		rested(t, l, 2)
		node := l.config.Links.(*links)
		node.set(ipam.LeaseENI{}, false)
		node.mu.Lock()
		node.fail = 1
		node.mu.Unlock()
		if err := l.pool.Configure(ipam.Settings{VSwitches: settings.VSwitches, Idle: settings.Idle}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(30 * time.Minute)
		if n := land.cloud.Calls()["DetachNetworkInterface"]; n > 0 || len(land.ours()) != 1 {
			t.Errorf("%d calls to detach, %d ENIs", n, len(land.ours()))
		}
		node.mu.Lock()
		node.fail = 0
		node.mu.Unlock()
		for began := time.Now(); len(land.ours()) > 0; time.Sleep(time.Second) {
			if time.Since(began) > 10*time.Minute {
				t.Fatalf("the ENI stays: %+v", l.pool.ENIs())
			}
		}
	})
}

// An ENI that takes too long to attach cannot be deleted either; it is in the end, and nothing is left of it.
func TestEndlessAttachmentLeavesNothing(t *testing.T) {
	t.Parallel()
	cfg := podCloud(24)
	cfg.States[aliyun.StatusAttaching] = sim.Fixed(5 * time.Minute)
	inBubble(t, "attach", cfg, smallMarks(), func(t scene, land *landscape, l *life) {
		for began := time.Now(); land.cloud.Calls()["DeleteNetworkInterface"] == 0; time.Sleep(time.Second) {
			if time.Since(began) > time.Hour {
				t.Fatalf("no end: %+v", l.pool.ENIs())
			}
			if n := len(land.ours()); n > roomy.ENIs-1 {
				t.Fatalf("%d ENIs", n)
			}
		}
		if err := l.pool.Configure(ipam.Settings{VSwitches: []string{"vsw-0"}}); err != nil {
			t.Fatal(err)
		}
		for began := time.Now(); len(land.ours())+len(l.pool.ENIs()) > 0; time.Sleep(time.Second) {
			if time.Since(began) > time.Hour {
				t.Fatalf("left: %+v, %+v", land.ours(), l.pool.ENIs())
			}
		}
	})
}

// Callers who never let go do not make ENIs without end.
func TestStalePodsMakeNoMoreENIs(t *testing.T) {
	t.Parallel()
	inBubble(t, "stale", podCloud(22), smallMarks(), func(t scene, land *landscape, l *life) {
		most := roomy.AddressesPerENI * (roomy.ENIs - 1)
		got := 0
		for _, o := range allAtOnce(l, 0, most+100, 20*time.Minute) {
			switch {
			case o.err == nil:
				got++
			case !errors.Is(o.err, ipam.ErrExhausted):
				t.Error(o.err)
			}
		}
		if calls := land.cloud.Calls(); got != most || len(land.ours()) != roomy.ENIs-1 || calls["CreateNetworkInterface"] != roomy.ENIs-1 {
			t.Errorf("%d leases of %d, %d ENIs, %v", got, most, len(land.ours()), calls)
		}
	})
}

// After the journal was lost, what pods use is given to nobody else, and its owners have it again.
func TestLostJournalAgainstTheCloud(t *testing.T) {
	t.Parallel()
	inBubble(t, "lost", podCloud(24), smallMarks(), func(t scene, land *landscape, l *life) {
		rested(t, l, 2)
		var inUse []ipam.InUse
		owners := map[netip.Addr]ipam.Key{}
		for i := range 8 {
			lease := mustLease(t, l, ipam.Request{Key: keyOf(i), Pod: ipam.Pod{Namespace: "ns", Name: "web"}, Exclusive: i == 3})
			inUse = append(inUse, ipam.InUse{Addr: lease.Addrs[0], Key: lease.Key, Pod: lease.Pod, Exclusive: lease.Exclusive})
			owners[lease.Addrs[0]] = lease.Key
		}
		rested(t, l, 2)
		c := l.config
		c.Path = l.bury(t)
		if err := os.WriteFile(c.Path, []byte("what a broken disk leaves of a journal"), 0o600); err != nil {
			t.Fatal(err)
		}
		failures := 3
		c.InUse = func(context.Context) ([]ipam.InUse, error) {
			if failures--; failures >= 0 {
				return nil, errors.New("the runtime does not answer")
			}
			return inUse, nil
		}
		again := begin(t, land.cloud, c, nil, nil)
		for i, o := range allAtOnce(again, 100, 20, 20*time.Minute) {
			if o.err != nil {
				t.Errorf("caller %d: %v", i, o.err)
			} else if key, used := owners[o.lease.Addrs[0]]; used {
				t.Errorf("caller %d got %v, which %s uses", i, o.lease.Addrs, key)
			}
		}
		for began := time.Now(); again.pool.Stats().Unproven > 0; time.Sleep(time.Second) {
			if time.Since(began) > 10*time.Minute {
				t.Fatalf("in doubt: %+v", again.pool.Stats())
			}
		}
		for _, u := range inUse {
			if got := mustLease(t, again, ipam.Request{Key: u.Key, Pod: u.Pod, Exclusive: u.Exclusive}); got.Addrs[0] != u.Addr || got.Exclusive != u.Exclusive {
				t.Errorf("%s uses %v and got %+v", u.Key, u.Addr, got)
			}
		}
		rested(t, again, 2)
	})
}

// Nothing that asks the pool waits for the cloud, even when every call to it hangs.
func TestHangingCloudHoldsNobodyUp(t *testing.T) {
	t.Parallel()
	inBubble(t, "hang", podCloud(24), smallMarks(), func(t scene, land *landscape, l *life) {
		rested(t, l, 2)
		hang := land.cloud.Inject(sim.Fault{Times: -1, Hang: sim.HangBefore})
		l.pool.Resync()
		synctest.Wait()
		if _, hanging := hang.Met(); hanging == 0 {
			t.Fatal("no call is under way")
		}
		began := time.Now()
		mustLease(t, l, ipam.Request{Key: keyOf(1)})
		_, _, _, _, _ = l.pool.Stats(), l.pool.ENIs(), l.pool.Leases(), l.pool.Capacity(), l.pool.VSwitches()
		if err := errors.Join(l.pool.Configure(smallMarks()), l.pool.Release(t.Context(), keyOf(1), 0)); err != nil || time.Since(began) > 0 {
			t.Errorf("%v after %s", err, time.Since(began))
		}
		hang.Remove()
	})
}
