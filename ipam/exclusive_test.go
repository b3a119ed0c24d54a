package ipam

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nearpath/nearpath/internal/aliyun"
)

func exclusively(t *testing.T, p *Pool, i int) Lease {
	t.Helper()
	ctx, cancel := within(time.Minute)
	defer cancel()
	l, err := p.Allocate(ctx, Request{Key: key(i), Exclusive: true})
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func TestExclusiveENIs(t *testing.T) {
	for _, families := range [][]aliyun.Family{dualStack[:1], dualStack} {
		synctest.Test(t, func(t *testing.T) {
			cloud := newFakeCloud(4, 6)
			c := testConfig(t, cloud)
			c.Families = families
			c.Settings.Exclusive = Watermarks{MinIdle: 1, MaxIdle: 1}
			links := newFakeLinks()
			c.Links = links
			p := mustOpen(t, c)
			stop := start(t, p)
			eventually(t, "an idle exclusive ENI", func() bool { return p.Stats().Exclusive.Idle == 1 && p.Stats().Idle == 2 })
			first := exclusively(t, p, 1)
			if !first.Exclusive || len(first.Addrs) != len(families) || links.has(first.ENI.MAC) {
				t.Errorf("lease is %+v, routed %v", first, links.has(first.ENI.MAC))
			}
			if e := cloud.eni(first.ENI.ID); e.PrimaryIP != first.Addrs[0] || len(e.PrivateIPs) != 1 || len(e.IPv6s) != len(families)-1 {
				t.Errorf("ENI has %v, %v", e.PrivateIPs, e.IPv6s)
			}
			second := mustAllocate(t, p, 2)
			if second.ENI.ID == first.ENI.ID || second.Exclusive {
				t.Errorf("an ordinary pod got %+v", second)
			}
			stop()
			p = mustOpen(t, c)
			defer start(t, p)()
			if got, ok := p.Lookup(key(1)); !ok || !got.Exclusive || got.ENI.ID != first.ENI.ID {
				t.Errorf("after a restart: %+v", got)
			}
			if err := p.Release(t.Context(), key(1), 0); err != nil {
				t.Fatal(err)
			}
			// Two are idle then, one more than the mark.
			eventuallyIn(t, time.Hour, "the surplus one given back", func() bool { s := p.Stats(); return s.Exclusive == ExclusiveStats{Idle: 1, Capacity: 3} })
			if cloud.most > 4 {
				t.Errorf("%d ENIs at a time", cloud.most)
			}
		})
	}
}

// At the limit, idle ENIs of one kind serve callers of the other.
func TestIdleENIsAreConverted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cloud := newFakeCloud(2, 3)
		c := testConfig(t, cloud)
		c.Settings.Watermarks = Watermarks{MinIdle: 6, MaxIdle: 6}
		links := newFakeLinks()
		c.Links = links
		p := mustOpen(t, c)
		defer start(t, p)()
		eventually(t, "six idle addresses", func() bool { return p.Stats().Idle == 6 })
		created := cloud.count("CreateENI")
		l := exclusively(t, p, 1)
		if cloud.count("CreateENI") != created || links.has(l.ENI.MAC) {
			t.Errorf("%d ENIs created, routed %v", cloud.count("CreateENI")-created, links.has(l.ENI.MAC))
		}
		eventually(t, "secondary addresses given back", func() bool { return len(cloud.ours()[l.ENI.ID]) == 1 })
		if e := exclusively(t, p, 2); e.ENI.ID == l.ENI.ID {
			t.Error("one ENI for two pods")
		}
		ctx, cancel := within(time.Hour)
		defer cancel()
		for _, r := range []Request{{Key: key(3), Exclusive: true}, {Key: key(3)}} {
			began := time.Now()
			if _, err := p.Allocate(ctx, r); !errors.Is(err, ErrExhausted) || time.Since(began) > time.Minute {
				t.Errorf("%+v on a full node: %v after %s", r, err, time.Since(began))
			}
		}
		if err := p.Release(t.Context(), key(1), 0); err != nil {
			t.Fatal(err)
		}
		if got := mustAllocate(t, p, 3); got.ENI.ID != l.ENI.ID || !links.has(got.ENI.MAC) {
			t.Errorf("lease is on %s, want %s converted back", got.ENI.ID, l.ENI.ID)
		}
		if cloud.most > 2 || cloud.count("CreateENI") != created {
			t.Errorf("%d ENIs at a time, %d created", cloud.most, cloud.count("CreateENI"))
		}
	})
}

// Many of both kinds at once never make more ENIs than there may be, those on their way counted.
func TestBothKindsStayWithinTheLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cloud := newFakeCloud(5, 4)
		p := mustOpen(t, testConfig(t, cloud))
		defer start(t, p)()
		got := make(chan error, 40)
		for i := range 40 {
			go func() {
				ctx, cancel := within(time.Minute)
				defer cancel()
				_, err := p.Allocate(ctx, Request{Key: key(i), Exclusive: i%8 == 0})
				got <- err
			}()
		}
		served := 0
		for range 40 {
			if err := <-got; err == nil {
				served++
			} else if !errors.Is(err, ErrExhausted) {
				t.Error(err)
			}
		}
		s := p.Stats()
		if cloud.most > 5 || served < 8 || s.Used+s.Exclusive.Used != served {
			t.Errorf("%d ENIs at a time, %d served: %+v", cloud.most, served, s)
		}
	})
}
