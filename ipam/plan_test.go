package ipam

import (
	"net/netip"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/nearpath/nearpath/internal/aliyun"
)

func TestWatermarks(t *testing.T) {
	for name, c := range map[string]struct {
		marks        Watermarks
		demand       demand
		grow, shrink int
	}{
		"cold start fills to the idle mark":       {Watermarks{2, 5, 0, 0}, demand{capacity: 20}, 2, 0},
		"minimum total is filled though unused":   {Watermarks{2, 5, 8, 0}, demand{capacity: 20}, 8, 0},
		"capacity bounds the minimum":             {Watermarks{2, 5, 30, 0}, demand{capacity: 20}, 20, 0},
		"callers are counted once":                {Watermarks{0, 5, 0, 0}, demand{waiting: 3, capacity: 20}, 3, 0},
		"callers beyond what is pending":          {Watermarks{0, 5, 0, 0}, demand{waiting: 3, pending: 2, capacity: 20}, 1, 0},
		"cooling ones stand in for idle ones":     {Watermarks{2, 5, 0, 0}, demand{used: 3, cooling: 2, capacity: 20}, 0, 0},
		"but a caller does not wait for cooling":  {Watermarks{2, 5, 0, 0}, demand{used: 3, cooling: 5, waiting: 2, capacity: 20}, 2, 0},
		"a full node grows no more":               {Watermarks{2, 5, 0, 0}, demand{used: 18, idle: 2, waiting: 5, capacity: 20}, 0, 0},
		"idle above the mark goes back":           {Watermarks{2, 5, 0, 0}, demand{used: 3, idle: 9, capacity: 20}, 0, 4},
		"not below the minimum total":             {Watermarks{2, 5, 10, 0}, demand{used: 3, idle: 9, capacity: 20}, 0, 2},
		"nothing goes back while something comes": {Watermarks{2, 5, 0, 0}, demand{used: 3, idle: 9, pending: 1, capacity: 20}, 0, 0},
		"nothing goes back while someone waits":   {Watermarks{2, 5, 0, 0}, demand{used: 3, idle: 9, waiting: 1, capacity: 20}, 0, 0},
		"between the marks":                       {Watermarks{2, 5, 0, 0}, demand{used: 3, idle: 4, capacity: 20}, 0, 0},
	} {
		if grow, shrink := c.marks.plan(c.demand); grow != c.grow || shrink != c.shrink {
			t.Errorf("%s: grow %d, shrink %d; want %d, %d", name, grow, shrink, c.grow, c.shrink)
		}
	}
}

func TestWatermarkProperties(t *testing.T) {
	small := rapid.IntRange(0, 40)
	rapid.Check(t, func(t *rapid.T) {
		minIdle := small.Draw(t, "minIdle")
		w := Watermarks{MinIdle: minIdle, MaxIdle: minIdle + small.Draw(t, "more"), MinTotal: small.Draw(t, "minTotal")}
		d := demand{
			used: small.Draw(t, "used"), idle: small.Draw(t, "idle"), cooling: small.Draw(t, "cooling"),
			pending: small.Draw(t, "pending"), waiting: small.Draw(t, "waiting"),
		}
		d.capacity = d.total() + small.Draw(t, "room")
		grow, shrink := w.plan(d)
		if grow < 0 || shrink < 0 || grow > 0 && shrink > 0 {
			t.Fatalf("grow %d, shrink %d", grow, shrink)
		}
		if d.total()+grow > d.capacity || shrink > d.idle {
			t.Fatalf("grow %d, shrink %d is more than there is", grow, shrink)
		}
		grown := d
		grown.pending += grow
		if again, back := w.plan(grown); again != 0 || grow > 0 && back != 0 {
			t.Fatalf("after growing by %d: grow %d, shrink %d", grow, again, back)
		}
		arrived := d
		arrived.idle, arrived.pending = d.idle+d.pending+grow, 0
		if d.waiting == 0 && grow > 0 {
			if again, back := w.plan(arrived); again != 0 || back != 0 && d.idle+d.pending <= w.MaxIdle && grow <= w.MinIdle {
				t.Fatalf("after %d have come: grow %d, shrink %d", grow, again, back)
			}
		}
		shrunk := d
		shrunk.idle -= shrink
		if again, back := w.plan(shrunk); shrink > 0 && (again != 0 || back != 0) {
			t.Fatalf("after giving back %d: grow %d, shrink %d", shrink, again, back)
		}
		more := d
		more.waiting++
		if more, _ := w.plan(more); more < grow {
			t.Fatalf("one caller more and %d instead of %d", more, grow)
		}
	})
}

func ledgerWith(l limits, enis ...*eni) *ledger {
	book := newLedger(aliyun.IPv4)
	book.limits = l
	next := netip.MustParseAddr("10.0.0.1")
	for i, e := range enis {
		e.Slot = i + 1
		book.enis[e.Token] = e
		if e.State == ENIIntent {
			continue
		}
		for range e.Wish.IPv4 {
			book.learn(e, next, time.Unix(0, 0))
			next = next.Next()
		}
		if addrs := book.addressesOn(e.Token); len(addrs) > 0 {
			e.Primary = addrs[0]
		}
		e.Wish = amount{}
	}
	return book
}

func holding(token string, state ENIState, addresses int) *eni {
	return &eni{Token: token, State: state, Wish: amount{IPv4: addresses}, wired: state == ENIInUse}
}
