package ipam

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/nearpath/nearpath/internal/aliyun"
)

var errCrash = errors.New("the process is dead")

// A life is one run of the process. When it ends, neither its cloud calls nor its journal writes have any effect.
type life struct {
	*fakeCloud
	dead  atomic.Bool
	steps atomic.Int64
	// endAt ends the life at that step: steps are the moments before and after each journal write and each cloud call.
	endAt int64
}

// step returns errCrash once the life is over.
func (l *life) step() error {
	if l.steps.Add(1) == l.endAt {
		l.dead.Store(true)
	}
	if l.dead.Load() {
		return errCrash
	}
	return nil
}

// around makes a call with a chance to die before it and after it.
func around[T any](l *life, call func() (T, error)) (T, error) {
	var zero T
	if err := l.step(); err != nil {
		return zero, err
	}
	value, err := call()
	if crash := l.step(); crash != nil {
		return zero, crash
	}
	return value, err
}

func (l *life) CreateENI(ctx context.Context, r aliyun.CreateENI) (aliyun.ENI, error) {
	return around(l, func() (aliyun.ENI, error) { return l.fakeCloud.CreateENI(ctx, r) })
}

func (l *life) AssignIPs(ctx context.Context, a aliyun.Assign) ([]netip.Addr, error) {
	return around(l, func() ([]netip.Addr, error) { return l.fakeCloud.AssignIPs(ctx, a) })
}

func (l *life) AttachENI(ctx context.Context, id, instance string) error {
	_, err := around(l, func() (struct{}, error) { return struct{}{}, l.fakeCloud.AttachENI(ctx, id, instance) })
	return err
}

func (l *life) UnassignIPs(ctx context.Context, id string, addrs []netip.Addr) error {
	_, err := around(l, func() (struct{}, error) { return struct{}{}, l.fakeCloud.UnassignIPs(ctx, id, addrs) })
	return err
}

func (l *life) DescribeENIs(ctx context.Context, f aliyun.ENIFilter) ([]aliyun.ENI, error) {
	if l.dead.Load() {
		return nil, errCrash
	}
	return l.fakeCloud.DescribeENIs(ctx, f)
}

// A crashWorld is what survives the lives: the cloud, the file, and what callers were told.
type crashWorld struct {
	cloud   *fakeCloud
	config  Config
	mu      sync.Mutex // guards what follows
	granted map[Key]netip.Addr
	ended   map[Key]bool // Release returned without an error
}

// live works for a while, or until the life ends at its step. It reports whether it ended there.
func (w *crashWorld) live(t *testing.T, endAt int64) bool {
	t.Helper()
	l := &life{fakeCloud: w.cloud, endAt: endAt}
	c := w.config
	c.Cloud = l
	p := mustOpen(t, c)
	p.journal.db.NoSync = true // this life ends without the machine's
	p.journal.fault = func(bool) error { return l.step() }
	stop := start(t, p)
	var wg sync.WaitGroup
	for i := range 7 {
		wg.Go(func() { w.allocate(p, i) })
	}
	wg.Wait()
	for i := range 5 {
		err := p.Release(t.Context(), key(i), 0)
		w.mu.Lock()
		delete(w.granted, key(i)) // after an error it may be either
		w.ended[key(i)] = err == nil
		w.mu.Unlock()
	}
	time.Sleep(10 * time.Minute) // cooling, giving back; the bubble's clock jumps
	stop()
	return l.dead.Load()
}

func (w *crashWorld) allocate(p *Pool, i int) {
	ctx, cancel := within(2 * time.Minute)
	defer cancel()
	lease, err := p.Allocate(ctx, Request{Key: key(i)})
	if err == nil {
		w.mu.Lock()
		w.granted[key(i)] = lease.Addrs[0]
		w.mu.Unlock()
	}
}

// check holds the invariants on a pool that has come to rest.
func (w *crashWorld) check(t *testing.T, p *Pool, at string) {
	t.Helper()
	synctest.Wait() // no call is under way
	inCloud, inPool := w.cloud.ours(), map[string][]netip.Addr{}
	for _, e := range p.ENIs() {
		if e.State != ENIInUse {
			t.Errorf("%s: ENI %s is %s", at, e.ID, e.State)
		}
		inPool[e.ID] = e.Addresses
	}
	if diff := cmp.Diff(inCloud, inPool, equateAddrs); diff != "" {
		t.Errorf("%s: cloud and journal differ:\n%s", at, diff)
	}
	if w.cloud.most > w.cloud.kind.ENIs-1 {
		t.Errorf("%s: %d ENIs at a time", at, w.cloud.most)
	}
	seen := map[netip.Addr]Key{}
	for _, l := range p.Leases() {
		if other, twice := seen[l.Addrs[0]]; twice {
			t.Errorf("%s: %s has two owners, %s and %s", at, l.Addrs, l.Key, other)
		}
		seen[l.Addrs[0]] = l.Key
		if w.ended[l.Key] {
			t.Errorf("%s: %s still has the lease that it released", at, l.Key)
		}
	}
	for k, addr := range w.granted {
		if seen[addr] != k {
			t.Errorf("%s: %s was given %s, which now belongs to %q", at, k, addr, seen[addr])
		}
	}
}

