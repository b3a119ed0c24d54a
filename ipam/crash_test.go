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

func (l *life) DetachENI(ctx context.Context, id, instance string) error {
	_, err := around(l, func() (struct{}, error) { return struct{}{}, l.fakeCloud.DetachENI(ctx, id, instance) })
	return err
}

func (l *life) DeleteENI(ctx context.Context, id string) error {
	_, err := around(l, func() (struct{}, error) { return struct{}{}, l.fakeCloud.DeleteENI(ctx, id) })
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
	granted map[Key][]netip.Addr
	ended   map[Key]bool // Release returned without an error
}

func newCrashWorld(t *testing.T, families []aliyun.Family) *crashWorld {
	t.Helper()
	cloud := newFakeCloud(3, 5)
	w := &crashWorld{cloud: cloud, config: testConfig(t, cloud), granted: map[Key][]netip.Addr{}, ended: map[Key]bool{}}
	w.config.Families = families
	w.config.Settings.Watermarks = Watermarks{MinIdle: 2, MaxIdle: 3}
	w.config.Settings.Idle = IdleReclaim{After: 2 * time.Minute}
	return w
}

// request of a caller: the last one wants an ENI for itself, and the first one's addresses are kept when it ends.
func request(i int) Request {
	r := Request{Key: key(i), Exclusive: i == 6}
	if i == 0 {
		r.Pod = Pod{Namespace: "ns", Name: "web-0"}
	}
	return r
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
	for _, i := range []int{0, 1, 2, 3, 6} {
		keep := time.Duration(0)
		if i == 0 {
			keep = 5 * time.Minute
		}
		err := p.Release(t.Context(), key(i), keep)
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
	lease, err := p.Allocate(ctx, request(i))
	if err == nil {
		w.mu.Lock()
		w.granted[key(i)] = lease.Addrs
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
		for _, addr := range l.Addrs {
			if other, twice := seen[addr]; twice {
				t.Errorf("%s: %s has two owners, %s and %s", at, addr, l.Key, other)
			}
			seen[addr] = l.Key
			if !slices.Contains(inCloud[l.ENI.ID], addr) {
				t.Errorf("%s: %s of %s is not on %s", at, addr, l.Key, l.ENI.ID)
			}
		}
		if w.ended[l.Key] {
			t.Errorf("%s: %s still has the lease that it released", at, l.Key)
		}
	}
	for k, addrs := range w.granted {
		for _, addr := range addrs {
			if seen[addr] != k {
				t.Errorf("%s: %s was given %s, which now belongs to %q", at, k, addr, seen[addr])
			}
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
		return s.Pending == 0 && s.Cooling == 0 && s.Kept == 0 && s.Quarantined == 0 && s.Idle >= 2 && !moving && s.Exclusive.Pending == 0
	}
	rest := func() {
		t.Helper()
		eventually(t, at+": rest", atRest)
		time.Sleep(20 * time.Minute) // ENIs at work during the first sync are looked at again, and what is surplus goes
		eventually(t, at+": rest", atRest)
	}
	rest()
	w.check(t, p, at)
	for k, addrs := range w.granted {
		ctx, cancel := within(time.Minute)
		lease, err := p.Allocate(ctx, Request{Key: k})
		cancel()
		if err != nil || !slices.Equal(lease.Addrs, addrs) {
			t.Errorf("%s: %s came back and got %s (%v), want %s", at, k, lease.Addrs, err, addrs)
		}
	}
	for _, l := range p.Leases() {
		if err := p.Release(t.Context(), l.Key, 0); err != nil {
			t.Error(err)
		}
	}
	rest()
	w.granted = nil
	w.check(t, p, at+", all released")
}

// The process dies at each of its steps in turn, once; then twice, at pairs of steps.
func TestCrashAtEveryStep(t *testing.T) {
	for name, families := range map[string][]aliyun.Family{"IPv4": dualStack[:1], "dual stack": dualStack} {
		t.Run(name, func(t *testing.T) {
			step := int64(1)
			for ; crashAt(t, families, step); step++ {
				if t.Failed() {
					return
				}
			}
			t.Logf("%d steps", step-1)
			if step < 60 {
				t.Errorf("only %d steps: the workload does not exercise the pool", step-1)
			}
			for first := int64(1); first < step && !testing.Short(); first += 3 {
				crashAt(t, families, first, first*7%23+1)
			}
		})
	}
}

// crashAt ends lives at the given steps, and says whether the last one got so far.
func crashAt(t *testing.T, families []aliyun.Family, ends ...int64) (reached bool) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		w := newCrashWorld(t, families)
		reached = true
		for _, end := range ends {
			reached = w.live(t, end) && reached
			clear(w.ended) // a key that was released may have come again
		}
		w.recover(t, fmt.Sprintf("after crashes at %v", ends))
	})
	return reached
}

// Every cloud call in turn does its work and then loses its answer.
func TestLostAnswers(t *testing.T) {
	for n := 1; n <= 60; n++ {
		synctest.Test(t, func(t *testing.T) {
			w := newCrashWorld(t, [][]aliyun.Family{dualStack[:1], dualStack}[n%2])
			w.config.Cloud = &lossyCloud{fakeCloud: w.cloud, at: int64(n/2 + 1)}
			p := mustOpen(t, w.config)
			stop := start(t, p)
			for i := range 7 {
				w.allocate(p, i)
			}
			stop()
			if len(w.granted) != 7 {
				t.Errorf("answer %d lost: %d of 7 leases", n, len(w.granted))
			}
			made := len(w.cloud.made)
			w.recover(t, fmt.Sprintf("answer %d lost", n))
			// Repeated with its token, a call does its work once: nothing was adopted.
			if made > 3 {
				t.Errorf("answer %d lost: %d ENIs created", n, made)
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
