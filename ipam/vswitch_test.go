package ipam

import (
	"context"
	"fmt"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nearpath/nearpath/internal/aliyun"
)

func TestChooseVSwitch(t *testing.T) {
	now := time.Unix(1000, 0)
	list := []aliyun.VSwitch{
		{ID: "few", ZoneID: "z", AvailableIPs: 5}, {ID: "other-zone", ZoneID: "y", AvailableIPs: 99},
		{ID: "many", ZoneID: "z", AvailableIPs: 50}, {ID: "none", ZoneID: "z"}, {ID: "middle", ZoneID: "z", AvailableIPs: 20},
	}
	shut := func(ids ...string) breakers {
		b := breakers{}
		for _, id := range ids {
			b[id] = breaker{}.refused(aliyun.ErrVSwitchFull, now)
		}
		return b
	}
	probing := shut("many", "few", "middle")
	probing.probe("many", now.Add(time.Hour))
	for name, c := range map[string]struct {
		choice choice
		want   string
		most   int
	}{
		"most free":                   {choice{policy: MostFree}, "many", 50},
		"promised ones count":         {choice{policy: MostFree, promised: map[string]int{"many": 40}}, "middle", 20},
		"full one is passed over":     {choice{policy: MostFree, breakers: shut("many")}, "middle", 20},
		"all are full":                {choice{policy: MostFree, breakers: shut("many", "few", "middle")}, "", 0},
		"one as a trial":              {choice{policy: MostFree, breakers: shut("many", "few", "middle"), now: now.Add(time.Hour)}, "", 1},
		"the most free on trial":      {choice{policy: MostFree, breakers: shut("many"), now: now.Add(time.Hour)}, "many", 1},
		"only one trial":              {choice{policy: Ordered, ids: []string{"many", "few", "middle"}, breakers: probing, now: now.Add(time.Hour)}, "few", 1},
		"in order":                    {choice{policy: Ordered, ids: []string{"none", "other-zone", "few", "many", "middle"}}, "few", 5},
		"in order, what is not full":  {choice{policy: Ordered, ids: []string{"none", "few", "many", "middle"}, breakers: shut("few")}, "many", 50},
		"at random":                   {choice{policy: Random, random: func(n int) int { return n - 1 }}, "middle", 20},
		"at random, what is not full": {choice{policy: Random, breakers: shut("middle"), random: func(n int) int { return n - 1 }}, "many", 50},
	} {
		c.choice.zone, c.choice.instance = "z", "i-1"
		if c.choice.now.IsZero() {
			c.choice.now = now
		}
		got, most := c.choice.of(list)
		if c.want != "" && got.ID != c.want || most != c.most {
			t.Errorf("%s: %q for %d, want %q for %d", name, got.ID, most, c.want, c.most)
		}
	}
}

// Nodes do not all take from the same vSwitch when several have as many addresses, and each node chooses the same again.
func TestEqualVSwitchesAreShared(t *testing.T) {
	list := []aliyun.VSwitch{{ID: "vsw-1", AvailableIPs: 100}, {ID: "vsw-2", AvailableIPs: 100}, {ID: "vsw-3", AvailableIPs: 100}}
	chosen := map[string]int{}
	for i := range 300 {
		c := choice{policy: MostFree, instance: fmt.Sprintf("i-%04d", i)}
		v, _ := c.of(list)
		if again, _ := c.of(list); again.ID != v.ID {
			t.Fatalf("%s, then %s", v.ID, again.ID)
		}
		chosen[v.ID]++
	}
	for _, v := range list {
		if chosen[v.ID] < 50 {
			t.Errorf("of 300 nodes: %v", chosen)
		}
	}
}

func TestBreaker(t *testing.T) {
	now := time.Unix(1000, 0)
	b := breaker{}
	if b.state(now) != BreakerClosed || b.allows(now) < 1000 {
		t.Errorf("fresh: %s", b.state(now))
	}
	for i, minutes := range []int{1, 2, 4, 8, 10, 10} {
		b = b.refused(aliyun.ErrVSwitchFull, now)
		before := now.Add(time.Duration(minutes)*time.Minute - 1)
		if b.state(before) != BreakerOpen || b.allows(before) != 0 {
			t.Errorf("refusal %d, just before %dm: %s", i+1, minutes, b.state(before))
		}
		now = before.Add(1)
		if b.state(now) != BreakerHalfOpen || b.allows(now) != 1 {
			t.Errorf("refusal %d, after %dm: %s", i+1, minutes, b.state(now))
		}
	}
}

