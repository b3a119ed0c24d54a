package ipam_test

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nearpath/nearpath/internal/aliyun"
	"github.com/nearpath/nearpath/internal/aliyun/sim"
	"github.com/nearpath/nearpath/ipam"
)

// roomy is an instance type with room for 200 pods and more.
var roomy = aliyun.InstanceType{ENIs: 12, AddressesPerENI: 30, IPv6PerENI: 30, QueuesPerENI: 8}

// A served is the outcome of one call of Allocate.
type served struct {
	lease ipam.Lease
	err   error
	at    time.Time
	turn  int // in the order of the outcomes
}

// allAtOnce asks for n leases in the order of their keys, and returns the outcomes in that order.
func allAtOnce(l *life, from, n int, patience time.Duration) []served {
	outcomes := make([]served, n)
	var mu sync.Mutex
	var wg sync.WaitGroup
	turn := 0
	for i := range n {
		wg.Go(func() {
			ctx, cancel := context.WithTimeout(l.ctx, patience)
			defer cancel()
			lease, err := l.pool.Allocate(ctx, ipam.Request{Key: keyOf(from + i)})
			mu.Lock()
			defer mu.Unlock()
			outcomes[i] = served{lease, err, time.Now(), turn}
			turn++
		})
		synctest.Wait() // it is in the queue before the next one comes
	}
	wg.Wait()
	return outcomes
}

func failed(outcomes []served) (errs []error) {
	seen := map[netip.Addr]bool{}
	for i, o := range outcomes {
		if o.err != nil {
			errs = append(errs, fmt.Errorf("caller %d: %w", i, o.err))
		}
		for _, addr := range o.lease.Addrs {
			if seen[addr] {
				errs = append(errs, fmt.Errorf("caller %d got %s, which another one has", i, addr))
			}
			seen[addr] = true
		}
	}
	return errs
}

// podCloud is a cloud with vSwitches for pods of the given sizes (prefix lengths), named vsw-0, vsw-1 and so on.
func podCloud(bits ...int) sim.Config {
	cfg := sim.DefaultConfig()
	cfg.Realistic(1)
	for i, b := range bits {
		cfg.VSwitches = append(cfg.VSwitches, sim.VSwitch{
			ID: fmt.Sprint("vsw-", i), CIDR: netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 0, byte(128 + 8*i), 0}), b),
		})
	}
	return cfg
}

// A scene is the test in its bubble.
type scene struct{ *testing.T }

// inBubble runs a test of a pool on a roomy node that is ready.
func inBubble(t *testing.T, name string, cfg sim.Config, settings ipam.Settings, test func(scene, *landscape, *life)) {
	t.Helper()
	onType(t, name, roomy, cfg, settings, test)
}

func onType(t *testing.T, name string, kind aliyun.InstanceType, cfg sim.Config, settings ipam.Settings, test func(scene, *landscape, *life)) {
	t.Helper()
	t.Run(name, func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			land := landscapeOf(t, cfg, kind)
			l := begin(t, land.cloud, poolConfig(t, settings, aliyun.IPv4), nil, nil)
			<-l.pool.Ready()
			test(scene{t}, land, l)
		})
	})
}

