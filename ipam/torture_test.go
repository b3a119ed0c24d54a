package ipam

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nearpath/nearpath/internal/aliyun"
)

// A tortureWorld takes random steps on a pool whose process dies and whose cloud fails, and holds the invariants against
// what callers were told.
type tortureWorld struct {
	t      *testing.T
	seed   uint64
	luck   *rand.Rand
	cloud  *faultyCloud
	config Config
	pool   *Pool
	life   *life
	stop   context.CancelFunc
	calls  sync.WaitGroup

	mu      sync.Mutex // guards what follows
	granted map[Key]Lease
	unsure  map[Key]bool             // a call about the key failed or was cut off: it may have a lease or not
	freed   map[netip.Addr]time.Time // when an address was last released for good
	n       int
}

// A faultyCloud fails calls by chance, before or after they have done their work.
type faultyCloud struct {
	*fakeCloud
	mu   sync.Mutex
	luck *rand.Rand
	odds int // of a hundred calls, so many fail; half of them after the work
}

func (c *faultyCloud) draw() (before, after error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.luck.IntN(100) >= c.odds {
		return nil, nil
	}
	if c.luck.IntN(2) == 0 {
		return nil, aliyun.ErrUnavailable
	}
	return []error{aliyun.ErrThrottled, aliyun.ErrUnavailable, aliyun.ErrConflict}[c.luck.IntN(3)], nil
}

func faulty[T any](c *faultyCloud, call func() (T, error)) (T, error) {
	var zero T
	before, after := c.draw()
	if before != nil {
		return zero, before
	}
	value, err := call()
	if after != nil {
		return zero, errors.Join(err, after)
	}
	return value, err
}

func faultyly(c *faultyCloud, call func() error) error {
	_, err := faulty(c, func() (struct{}, error) { return struct{}{}, call() })
	return err
}

func (c *faultyCloud) CreateENI(ctx context.Context, r aliyun.CreateENI) (aliyun.ENI, error) {
	return faulty(c, func() (aliyun.ENI, error) { return c.fakeCloud.CreateENI(ctx, r) })
}

func (c *faultyCloud) AssignIPs(ctx context.Context, a aliyun.Assign) ([]netip.Addr, error) {
	return faulty(c, func() ([]netip.Addr, error) { return c.fakeCloud.AssignIPs(ctx, a) })
}

func (c *faultyCloud) UnassignIPs(ctx context.Context, id string, addrs []netip.Addr) error {
	return faultyly(c, func() error { return c.fakeCloud.UnassignIPs(ctx, id, addrs) })
}

func (c *faultyCloud) AttachENI(ctx context.Context, id, instance string) error {
	return faultyly(c, func() error { return c.fakeCloud.AttachENI(ctx, id, instance) })
}

func (c *faultyCloud) DetachENI(ctx context.Context, id, instance string) error {
	return faultyly(c, func() error { return c.fakeCloud.DetachENI(ctx, id, instance) })
}

func (c *faultyCloud) DeleteENI(ctx context.Context, id string) error {
	return faultyly(c, func() error { return c.fakeCloud.DeleteENI(ctx, id) })
}

func (c *faultyCloud) DescribeENIs(ctx context.Context, f aliyun.ENIFilter) ([]aliyun.ENI, error) {
	return faulty(c, func() ([]aliyun.ENI, error) { return c.fakeCloud.DescribeENIs(ctx, f) })
}

func (w *tortureWorld) start() {
	w.life = &life{endAt: -1}
	c := w.config
	c.Cloud = &mortalCloud{w.cloud, w.life}
	w.pool = mustOpen(w.t, c)
	w.pool.journal.db.NoSync = true // this process ends without the machine
	life := w.life
	w.pool.journal.fault = func(bool) error { return life.step() }
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = w.pool.Run(ctx)
	}()
	pool := w.pool
	w.stop = func() {
		cancel()
		<-done
		w.calls.Wait()
		if err := pool.Close(); err != nil {
			w.t.Error(err)
		}
	}
}