func twoVSwitches(free int) *fakeCloud {
	cloud := newFakeCloud(3, 12)
	cloud.vSwitches["vsw-a"].AvailableIPs = free
	cloud.vSwitches["vsw-b"] = &aliyun.VSwitch{ID: "vsw-b", ZoneID: "z-1", CIDR: netip.MustParsePrefix("10.2.0.0/16"), AvailableIPs: 500}
	return cloud
}

// An ENI in a vSwitch that runs out takes what is left there, and the rest comes from another vSwitch: nobody fails.
func TestVSwitchRunsOutInABurst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cloud := twoVSwitches(7)
		c := testConfig(t, cloud)
		c.Settings.VSwitches, c.Settings.VSwitchPolicy = []string{"vsw-a", "vsw-b"}, Ordered
		c.Settings.Watermarks = Watermarks{MinIdle: 2, MaxIdle: 4}
		p := mustOpen(t, c)
		defer start(t, p)()
		eventually(t, "idle", func() bool { return p.Stats().Idle == 2 })
		for i, err := range allocateAtOnce(p, 20) {
			if err != nil {
				t.Errorf("caller %d: %v", i, err)
			}
		}
		if left := cloud.vSwitch("vsw-a").AvailableIPs; left != 0 {
			t.Errorf("%d of the 7 addresses of vsw-a are unused", left)
		}
		views := p.VSwitches()
		if len(views) != 2 || views[0].Breaker != BreakerOpen || views[0].Err == nil || views[1].Breaker != BreakerClosed || views[0].ENIs != 1 {
			t.Errorf("vSwitches are %+v", views)
		}
		// Later there are addresses again: one is asked for, and the vSwitch is back.
		cloud.set(func() { cloud.vSwitches["vsw-a"].AvailableIPs = 100; cloud.vSwitches["vsw-b"].AvailableIPs = 0 })
		for i := 20; i < 25; i++ { // what vsw-a's ENI has room for
			allocateSoon(t, p, i)
		}
		if v := p.VSwitches()[0]; v.Breaker != BreakerClosed || v.Err != nil {
			t.Errorf("vsw-a is %+v", v)
		}
	})
}

// allocateSoon tries again after an error, as a runtime does, for some minutes.
func allocateSoon(t *testing.T, p *Pool, i int) {
	t.Helper()
	eventuallyIn(t, 20*time.Minute, fmt.Sprintf("lease %d", i), func() bool {
		ctx, cancel := within(time.Minute)
		defer cancel()
		_, err := p.Allocate(ctx, Request{Key: key(i)})
		return err == nil
	})
}

func allocateAtOnce(p *Pool, n int) []error {
	errs := make([]error, n)
	done := make(chan struct{})
	for i := range n {
		go func() {
			ctx, cancel := within(2 * time.Minute)
			defer cancel()
			_, errs[i] = p.Allocate(ctx, Request{Key: key(i)})
			done <- struct{}{}
		}()
	}
	for range n {
		<-done
	}
	return errs
}

// A creation that the vSwitch cannot serve in full is repeated for half as many.
func TestCreationTakesWhatIsLeft(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cloud := newFakeCloud(1, 12)
		c := testConfig(t, cloud)
		c.Settings.Watermarks = Watermarks{MinIdle: 8, MaxIdle: 8}
		// The listing shows more than there is.
		lying := &lyingCloud{fakeCloud: cloud, shown: 100}
		cloud.vSwitches["vsw-a"].AvailableIPs = 3
		c.Cloud = lying
		p := mustOpen(t, c)
		defer start(t, p)()
		eventually(t, "what there is", func() bool { return p.Stats().Idle == 3 })
		if made := len(cloud.ours()); made != 1 {
			t.Errorf("%d ENIs", made)
		}
	})
}

type lyingCloud struct {
	*fakeCloud
	shown int
}

func (c *lyingCloud) DescribeVSwitches(ctx context.Context, ids []string) ([]aliyun.VSwitch, error) {
	list, err := c.fakeCloud.DescribeVSwitches(ctx, ids)
	for i := range list {
		list[i].AvailableIPs = c.shown
	}
	return list, err
}

