package ipam

import (
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nearpath/nearpath/internal/aliyun"
)

var dualStack = []aliyun.Family{aliyun.IPv4, aliyun.IPv6}

func dualConfig(t *testing.T, cloud Cloud) Config {
	t.Helper()
	c := testConfig(t, cloud)
	c.Families = dualStack
	return c
}

func checkPair(t *testing.T, cloud *fakeCloud, l Lease) {
	t.Helper()
	if len(l.Addrs) != 2 || !l.Addrs[0].Is4() || !l.Addrs[1].Is6() {
		t.Fatalf("lease of %s is %v, want an IPv4 and an IPv6 address", l.Key, l.Addrs)
	}
	if got := cloud.ours()[l.ENI.ID]; !contains(got, l.Addrs...) {
		t.Errorf("%v are not both on %s, which has %v", l.Addrs, l.ENI.ID, got)
	}
}

func contains(list []netip.Addr, some ...netip.Addr) bool {
	have := map[netip.Addr]bool{}
	for _, a := range list {
		have[a] = true
	}
	for _, a := range some {
		if !have[a] {
			return false
		}
	}
	return true
}

func TestDualStackLeasesPairs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cloud := newFakeCloud(2, 14)
		cloud.kind.IPv6PerENI = 12
		c := dualConfig(t, cloud)
		p := mustOpen(t, c)
		stop := start(t, p)
		for i := range 24 {
			l := mustAllocate(t, p, i)
			checkPair(t, cloud, l)
			nets := []Net{
				{netip.MustParsePrefix("10.1.0.0/16"), netip.MustParseAddr("10.1.255.253")},
				{netip.MustParsePrefix("fd00:1::/64"), netip.MustParseAddr("fd00:1::ffff:ffff:ffff:fffd")},
			}
			if len(l.ENI.Nets) != 2 || l.ENI.Nets[0] != nets[0] || l.ENI.Nets[1] != nets[1] {
				t.Fatalf("nets are %v, want %v", l.ENI.Nets, nets)
			}
		}
		if got := p.Capacity(); got != (Capacity{Shared: 24, Exclusive: 2}) {
			t.Errorf("capacity is %+v, want 2 ENIs of 12 pairs", got)
		}
		leases := p.Leases()
		stop()
		p = mustOpen(t, c)
		defer start(t, p)()
		if got := p.Leases(); len(got) != 24 || len(got[3].Addrs) != 2 || got[3].Addrs[1] != leases[3].Addrs[1] {
			t.Errorf("after a restart: %v", got)
		}
		for i := range 24 {
			if err := p.Release(t.Context(), key(i), 0); err != nil {
				t.Fatal(err)
			}
		}
		// Both families go back together: what is left has as many of each.
		eventuallyIn(t, time.Hour, "idle between the marks", func() bool { s := p.Stats(); return s.Cooling == 0 && s.Idle >= 2 && s.Idle <= 5 && s.ENIs == 1 })
		eventually(t, "pairs", func() bool {
			enis := p.ENIs()
			return len(enis) == 1 && len(cloud.ours()[enis[0].ID]) == 2*p.Stats().Idle && len(enis[0].Addresses) == 2*p.Stats().Idle
		})
	})
}

// IPv6 that the cloud refuses holds back the leases, with the reason, and nothing else.
func TestDualStackWithoutIPv6(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cloud := newFakeCloud(1, 14)
		cloud.fail = func(call string) error {
			if call == "AssignIPsIPv6" {
				return aliyun.ErrForbidden
			}
			return nil
		}
		p := mustOpen(t, dualConfig(t, cloud))
		defer start(t, p)()
		for i := range 2 { // what the ENI was created with
			checkPair(t, cloud, mustAllocate(t, p, i))
		}
		var err error
		for i := 2; i < 14 && err == nil; i++ {
			ctx, cancel := within(time.Hour)
			began := time.Now()
			_, err = p.Allocate(ctx, Request{Key: key(i)})
			cancel()
			if took := time.Since(began); took > 2*time.Minute {
				t.Errorf("took %s", took)
			}
		}
		if !errorsAre(err, ErrExhausted, aliyun.ErrForbidden) {
			t.Errorf("error is %v", err)
		}
		cloud.set(func() { cloud.fail = nil })
		eventually(t, "pairs again", func() bool { return p.Stats().Idle >= 2 })
	})
}

// A pool that had one family gets the other one beside what is leased.
func TestSecondFamilyIsAdded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cloud := newFakeCloud(1, 10)
		c := testConfig(t, cloud)
		p := mustOpen(t, c)
		stop := start(t, p)
		old := mustAllocate(t, p, 1)
		stop()
		c.Families = dualStack
		p = mustOpen(t, c)
		stop = start(t, p)
		checkPair(t, cloud, mustAllocate(t, p, 2))
		if got, _ := p.Lookup(key(1)); len(got.Addrs) != 1 || got.Addrs[0] != old.Addrs[0] {
			t.Errorf("lease from before is %v, was %v", got.Addrs, old.Addrs)
		}
		if err := p.Release(t.Context(), key(2), 0); err != nil {
			t.Fatal(err)
		}
		stop()
		c.Families = dualStack[:1]
		p = mustOpen(t, c)
		defer start(t, p)()
		eventually(t, "IPv6 given back", func() bool { return len(cloud.v6s("eni-1")) == 0 })
	})
}