// A mortalCloud does nothing any more when the process is dead.
type mortalCloud struct {
	Cloud
	life *life
}

func (c *mortalCloud) CreateENI(ctx context.Context, r aliyun.CreateENI) (aliyun.ENI, error) {
	return around(c.life, func() (aliyun.ENI, error) { return c.Cloud.CreateENI(ctx, r) })
}

func (c *mortalCloud) AssignIPs(ctx context.Context, a aliyun.Assign) ([]netip.Addr, error) {
	return around(c.life, func() ([]netip.Addr, error) { return c.Cloud.AssignIPs(ctx, a) })
}

func (c *mortalCloud) UnassignIPs(ctx context.Context, id string, addrs []netip.Addr) error {
	_, err := around(c.life, func() (struct{}, error) { return struct{}{}, c.Cloud.UnassignIPs(ctx, id, addrs) })
	return err
}

func (w *tortureWorld) crash() {
	w.life.dead.Store(true)
	w.stop()
	w.start()
}

func (w *tortureWorld) step() {
	w.n++
	switch roll := w.luck.IntN(100); {
	case roll < 45:
		w.allocate(key(w.luck.IntN(24)), w.luck.IntN(8) == 0)
	case roll < 80:
		w.release(key(w.luck.IntN(24)))
	case roll < 90:
		time.Sleep(time.Duration(w.luck.IntN(90)) * time.Second)
	case roll < 93:
		w.crash()
	case roll < 96:
		w.cloud.mu.Lock()
		w.cloud.odds = []int{0, 0, 20, 60, 100}[w.luck.IntN(5)]
		w.cloud.mu.Unlock()
	case roll < 98:
		free := []int{0, 2, 500}[w.luck.IntN(3)]
		w.cloud.set(func() { w.cloud.vSwitches["vsw-a"].AvailableIPs = free })
	default:
		s := w.config.Settings
		s.Watermarks.MinIdle = w.luck.IntN(4)
		s.Exclusive.MinIdle = w.luck.IntN(2)
		if err := w.pool.Configure(s); err != nil {
			w.t.Error(err)
		}
	}
}

func (w *tortureWorld) allocate(k Key, isExclusive bool) {
	pool, pod := w.pool, Pod{}
	if w.luck.IntN(3) == 0 {
		pod = Pod{Namespace: "ns", Name: "pod-" + k.ContainerID}
	}
	w.calls.Go(func() {
		ctx, cancel := within(30 * time.Second)
		defer cancel()
		got, err := pool.Allocate(ctx, Request{Key: k, Pod: pod, Exclusive: isExclusive})
		w.mu.Lock()
		defer w.mu.Unlock()
		if err != nil {
			w.unsure[k] = true
			return
		}
		for _, addr := range got.Addrs {
			if rested := time.Since(w.freed[addr]); rested < 30*time.Second && w.granted[k].Key != k {
				w.t.Errorf("seed %d, step %d: %s got %s, %s after its release", w.seed, w.n, k, addr, rested)
			}
		}
		had, ok := w.granted[k]
		if ok && !w.unsure[k] && !slices.Equal(had.Addrs, got.Addrs) {
			w.t.Errorf("seed %d, step %d: %s had %v and got %v", w.seed, w.n, k, had.Addrs, got.Addrs)
		}
		w.granted[k] = got
	})
}

func (w *tortureWorld) release(k Key) {
	w.calls.Wait() // a call of the same key would make it unclear who came first
	keep := []time.Duration{0, 0, time.Minute}[w.luck.IntN(3)]
	err := w.pool.Release(context.Background(), k, keep)
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.unsure[k] = err != nil; err != nil {
		return
	}
	for _, addr := range w.granted[k].Addrs {
		if keep == 0 {
			w.freed[addr] = time.Now()
		}
	}
	delete(w.granted, k)
}