// A full vSwitch does not keep addresses from being given back, nor leases from ending.
func TestFullVSwitchDoesNotStopGivingBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cloud := newFakeCloud(1, 20)
		cloud.vSwitches["vsw-a"].AvailableIPs = 12
		c := testConfig(t, cloud)
		c.Settings.Watermarks = Watermarks{MaxIdle: 1, MinIdle: 1}
		p := mustOpen(t, c)
		defer start(t, p)()
		allocateAtOnce(p, 14)
		if free := cloud.vSwitch("vsw-a").AvailableIPs; free != 0 {
			t.Fatalf("%d addresses left", free)
		}
		for i := range 14 {
			if err := p.Release(t.Context(), key(i), 0); err != nil {
				t.Fatal(err)
			}
		}
		eventuallyIn(t, time.Hour, "given back", func() bool { return cloud.vSwitch("vsw-a").AvailableIPs == 11 })
	})
}

// Quotas of ENIs stop creating for a while; ENIs that are there still get addresses.
func TestQuotaStopsCreatingOnly(t *testing.T) {
	for _, quota := range []error{aliyun.ErrENICount, aliyun.ErrENITotal, aliyun.ErrGroupFull} {
		synctest.Test(t, func(t *testing.T) {
			cloud := newFakeCloud(3, 6)
			p := mustOpen(t, testConfig(t, cloud))
			defer start(t, p)()
			eventually(t, "idle", func() bool { return p.Stats().Idle == 2 })
			cloud.set(func() {
				cloud.fail = func(call string) error {
					if call == "CreateENI" {
						return fmt.Errorf("refused: %w", quota)
					}
					return nil
				}
			})
			created := cloud.count("CreateENI")
			served, began := 0, time.Now()
			for _, err := range allocateAtOnce(p, 8) {
				if err == nil {
					served++
				} else if !errorsAre(err, ErrExhausted, quota) {
					t.Errorf("reason is missing: %v", err)
				}
			}
			if calls := cloud.count("CreateENI") - created; served != 6 || calls > 2 || time.Since(began) > 2*time.Minute {
				t.Errorf("%d of 6 served after %s, %d calls to create", served, time.Since(began), calls)
			}
			cloud.set(func() { cloud.fail = nil })
			eventually(t, "a new ENI", func() bool { return len(cloud.ours()) == 2 })
		})
	}
}

func TestPreferENI(t *testing.T) {
	for name, c := range map[string]struct {
		policy ENIPolicy
		better candidate
		worse  candidate
	}{
		"fewest pods per queue":      {BalanceQueues, candidate{pods: 6, queues: 4}, candidate{pods: 2, queues: 1}},
		"a device without a number":  {BalanceQueues, candidate{pods: 1}, candidate{pods: 4, queues: 2}},
		"the first of equals":        {BalanceQueues, candidate{pods: 2, queues: 2, slot: 1}, candidate{pods: 4, queues: 4, slot: 2}},
		"the one with the most":      {MostIPs, candidate{addresses: 9, pods: 8}, candidate{addresses: 5}},
		"the one with the fewest":    {LeastIPs, candidate{addresses: 5, pods: 4}, candidate{addresses: 9}},
		"the first of equals by IPs": {LeastIPs, candidate{addresses: 5, slot: 1}, candidate{addresses: 5, slot: 2}},
	} {
		if c.policy.prefer(c.better, c.worse) >= 0 || c.policy.prefer(c.worse, c.better) <= 0 {
			t.Errorf("%s: %+v is not before %+v", name, c.better, c.worse)
		}
	}
}

func TestPodsAreBalancedOverQueues(t *testing.T) {
	a, b := holding("a", ENIInUse, 20), holding("b", ENIInUse, 20)
	a.Queues = 1
	l := ledgerWith(limits{ENIs: 2, AddressesPerENI: 20, QueuesPerENI: 3}, a, b)
	for i := range 16 {
		if err := l.reserve(Request{Key: key(i)}, rules{policy: BalanceQueues}, time.Unix(1, 0), time.Second); err != nil {
			t.Fatal(err)
		}
	}
	if onA, onB := l.podsOn("a"), l.podsOn("b"); onA != 4 || onB != 12 {
		t.Errorf("%d pods on the ENI with 1 queue and %d on the one with 3, want 4 and 12", onA, onB)
	}
}
