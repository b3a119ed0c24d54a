package ipam

import (
	"errors"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"
)

func allocateAs(t *testing.T, p *Pool, i int, pod string, isExclusive bool) Lease {
	t.Helper()
	ctx, cancel := within(2 * time.Minute)
	defer cancel()
	l, err := p.Allocate(ctx, Request{Key: key(i), Pod: Pod{Namespace: "ns", Name: pod}, Exclusive: isExclusive})
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func TestAddressesAreKeptForAName(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := dualConfig(t, newFakeCloud(2, 2))
		c.Settings.Watermarks = Watermarks{}
		p := mustOpen(t, c)
		stop := start(t, p)
		web := allocateAs(t, p, 1, "web-0", false)
		for i := 2; i < 5; i++ {
			mustAllocate(t, p, i)
		}
		if err := p.Release(t.Context(), key(1), 5*time.Minute); err != nil {
			t.Fatal(err)
		}
		if s, k := p.Stats(), p.Kept(); s.Kept != 1 || s.Used != 3 || len(k) != 2 || k[0].Name != "web-0" || k[0].Addr != web.Addrs[0] {
			t.Errorf("%+v, kept %+v", s, k)
		}
		// The pool is full: nobody else gets it, also not after a restart.
		stop()
		p = mustOpen(t, c)
		defer start(t, p)()
		ctx, cancel := within(time.Minute)
		defer cancel()
		if l, err := p.Allocate(ctx, Request{Key: key(9), Pod: Pod{Namespace: "other", Name: "web-0"}}); !errors.Is(err, ErrExhausted) {
			t.Errorf("another pod got %v, %v", l.Addrs, err)
		}
		again := allocateAs(t, p, 10, "web-0", false)
		if again.Addrs[0] != web.Addrs[0] || again.Addrs[1] != web.Addrs[1] {
			t.Errorf("web-0 had %v and got %v", web.Addrs, again.Addrs)
		}
		// When the time is over the addresses cool, and are anybody's.
		if err := p.Release(t.Context(), key(10), 5*time.Minute); err != nil {
			t.Fatal(err)
		}
		time.Sleep(5*time.Minute - time.Second)
		if s := p.Stats(); s.Kept != 1 {
			t.Errorf("just before the end: %+v", s)
		}
		time.Sleep(2 * time.Second)
		if s := p.Stats(); s.Kept != 0 || s.Cooling != 1 {
			t.Errorf("just after the end: %+v", s)
		}
		if l := mustAllocate(t, p, 11); l.Addrs[0] != web.Addrs[0] {
			t.Errorf("the next owner got %v", l.Addrs)
		}
	})
}

func TestWholeENIIsKeptForAName(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := mustOpen(t, testConfig(t, newFakeCloud(3, 4)))
		defer start(t, p)()
		db := allocateAs(t, p, 1, "db-0", true)
		if err := p.Release(t.Context(), key(1), 10*time.Minute); err != nil {
			t.Fatal(err)
		}
		if other := allocateAs(t, p, 2, "db-1", true); other.ENI.ID == db.ENI.ID {
			t.Error("an ENI that is kept was leased")
		}
		if again := allocateAs(t, p, 3, "db-0", true); again.ENI.ID != db.ENI.ID {
			t.Errorf("db-0 had %s and got %s", db.ENI.ID, again.ENI.ID)
		}
		// As an ordinary pod it needs the ENI no more.
		if err := p.Release(t.Context(), key(3), 10*time.Minute); err != nil {
			t.Fatal(err)
		}
		if l := allocateAs(t, p, 4, "db-0", false); l.Exclusive || p.Stats().Exclusive.Kept != 0 {
			t.Errorf("lease is %+v, stats %+v", l, p.Stats())
		}
	})
}

// A pod without a name has nothing to come back as.
func TestNothingIsKeptWithoutAName(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := mustOpen(t, testConfig(t, newFakeCloud(1, 4)))
		defer start(t, p)()
		allocateAs(t, p, 1, "", false)
		if err := p.Release(t.Context(), key(1), time.Hour); err != nil {
			t.Fatal(err)
		}
		if s := p.Stats(); s.Kept != 0 || s.Cooling != 1 {
			t.Errorf("%+v", s)
		}
	})
}

// Of two leases of one name that end, the younger one's addresses are kept.
func TestOneLeaseIsKeptForAName(t *testing.T) {
	l := ledgerWith(limits{ENIs: 1, AddressesPerENI: 5}, holding("a", ENIInUse, 4))
	now := time.Unix(1, 0)
	var addrs []string
	for i := range 2 {
		r := Request{Key: key(i), Pod: Pod{Namespace: "ns", Name: "web-0"}}
		if err := errors.Join(l.reserve(r, rules{}, now, time.Minute), l.confirm(r.Key, now)); err != nil {
			t.Fatal(err)
		}
		addrs = append(addrs, l.owned(r.Key)[0].Addr.String())
	}
	for i := range 2 {
		if _, err := l.end(key(i), term{keep: time.Hour, cooldown: time.Minute}, now); err != nil {
			t.Fatal(err)
		}
	}
	kept := l.byName[podName{"ns", "web-0"}]
	if len(kept) != 1 || kept[0].String() != addrs[1] || l.addrs[netip.MustParseAddr(addrs[0])].State != cooling {
		t.Errorf("kept are %v, of %v", kept, addrs)
	}
}
