package ipam

import (
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/nearpath/nearpath/internal/aliyun"
)

func TestWatermarks(t *testing.T) {
	for name, c := range map[string]struct {
		marks        Watermarks
		demand       demand
		grow, shrink int
	}{
		"cold start fills to the idle mark":       {Watermarks{2, 5, 0}, demand{capacity: 20}, 2, 0},
		"minimum total is filled though unused":   {Watermarks{2, 5, 8}, demand{capacity: 20}, 8, 0},
		"capacity bounds the minimum":             {Watermarks{2, 5, 30}, demand{capacity: 20}, 20, 0},
		"callers are counted once":                {Watermarks{0, 5, 0}, demand{waiting: 3, capacity: 20}, 3, 0},
		"callers beyond what is pending":          {Watermarks{0, 5, 0}, demand{waiting: 3, pending: 2, capacity: 20}, 1, 0},
		"cooling ones stand in for idle ones":     {Watermarks{2, 5, 0}, demand{used: 3, cooling: 2, capacity: 20}, 0, 0},
		"but a caller does not wait for cooling":  {Watermarks{2, 5, 0}, demand{used: 3, cooling: 5, waiting: 2, capacity: 20}, 2, 0},
		"a full node grows no more":               {Watermarks{2, 5, 0}, demand{used: 18, idle: 2, waiting: 5, capacity: 20}, 0, 0},
		"idle above the mark goes back":           {Watermarks{2, 5, 0}, demand{used: 3, idle: 9, capacity: 20}, 0, 4},
		"not below the minimum total":             {Watermarks{2, 5, 10}, demand{used: 3, idle: 9, capacity: 20}, 0, 2},
		"nothing goes back while something comes": {Watermarks{2, 5, 0}, demand{used: 3, idle: 9, pending: 1, capacity: 20}, 0, 0},
		"nothing goes back while someone waits":   {Watermarks{2, 5, 0}, demand{used: 3, idle: 9, waiting: 1, capacity: 20}, 0, 0},
		"between the marks":                       {Watermarks{2, 5, 0}, demand{used: 3, idle: 4, capacity: 20}, 0, 0},
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
	book := newLedger()
	book.limits = l
	next := netip.MustParseAddr("10.0.0.1")
	for i, e := range enis {
		e.Slot = i + 1
		book.enis[e.Token] = e
		n := e.Count
		if e.State != ENIIntent {
			e.Count = 0
		}
		for range n {
			if e.State != ENIIntent {
				book.learn(e, next, time.Unix(0, 0))
				next = next.Next()
			}
		}
	}
	return book
}

func TestSpread(t *testing.T) {
	open := func(string) bool { return false }
	full := func(id string) bool { return id == "full" }
	for name, c := range map[string]struct {
		enis    []*eni
		n       int
		blocked func(string) bool
		want    []growth
		left    int
	}{
		"first ENI":                          {nil, 3, open, []growth{{"", 3}}, 0},
		"more than one ENI holds":            {nil, 25, open, []growth{{"", 20}, {"", 5}}, 0},
		"more than the node holds":           {nil, 70, open, []growth{{"", 20}, {"", 20}, {"", 20}}, 10},
		"existing ENI first":                 {[]*eni{{Token: "a", State: ENIInUse, Count: 15}}, 4, open, []growth{{"a", 4}}, 0},
		"the rest in a new ENI":              {[]*eni{{Token: "a", State: ENIInUse, Count: 15}}, 8, open, []growth{{"a", 5}, {"", 3}}, 0},
		"emptiest first":                     {[]*eni{{Token: "a", State: ENIInUse, Count: 15}, {Token: "b", State: ENIInUse, Count: 5}}, 12, open, []growth{{"b", 10}}, 0},
		"a busy ENI is waited for":           {[]*eni{{Token: "a", State: ENIInUse, Count: 5, Assign: &assignment{Count: 5}}}, 8, open, nil, 0},
		"an ENI on its way too":              {[]*eni{{Token: "a", State: ENIAttaching, Count: 5}}, 8, open, nil, 0},
		"a full vSwitch is passed over":      {[]*eni{{Token: "a", State: ENIInUse, Count: 5, VSwitchID: "full"}}, 8, full, []growth{{"", 8}}, 0},
		"an ENI being deleted gives nothing": {[]*eni{{Token: "a", State: ENIDeleting, Count: 5}}, 8, open, []growth{{"", 8}}, 0},
	} {
		book := ledgerWith(limits{ENIs: 3, AddressesPerENI: 20}, c.enis...)
		got, left := book.spread(c.n, c.blocked)
		if diff := cmp.Diff(c.want, got, cmp.AllowUnexported(growth{})); diff != "" || left != c.left {
			t.Errorf("%s: left %d, want %d\n%s", name, left, c.left, diff)
		}
	}
}

func TestChooseVSwitch(t *testing.T) {
	list := []aliyun.VSwitch{
		{ID: "few", ZoneID: "z", AvailableIPs: 5}, {ID: "other-zone", ZoneID: "y", AvailableIPs: 99},
		{ID: "many-2", ZoneID: "z", AvailableIPs: 50}, {ID: "many-1", ZoneID: "z", AvailableIPs: 50}, {ID: "none", ZoneID: "z"},
	}
	open := func(string) bool { return false }
	for name, c := range map[string]struct {
		blocked  func(string) bool
		promised map[string]int
		want     string
	}{
		"most free, first by ID": {open, nil, "many-1"},
		"promised ones count":    {open, map[string]int{"many-1": 10}, "many-2"},
		"blocked is passed over": {func(id string) bool { return id != "few" }, nil, "few"},
		"none is left":           {func(string) bool { return true }, nil, ""},
	} {
		if got, _ := chooseVSwitch(list, "z", c.blocked, c.promised); got.ID != c.want {
			t.Errorf("%s: %q, want %q", name, got.ID, c.want)
		}
	}
}

func TestVictims(t *testing.T) {
	a, b := &eni{Token: "a", State: ENIInUse, Count: 3, wired: true}, &eni{Token: "b", State: ENIInUse, Count: 3, wired: true}
	book := ledgerWith(limits{ENIs: 2, AddressesPerENI: 5}, a, b)
	a.Primary, b.Primary = book.addressesOn("a")[0], book.addressesOn("b")[0]
	now := time.Unix(1000, 0)
	for i := range 2 {
		if _, err := book.reserve(key(i), Pod{}, now); err != nil {
			t.Fatal(err)
		}
	}
	got := book.victims(3, now, time.Minute)
	if len(got) != 3 || slices.Contains(got, a.Primary) || slices.Contains(got, b.Primary) || book.addrs[got[0]].ENI != "b" {
		t.Errorf("victims are %v", got)
	}
	if young := book.victims(3, time.Unix(30, 0), time.Minute); len(young) != 0 {
		t.Errorf("too young: %v", young)
	}
}