// Many pods start at once on a node that has nothing.
func TestBurst(t *testing.T) {
	t.Parallel()
	settings := ipam.Settings{Watermarks: ipam.Watermarks{MaxIdle: 10}, VSwitches: []string{"vsw-0"}}
	inBubble(t, "few calls", podCloud(22), settings, func(t scene, land *landscape, l *life) {
		began := time.Now()
		for _, err := range failed(allAtOnce(l, 0, 200, 10*time.Minute)) {
			t.Error(err)
		}
		calls := land.cloud.Calls()
		assigns, created := calls["AssignPrivateIpAddresses"], calls["CreateNetworkInterface"]
		t.Logf("200 pods: %d ENIs created, %d AssignPrivateIpAddresses, at most %d allowed; all calls: %v; %s in the cloud's time",
			created, assigns, 20+created, calls, time.Since(began).Round(time.Millisecond))
		if assigns > 20+created {
			t.Errorf("%d calls to assign addresses and %d ENIs for 200 pods", assigns, created)
		}
		if ours := len(land.ours()); created != ours || ours > roomy.ENIs-1 {
			t.Errorf("%d ENIs created, %d are there", created, ours)
		}
	})
	settings.VSwitches = []string{"vsw-0", "vsw-1"}
	inBubble(t, "a vSwitch runs out", podCloud(23, 24), settings, func(t scene, land *landscape, l *life) {
		// When the pool has looked where to put its ENIs somebody else takes all but a few addresses of the one it chooses.
		crowd := land.cloud.Inject(sim.Fault{Action: "DescribeVSwitches", After: func(sim.Call) { land.fill("vsw-0", 35) }})
		for _, err := range failed(allAtOnce(l, 0, 200, 10*time.Minute)) {
			t.Error(err)
		}
		in := map[string]int{}
		for _, e := range land.ours() {
			in[e.VSwitchID] += len(e.PrivateIPs)
		}
		t.Logf("addresses by vSwitch: %v, %v", in, land.cloud.Calls())
		if met, _ := crowd.Met(); met != 1 || in["vsw-0"] < 35 || in["vsw-1"] < 100 {
			t.Errorf("the vSwitch was filled %d times, addresses are in %v", met, in)
		}
	})
	inBubble(t, "most calls are throttled", podCloud(22), settings, throttledBurst)
	inBubble(t, "the cloud is down", podCloud(22), ipam.Settings{Watermarks: ipam.Watermarks{MinIdle: 20, MaxIdle: 20}, VSwitches: []string{"vsw-0"}}, func(t scene, land *landscape, l *life) {
		for s := l.pool.Stats(); s.Idle < 20; s = l.pool.Stats() {
			time.Sleep(time.Second)
		}
		l.down.Store(true)
		before := time.Now()
		outcomes := allAtOnce(l, 0, 30, time.Hour)
		for i, o := range outcomes {
			waited := o.at.Sub(before)
			switch {
			case i < 20 && (o.err != nil || waited > 0):
				t.Errorf("caller %d, while the pool lasted: %v after %s", i, o.err, waited)
			case i >= 20 && (!errors.Is(o.err, ipam.ErrExhausted) || !errors.Is(o.err, aliyun.ErrUnavailable) || !strings.Contains(o.err.Error(), errDown.Error()) || waited > time.Minute):
				t.Errorf("caller %d, after that: %v after %s", i, o.err, waited)
			}
		}
		t.Logf("20 served, 10 refused after %s", outcomes[29].at.Sub(before).Round(time.Millisecond))
		began := time.Now()
		if o := allAtOnce(l, 30, 1, time.Hour)[0]; !errors.Is(o.err, ipam.ErrExhausted) || o.at.Sub(began) > time.Second {
			t.Errorf("one who comes later: %v after %s", o.err, o.at.Sub(began))
		}
		l.down.Store(false)
		time.Sleep(time.Minute) // the pool looks every half minute
		for _, err := range failed(allAtOnce(l, 40, 30, 10*time.Minute)) {
			t.Errorf("when the cloud is back: %v", err)
		}
	})
}