// check lets the world heal and holds the invariants.
func (w *tortureWorld) check() {
	w.t.Helper()
	w.cloud.mu.Lock()
	w.cloud.odds = 0
	w.cloud.mu.Unlock()
	w.cloud.set(func() { w.cloud.vSwitches["vsw-a"].AvailableIPs = 500 })
	w.calls.Wait()
	time.Sleep(40 * time.Minute) // several syncs, every pause and backoff
	at := fmt.Sprintf("seed %d, step %d", w.seed, w.n)
	atRest := func() bool {
		s := w.pool.Stats()
		moving := slices.ContainsFunc(w.pool.ENIs(), func(e ENI) bool { return e.State != ENIInUse || !e.Wired })
		return !moving && s.Pending+s.Exclusive.Pending+s.Cooling+s.Kept+s.Quarantined+s.Waiting == 0
	}
	eventuallyIn(w.t, time.Hour, at+": rest", atRest)
	owner := map[netip.Addr]Key{}
	inCloud := w.cloud.ours()
	for _, l := range w.pool.Leases() {
		for _, addr := range l.Addrs {
			if other, twice := owner[addr]; twice {
				w.t.Errorf("%s: %s belongs to %s and %s", at, addr, other, l.Key)
			}
			owner[addr] = l.Key
			if !slices.Contains(inCloud[l.ENI.ID], addr) {
				w.t.Errorf("%s: %s of %s is not on %s in the cloud", at, addr, l.Key, l.ENI.ID)
			}
		}
		if _, known := w.granted[l.Key]; !known && !w.unsure[l.Key] {
			w.t.Errorf("%s: %s has a lease that was released", at, l.Key)
		}
	}
	for k, l := range w.granted {
		if got, ok := w.pool.Lookup(k); !w.unsure[k] && (!ok || !slices.Equal(got.Addrs, l.Addrs) || got.Exclusive != l.Exclusive) {
			w.t.Errorf("%s: %s was given %v and has %v", at, k, l.Addrs, got.Addrs)
		}
	}
	inPool := map[string][]netip.Addr{}
	for _, e := range w.pool.ENIs() {
		inPool[e.ID] = e.Addresses
		if e.Exclusive && e.Pods > 1 {
			w.t.Errorf("%s: exclusive ENI %s has %d pods", at, e.ID, e.Pods)
		}
	}
	for id, addrs := range inCloud {
		if !slices.Equal(addrs, inPool[id]) {
			w.t.Errorf("%s: %s has %v in the cloud and %v in the journal", at, id, addrs, inPool[id])
		}
	}
	if len(inPool) != len(inCloud) || w.cloud.most > 4 {
		w.t.Errorf("%s: %d ENIs in the journal, %d in the cloud, %d at a time", at, len(inPool), len(inCloud), w.cloud.most)
	}
}

// Ten thousand random steps: pods come and go, the process dies, the cloud fails, is full, or loses its answers.
func TestTorture(t *testing.T) {
	const steps, between = 10_000, 50
	seeds := steps / 1000
	if testing.Short() {
		seeds = 2
	}
	for seed := range uint64(seeds) {
		synctest.Test(t, func(t *testing.T) {
			w := &tortureWorld{
				t: t, seed: seed, luck: rand.New(rand.NewPCG(seed, 1)), cloud: &faultyCloud{fakeCloud: newFakeCloud(4, 5), luck: rand.New(rand.NewPCG(seed, 2))},
				granted: map[Key]Lease{}, unsure: map[Key]bool{}, freed: map[netip.Addr]time.Time{},
			}
			w.config = testConfig(t, w.cloud)
			w.config.Families = [][]aliyun.Family{dualStack[:1], dualStack}[seed%2]
			w.config.Settings.Exclusive = Watermarks{MaxIdle: 1}
			w.config.Settings.Idle = IdleReclaim{After: time.Minute}
			w.start()
			for range 1000 / between {
				for range between {
					w.step()
				}
				if w.check(); t.Failed() {
					break
				}
			}
			w.calls.Wait()
			w.stop()
		})
		if t.Failed() {
			return
		}
	}
}
