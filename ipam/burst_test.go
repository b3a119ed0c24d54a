package ipam

import (
	"errors"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nearpath/nearpath/internal/aliyun"
)

func TestBurstTakesFewCalls(t *testing.T) {
	for name, c := range map[string]struct {
		enis, perENI int
		warm         bool
		families     []aliyun.Family
	}{
		"cold":       {5, 50, false, dualStack[:1]},
		"cold, many": {12, 20, false, dualStack[:1]},
		"one ENI":    {4, 60, true, dualStack[:1]},
		"dual stack": {12, 20, false, dualStack},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				cloud := newFakeCloud(c.enis, c.perENI)
				cloud.latency = time.Second
				config := testConfig(t, cloud)
				config.Families = c.families
				p := mustOpen(t, config)
				defer start(t, p)()
				if c.warm {
					eventually(t, "idle", func() bool { return p.Stats().Idle == 2 })
				}
				for i, err := range allocateAtOnce(p, 200) {
					if err != nil {
						t.Fatalf("caller %d: %v", i, err)
					}
				}
				for _, f := range c.families {
					if assigns := cloud.count("AssignIPs" + f.String()); assigns > 20+len(cloud.ours()) {
						t.Errorf("%d calls to assign %v addresses and %d ENIs, for 200 pods", assigns, f, len(cloud.ours()))
					}
				}
				if created := cloud.count("CreateENI"); created != len(cloud.ours()) || created > 11 {
					t.Errorf("%d ENIs created, for 200 pods with %d each", created, c.perENI)
				}
			})
		})
	}
}

// Of ten calls the cloud throttles eight. Callers are served in the order in which they came, none is forgotten.
func TestThrottledCloudServesInOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cloud := newFakeCloud(4, 10)
		luck := rand.New(rand.NewPCG(1, 2))
		cloud.fail = func(string) error {
			if luck.IntN(10) < 8 {
				return aliyun.ErrThrottled
			}
			return nil
		}
		c := testConfig(t, cloud)
		c.Settings.Watermarks = Watermarks{}
		p := mustOpen(t, c)
		defer start(t, p)()
		var wg sync.WaitGroup
		var mu sync.Mutex
		var order []int
		for i := range 40 {
			wg.Go(func() {
				ctx, cancel := within(30 * time.Minute)
				defer cancel()
				if _, err := p.Allocate(ctx, Request{Key: key(i)}); err != nil {
					t.Errorf("caller %d: %v", i, err)
				}
				mu.Lock()
				defer mu.Unlock()
				order = append(order, i)
			})
			synctest.Wait() // the caller is in the queue before the next one comes
		}
		wg.Wait()
		if t.Failed() {
			return
		}
		// Those who are served at one moment return in any order: compare the moments.
		p.mu.Lock()
		var since []time.Time
		for i := range 40 {
			since = append(since, p.ledger.owned(key(i))[0].Since)
		}
		p.mu.Unlock()
		if len(order) != 40 || !slices.IsSortedFunc(since, time.Time.Compare) {
			t.Errorf("served in the order %v", order)
		}
	})
}

// One who comes later does not get what another one waits for.
func TestNewcomerDoesNotOvertake(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := testConfig(t, newFakeCloud(1, 1))
		c.Settings.Watermarks = Watermarks{}
		p := mustOpen(t, c)
		defer start(t, p)()
		mustAllocate(t, p, 0)
		if err := p.Release(t.Context(), key(0), 0); err != nil {
			t.Fatal(err)
		}
		first := make(chan error)
		go func() {
			ctx, cancel := within(time.Minute)
			defer cancel()
			_, err := p.Allocate(ctx, Request{Key: key(1)})
			first <- err
		}()
		synctest.Wait()
		time.Sleep(29 * time.Second)
		ctx, cancel := within(10 * time.Second)
		defer cancel()
		if l, err := p.Allocate(ctx, Request{Key: key(2)}); !errors.Is(err, ErrExhausted) {
			t.Errorf("the newcomer got %v, %v", l.Addrs, err)
		}
		if err := <-first; err != nil {
			t.Error(err)
		}
	})
}

func TestCooldown(t *testing.T) {
	for _, reuse := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			c := testConfig(t, newFakeCloud(1, 2))
			c.Settings = Settings{Watermarks: Watermarks{MaxIdle: 2}, Cooldown: time.Minute, ReuseCooling: reuse}
			p := mustOpen(t, c)
			defer start(t, p)()
			first, second := mustAllocate(t, p, 1), mustAllocate(t, p, 2)
			if err := errors.Join(p.Release(t.Context(), key(1), 0), p.Release(t.Context(), key(2), 0)); err != nil {
				t.Fatal(err)
			}
			began := time.Now()
			ctx, cancel := within(2 * time.Minute)
			defer cancel()
			got, err := p.Allocate(ctx, Request{Key: key(3)})
			if err != nil {
				t.Fatal(err)
			}
			if waited := time.Since(began); reuse != (waited < time.Second) || !reuse && waited < time.Minute {
				t.Errorf("reuse %v: %v, of %v and %v, after %s", reuse, got.Addrs, first.Addrs, second.Addrs, waited)
			}
		})
	}
}