// throttledBurst lets the cloud refuse four calls of five.
func throttledBurst(t scene, land *landscape, l *life) {
	throttling := land.cloud.Inject(sim.Fault{Probability: 0.8, Code: "Throttling.User"})
	after := len(land.cloud.CallLog(0))
	outcomes := allAtOnce(l, 0, 200, 6*time.Hour)
	refused := len(failed(outcomes))
	// Those who are served at one moment return in any order.
	overtaken := 0
	for i := range outcomes[1:] {
		if outcomes[i+1].err == nil && outcomes[i+1].at.Before(outcomes[i].at) {
			overtaken++
		}
	}
	if overtaken > 0 {
		t.Errorf("%d of 200 callers were overtaken", overtaken)
	}
	// A call that runs out of its time counts as a cloud that is away. Who is refused for that comes again, as kubelet does.
	for i, o := range outcomes {
		for try := 0; o.err != nil && try < 3; try++ {
			time.Sleep(10 * time.Second)
			o = allAtOnce(l, i, 1, 6*time.Hour)[0]
		}
		if outcomes[i] = o; o.err != nil {
			t.Errorf("caller %d starves: %v", i, o.err)
		}
	}
	throttling.Remove()
	perMinute := map[string]map[int]int{}
	throttled := 0
	calls := land.cloud.CallLog(0)[after:]
	for _, c := range calls {
		if perMinute[c.Action] == nil {
			perMinute[c.Action] = map[int]int{}
		}
		perMinute[c.Action][int(c.Started.Sub(calls[0].Started)/time.Minute)]++
		if c.Code == "Throttling.User" {
			throttled++
		}
	}
	most := map[string]int{}
	for action, minutes := range perMinute {
		for _, n := range minutes {
			most[action] = max(most[action], n)
		}
		if budget := budgetOf(action); most[action] > budget+budget/3 {
			t.Errorf("%d calls of %s in a minute, the budget is %d and a third of it at once", most[action], action, budget)
		}
	}
	t.Logf("%d of %d calls throttled; %d callers refused at first; last caller served after %s; most calls in a minute: %v", throttled, len(calls), refused,
		slices.MaxFunc(outcomes, func(a, b served) int { return a.at.Compare(b.at) }).at.Sub(calls[0].Started).Round(time.Second), most)
}

// budgetOf is what aliyun.Config says of calls per minute.
func budgetOf(action string) int {
	if action == "DescribeNetworkInterfaces" {
		return 60
	}
	return 30
}

// While an address is free Allocate asks nobody, whatever the cloud is like.
func TestNoCloudCallOnTheAllocatePath(t *testing.T) {
	t.Parallel()
	settings := ipam.Settings{Watermarks: ipam.Watermarks{MinIdle: 12, MaxIdle: 12}, VSwitches: []string{"vsw-0"}}
	for name, trouble := range map[string]func(*landscape, *life){
		"cloud up":   func(*landscape, *life) {},
		"cloud down": func(_ *landscape, l *life) { l.down.Store(true) },
		"cloud hangs": func(land *landscape, _ *life) {
			land.cloud.Inject(sim.Fault{Times: -1, Hang: sim.HangBefore})
		},
		"cloud throttles": func(land *landscape, _ *life) {
			land.cloud.Inject(sim.Fault{Times: -1, Code: "Throttling"})
		},
	} {
		inBubble(t, name, podCloud(22), settings, func(t scene, land *landscape, l *life) {
			for l.pool.Stats().Idle < 12 || l.pool.Unrest() != "" {
				time.Sleep(time.Second)
			}
			trouble(land, l)
			l.pool.Resync() // a call is under way meanwhile
			synctest.Wait()
			for i := range 12 {
				requests, began := l.steps.Load(), time.Now()
				lease, err := l.pool.Allocate(t.Context(), ipam.Request{Key: keyOf(i)})
				if err != nil || time.Since(began) > 0 {
					t.Errorf("lease %d: %v after %s", i, err, time.Since(began))
				}
				// The steps are those of the journal: before and after the one commit.
				if n := l.steps.Load() - requests; n != 2 || len(lease.Addrs) != 1 {
					t.Errorf("lease %d took %d steps", i, n)
				}
				if err := l.pool.Release(t.Context(), keyOf(i), time.Hour); err != nil || time.Since(began) > 0 {
					t.Errorf("release %d: %v after %s", i, err, time.Since(began))
				}
			}
		})
	}
}