// recover starts a life without a crash and checks it, and then that every key can come back and go.
func (w *crashWorld) recover(t *testing.T, at string) {
	t.Helper()
	p := mustOpen(t, w.config)
	p.journal.db.NoSync = true
	defer start(t, p)()
	atRest := func() bool {
		s := p.Stats()
		moving := slices.ContainsFunc(p.ENIs(), func(e ENI) bool { return e.State != ENIInUse })
		return s.Pending == 0 && s.Cooling == 0 && s.Quarantined == 0 && s.Idle >= 2 && !moving
	}
	eventually(t, at+": rest", atRest)
	time.Sleep(2 * lookAgain) // ENIs at work during the first sync are looked at again
	eventually(t, at+": rest", atRest)
	w.check(t, p, at)
	for k, addr := range w.granted {
		ctx, cancel := within(time.Minute)
		lease, err := p.Allocate(ctx, Request{Key: k})
		cancel()
		if err != nil || lease.Addrs[0] != addr {
			t.Errorf("%s: %s came back and got %s (%v), want %s", at, k, lease.Addrs, err, addr)
		}
	}
	for _, l := range p.Leases() {
		if err := p.Release(t.Context(), l.Key, 0); err != nil {
			t.Error(err)
		}
	}
	eventually(t, at+": rest without leases", atRest)
	w.granted = nil
	w.check(t, p, at+", all released")
}

// The process dies at each of its steps in turn, once; then twice, at every pair of nearby steps.
func TestCrashAtEveryStep(t *testing.T) {
	crashAt := func(t *testing.T, ends ...int64) (reached bool) {
		t.Helper()
		synctest.Test(t, func(t *testing.T) {
			cloud := newFakeCloud(2, 5)
			w := &crashWorld{cloud: cloud, config: testConfig(t, cloud), granted: map[Key]netip.Addr{}, ended: map[Key]bool{}}
			w.config.Settings.Watermarks = Watermarks{MinIdle: 2, MaxIdle: 3}
			reached = true
			for _, end := range ends {
				reached = w.live(t, end) && reached
				clear(w.ended) // a key that was released may have come again
			}
			w.recover(t, fmt.Sprintf("after crashes at %v", ends))
		})
		return reached
	}
	step := int64(1)
	for ; crashAt(t, step); step++ {
		if t.Failed() {
			return
		}
	}
	t.Logf("%d steps", step-1)
	if step < 40 {
		t.Errorf("only %d steps: the workload does not exercise the pool", step-1)
	}
	if testing.Short() {
		return
	}
	for _, pair := range slices.Collect(func(yield func([2]int64) bool) {
		for first := int64(1); first < step; first += 3 {
			if !yield([2]int64{first, (first * 7) % 23}) {
				return
			}
		}
	}) {
		crashAt(t, pair[0], pair[1]+1)
	}
}

// Every cloud call in turn does its work and then loses its answer.
func TestLostAnswers(t *testing.T) {
	for n := 1; n <= 25; n++ {
		synctest.Test(t, func(t *testing.T) {
			cloud := newFakeCloud(2, 5)
			w := &crashWorld{cloud: cloud, config: testConfig(t, cloud), granted: map[Key]netip.Addr{}, ended: map[Key]bool{}}
			lossy := &lossyCloud{fakeCloud: cloud, at: int64(n)}
			w.config.Cloud = lossy
			p := mustOpen(t, w.config)
			stop := start(t, p)
			for i := range 7 {
				w.allocate(p, i)
			}
			stop()
			if len(w.granted) != 7 {
				t.Errorf("answer %d lost: %d of 7 leases", n, len(w.granted))
			}
			w.recover(t, fmt.Sprintf("answer %d lost", n))
			// Repeated with its token, a call does its work once: nothing was adopted.
			if len(cloud.made) > 2 {
				t.Errorf("answer %d lost: %d ENIs created", n, len(cloud.made))
			}
		})
	}
}

type lossyCloud struct {
	*fakeCloud
	at, n      int64
	loseAssign atomic.Int64 // so many answers to AssignIPs are lost
}

func (c *lossyCloud) lost() error {
	if atomic.AddInt64(&c.n, 1) == c.at {
		return aliyun.ErrUnavailable
	}
	return nil
}

func (c *lossyCloud) CreateENI(ctx context.Context, r aliyun.CreateENI) (aliyun.ENI, error) {
	e, err := c.fakeCloud.CreateENI(ctx, r)
	return e, errors.Join(err, c.lost())
}

func (c *lossyCloud) AttachENI(ctx context.Context, id, instance string) error {
	return errors.Join(c.fakeCloud.AttachENI(ctx, id, instance), c.lost())
}

func (c *lossyCloud) AssignIPs(ctx context.Context, a aliyun.Assign) ([]netip.Addr, error) {
	addrs, err := c.fakeCloud.AssignIPs(ctx, a)
	if c.loseAssign.Add(-1) >= 0 {
		return nil, aliyun.ErrUnavailable
	}
	return addrs, errors.Join(err, c.lost())
}

func (c *lossyCloud) DescribeENIs(ctx context.Context, f aliyun.ENIFilter) ([]aliyun.ENI, error) {
	enis, err := c.fakeCloud.DescribeENIs(ctx, f)
	return enis, errors.Join(err, c.lost())
}
