package ipam

import (
	"context"
	"net/netip"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// unsettled is who still has addresses, for Config.Settled.
type unsettled struct {
	mu    sync.Mutex
	addrs map[netip.Addr]bool
	asked int
}

func (u *unsettled) settled(a netip.Addr) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.asked++
	return !u.addrs[a]
}

func (u *unsettled) set(a netip.Addr, has bool) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.addrs[a] = has
}

// An address is not leased again while a Service or a socket has it, whatever its cooldown (reference row K28).
func TestK28UnsettledAddressIsNotReused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newSettling(t)
		defer w.close()
		within, cancel := context.WithTimeout(t.Context(), w.cooldown+settleLimit/2)
		defer cancel()
		if l, err := w.p.Allocate(within, Request{Key: key(5)}); err == nil {
			t.Fatalf("leased %v, of which %s is not settled", l.Addrs, w.addr)
		}
		if got := samples(t, w.registry)["nearpath_pool_unsettled_addresses"]; got != 1 {
			t.Errorf("%v addresses are counted as unsettled, want 1", got)
		}
		w.u.set(w.addr, false)
		began := time.Now()
		mustAllocate(t, w.p, 6)
		if took := time.Since(began); took > 2*settleRetry {
			t.Errorf("a settled address was leased after %s", took)
		}
		if got := samples(t, w.registry); got["nearpath_pool_overdue_addresses_total"] != 0 || got["nearpath_pool_unsettled_addresses"] != 0 {
			t.Errorf("counted %v", got)
		}
	})
}

// An address that stays in a Service for ever is leased in the end, and that is counted.
func TestK28UnsettledAddressDoesNotStarveThePool(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newSettling(t)
		defer w.close()
		began := time.Now()
		within, cancel := context.WithTimeout(t.Context(), time.Hour)
		defer cancel()
		if _, err := w.p.Allocate(within, Request{Key: key(5)}); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(began); took < settleLimit || took > w.cooldown+settleLimit+2*settleRetry {
			t.Errorf("leased after %s, want %s after its cooldown", took, settleLimit)
		}
		if got := samples(t, w.registry)["nearpath_pool_overdue_addresses_total"]; got != 1 {
			t.Errorf("counted %v overdue addresses, want 1", got)
		}
	})
}

// The wait is part of the journal: a restart in the middle neither ends it nor begins it anew.
func TestK28UnsettledAddressAcrossRestart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newSettling(t)
		began := time.Now()
		time.Sleep(w.cooldown + settleLimit/2)
		w.restart()
		defer w.close()
		within, cancel := context.WithTimeout(t.Context(), time.Hour)
		defer cancel()
		if _, err := w.p.Allocate(within, Request{Key: key(5)}); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(began); took < settleLimit || took > w.cooldown+settleLimit+settleAfter {
			t.Errorf("leased after %s, want %s after its cooldown", took, settleLimit)
		}
	})
}

// A settling is a pool all of whose addresses are leased, but for one that was just released and that somebody still has.
type settling struct {
	t        *testing.T
	c        Config
	p        *Pool
	stop     func()
	u        *unsettled
	registry *prometheus.Registry
	addr     netip.Addr
	cooldown time.Duration
}

func newSettling(t *testing.T) *settling {
	t.Helper()
	w := &settling{t: t, u: &unsettled{addrs: map[netip.Addr]bool{}}, c: testConfig(t, newFakeCloud(1, 2))}
	w.c.Settled = w.u.settled
	w.open()
	leases := map[int]netip.Addr{}
	for i := range 2 {
		leases[i] = mustAllocate(t, w.p, i).Addrs[0]
	}
	w.addr, w.cooldown = leases[0], w.p.settings.Cooldown
	w.u.set(w.addr, true)
	if err := w.p.Release(t.Context(), key(0), 0); err != nil {
		t.Fatal(err)
	}
	return w
}

func (w *settling) open() {
	w.registry = prometheus.NewPedanticRegistry()
	w.c.Metrics = w.registry
	w.p = mustOpen(w.t, w.c)
	w.stop = start(w.t, w.p)
}

func (w *settling) close() { w.stop() }

func (w *settling) restart() {
	w.stop()
	w.open()
}
