package ipam

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/nearpath/nearpath/internal/aliyun"
)

// open lets every ENI be asked, full those in no vSwitch of that name.
func open(*eni, aliyun.Family) int { return 1000 }

func full(e *eni, _ aliyun.Family) int {
	if e.VSwitchID == "full" {
		return 0
	}
	return 1000
}

func inVSwitch(e *eni, vSwitch string) *eni { e.VSwitchID = vSwitch; return e }

func asked(e *eni, f aliyun.Family, n int) *eni {
	e.Assigns = append(e.Assigns, assignment{Family: f, Count: n})
	return e
}

func forPods(e *eni, use purpose) *eni { e.Purpose = use; return e }

func lease(t *testing.T, l *ledger, from, to int, isExclusive bool) {
	t.Helper()
	for i := from; i < to; i++ {
		r := Request{Key: key(i), Exclusive: isExclusive}
		if err := l.reserve(r, rules{policy: MostIPs}, time.Unix(0, 0), time.Minute); err != nil {
			t.Fatal(err)
		}
		if err := l.confirm(r.Key, time.Unix(0, 0)); err != nil {
			t.Fatal(err)
		}
	}
}

func texts(steps []step) (list []string) {
	for _, s := range steps {
		list = append(list, s.String())
	}
	return list
}

func TestGrowShared(t *testing.T) {
	for name, c := range map[string]struct {
		enis    []*eni
		waiting int
		ok      func(*eni, aliyun.Family) int
		want    []string
		unmet   int
	}{
		"first ENI":                      {nil, 3, open, []string{"create a shared ENI for 3 leases"}, 0},
		"more than one ENI holds":        {nil, 25, open, []string{"create a shared ENI for 20 leases", "create a shared ENI for 5 leases"}, 0},
		"existing ENI first":             {[]*eni{holding("a", ENIInUse, 15)}, 19, open, []string{"assign 4 IPv4 addresses to ENI a"}, 0},
		"the rest in a new ENI":          {[]*eni{holding("a", ENIInUse, 15)}, 23, open, []string{"assign 5 IPv4 addresses to ENI a", "create a shared ENI for 3 leases"}, 0},
		"emptiest first":                 {[]*eni{holding("a", ENIInUse, 15), holding("b", ENIInUse, 5)}, 32, open, []string{"assign 10 IPv4 addresses to ENI b"}, 0},
		"a busy ENI is waited for":       {[]*eni{asked(holding("a", ENIInUse, 5), aliyun.IPv4, 5)}, 18, open, nil, 0},
		"an ENI on its way too":          {[]*eni{holding("a", ENIAttaching, 5)}, 13, open, nil, 0},
		"a full vSwitch is passed over":  {[]*eni{inVSwitch(holding("a", ENIInUse, 5), "full")}, 13, full, []string{"create a shared ENI for 8 leases"}, 0},
		"a deleted ENI gives nothing":    {[]*eni{holding("a", ENIDeleting, 5)}, 8, open, []string{"create a shared ENI for 8 leases"}, 0},
		"one about to go is taken back":  {[]*eni{holding("a", ENIDraining, 5)}, 4, open, []string{"revive ENI a"}, 0},
		"one that is being detached not": {[]*eni{holding("a", ENIDetaching, 5)}, 4, open, []string{"create a shared ENI for 4 leases"}, 0},
		"full vSwitches and no room": {[]*eni{
			inVSwitch(holding("a", ENIInUse, 5), "full"), inVSwitch(holding("b", ENIInUse, 5), "full"), inVSwitch(holding("c", ENIInUse, 5), "full"),
		}, 18, full, nil, 3},
		"an idle exclusive ENI before none at all": {[]*eni{
			forPods(holding("a", ENIInUse, 1), exclusive), holding("b", ENIInUse, 20), holding("c", ENIInUse, 20),
		}, 41, open, []string{"convert ENI a to a shared ENI"}, 0},
	} {
		l := ledgerWith(limits{ENIs: 3, AddressesPerENI: 20}, c.enis...)
		steps, unmet, _ := l.plan(situation{marks: Watermarks{MaxIdle: 100}, exclusive: Watermarks{MaxIdle: 9}, waiting: c.waiting, ok: c.ok})
		if diff := cmp.Diff(c.want, texts(steps)); diff != "" || unmet != c.unmet {
			t.Errorf("%s: unmet %d, want %d\n%s", name, unmet, c.unmet, diff)
		}
	}
}

func TestGrowExclusive(t *testing.T) {
	for name, c := range map[string]struct {
		enis  []*eni
		s     situation
		want  []string
		unmet int
	}{
		"created while there is room": {
			nil, situation{waitingExclusive: 2}, []string{"create an exclusive ENI for 1 leases", "create an exclusive ENI for 1 leases"}, 0,
		},
		"kept ready": {
			nil, situation{exclusive: Watermarks{MinIdle: 1, MaxIdle: 1}}, []string{"create an exclusive ENI for 1 leases"}, 0,
		},
		"a surplus shared ENI is converted": {
			[]*eni{holding("a", ENIInUse, 2), holding("b", ENIInUse, 5)},
			situation{marks: Watermarks{MinIdle: 5, MaxIdle: 9}, waitingExclusive: 1}, []string{"convert ENI a to an exclusive ENI"}, 0,
		},
		"one that the marks need is not": {
			[]*eni{holding("a", ENIInUse, 2)},
			situation{marks: Watermarks{MinIdle: 2, MaxIdle: 9}, waitingExclusive: 1}, []string{"create an exclusive ENI for 1 leases"}, 0,
		},
		"unless a caller would get none": {
			[]*eni{holding("a", ENIInUse, 2), holding("b", ENIInUse, 2), holding("c", ENIInUse, 2)},
			situation{marks: Watermarks{MinIdle: 6, MaxIdle: 9}, waitingExclusive: 1}, []string{"convert ENI a to an exclusive ENI"}, 0,
		},
		"one whose addresses are asked for is not": {
			[]*eni{asked(holding("a", ENIInUse, 2), aliyun.IPv4, 1), holding("b", ENIAttaching, 2), holding("c", ENIDeleting, 2)},
			situation{marks: Watermarks{MaxIdle: 9}, waitingExclusive: 1}, nil, 0,
		},
		"one about to go is taken back": {
			[]*eni{forPods(holding("a", ENIDraining, 1), exclusive)}, situation{waitingExclusive: 1}, []string{"revive ENI a"}, 0,
		},
		"a quota stops creating": {
			nil, situation{waitingExclusive: 1, noCreate: true}, nil, 1,
		},
	} {
		l := ledgerWith(limits{ENIs: 3, AddressesPerENI: 5}, c.enis...)
		c.s.ok = open
		steps, unmet, _ := l.plan(c.s)
		if diff := cmp.Diff(c.want, texts(steps)); diff != "" || unmet != c.unmet {
			t.Errorf("%s: unmet %d, want %d\n%s", name, unmet, c.unmet, diff)
		}
	}
}

func TestGiveBack(t *testing.T) {
	pace := Settings{}.withDefaults().Idle
	for name, c := range map[string]struct {
		enis   []*eni
		leased int
		s      situation
		want   string // of the only step, its beginning
	}{
		"a surplus ENI goes as a whole":  {[]*eni{holding("a", ENIInUse, 5), holding("b", ENIInUse, 5)}, 2, situation{marks: Watermarks{MinIdle: 2, MaxIdle: 3}}, "drain ENI b"},
		"not below the mark of ENIs":     {[]*eni{holding("a", ENIInUse, 5), holding("b", ENIInUse, 5)}, 2, situation{marks: Watermarks{MinIdle: 2, MaxIdle: 3}, minENIs: 2}, "release 10.0.0.7 10.0.0.8 10.0.0.9 10.0.0.10 10.0.0.3"},
		"not below the mark of idle":     {[]*eni{holding("a", ENIInUse, 5), holding("b", ENIInUse, 5)}, 2, situation{marks: Watermarks{MinIdle: 4, MaxIdle: 4}}, "release"},
		"not below the total":            {[]*eni{holding("a", ENIInUse, 5), holding("b", ENIInUse, 5)}, 2, situation{marks: Watermarks{MinTotal: 8}}, "release 10.0.0.7 10.0.0.8"},
		"not one in use":                 {[]*eni{holding("a", ENIInUse, 1), holding("b", ENIInUse, 5)}, 2, situation{}, "drain ENI a"},
		"not one whose calls are open":   {[]*eni{holding("a", ENIInUse, 5), asked(holding("b", ENIInUse, 5), aliyun.IPv4, 2)}, 2, situation{}, ""},
		"not while a caller waits":       {[]*eni{holding("a", ENIInUse, 5), holding("b", ENIInUse, 5)}, 2, situation{waiting: 1}, ""},
		"a batch at a time":              {[]*eni{holding("a", ENIInUse, 20)}, 1, situation{}, "release 10.0.0.2 10.0.0.3 10.0.0.4 10.0.0.5 10.0.0.6"},
		"an exclusive ENI above its own": {[]*eni{forPods(holding("a", ENIInUse, 1), exclusive)}, 0, situation{}, "drain ENI a"},
	} {
		l := ledgerWith(limits{ENIs: 3, AddressesPerENI: 20}, c.enis...)
		lease(t, l, 0, c.leased, false)
		c.s.ok, c.s.pace, c.s.reclaim, c.s.now = open, pace, true, time.Unix(0, 0).Add(pace.After)
		steps, _, _ := l.plan(c.s)
		if got := strings.Join(texts(steps), "; "); len(steps) > 1 || !strings.HasPrefix(got, c.want) || c.want == "" && got != "" {
			t.Errorf("%s: %q, want %q", name, got, c.want)
		}
		due := c.s.now
		c.s.now = due.Add(-time.Second)
		if steps, _, ripe := l.plan(c.s); len(steps) > 0 || c.want != "" && !ripe.Equal(due) {
			t.Errorf("%s: too young, and %v; ripe at %s, want %s", name, texts(steps), ripe, due)
		}
	}
}

// Every ENI lives a while, however short the pace is.
func TestYoungENIStays(t *testing.T) {
	l := ledgerWith(limits{ENIs: 3, AddressesPerENI: 20}, holding("a", ENIInUse, 1))
	s := situation{ok: open, reclaim: true, now: time.Unix(0, 0).Add(minENIAge - time.Second)}
	l.enis["a"].Since = time.Unix(0, 0)
	if steps, _, ripe := l.plan(s); len(steps) > 0 || !ripe.Equal(s.now.Add(time.Second)) {
		t.Errorf("after %s: %v, ripe at %s", minENIAge-time.Second, texts(steps), ripe)
	}
	s.now = s.now.Add(time.Second)
	if steps, _, _ := l.plan(s); len(steps) != 1 || steps[0].do != stepDrain {
		t.Errorf("after %s: %v", minENIAge, texts(steps))
	}
}

func TestFollow(t *testing.T) {
	dual := []aliyun.Family{aliyun.IPv4, aliyun.IPv6}
	l := ledgerWith(limits{ENIs: 3, AddressesPerENI: 20, IPv6PerENI: 12},
		holding("a", ENIInUse, 3), holding("b", ENIInUse, 20), asked(holding("c", ENIInUse, 1), aliyun.IPv4, 4), forPods(holding("d", ENIInUse, 1), exclusive))
	l.families = dual
	want := []string{
		"assign 3 IPv6 addresses to ENI a", "release 10.0.0.5 10.0.0.6 10.0.0.7 10.0.0.8 10.0.0.9 10.0.0.10 10.0.0.11 10.0.0.12",
		"assign 10 IPv6 addresses to ENI b", "assign 5 IPv6 addresses to ENI c", "assign 1 IPv6 addresses to ENI d",
	}
	if diff := cmp.Diff(want, texts(l.follow(open))); diff != "" {
		t.Error("more IPv6 addresses are wanted\n", diff)
	}
	l.families = dual[:1]
	for i, addr := range slices.Repeat([]string{"fd00::"}, 3) {
		l.learn(l.enis["a"], netip.MustParseAddr(fmt.Sprint(addr, i+1)), time.Unix(0, 0))
	}
	if diff := cmp.Diff([]string{"release fd00::1 fd00::2 fd00::3"}, texts(l.follow(open))); diff != "" {
		t.Error("IPv6 is no longer wanted\n", diff)
	}
}

// A plan leads to marks that are met, and from there nowhere: no ENI is made that the next plan removes.
func TestPlanComesToRest(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		small := rapid.IntRange(0, 6)
		l := newLedger(aliyun.IPv4)
		if rapid.Bool().Draw(t, "dual") {
			l.families = append(l.families, aliyun.IPv6)
		}
		l.limits = limits{ENIs: rapid.IntRange(1, 4).Draw(t, "enis"), AddressesPerENI: rapid.IntRange(1, 8).Draw(t, "per"), IPv6PerENI: rapid.IntRange(1, 8).Draw(t, "per6")}
		w := &restWorld{l: l, now: time.Unix(1_700_000_000, 0)}
		minIdle, minExclusive := small.Draw(t, "minIdle"), rapid.IntRange(0, 2).Draw(t, "minExclusive")
		s := situation{
			marks:     Watermarks{MinIdle: minIdle, MaxIdle: minIdle + small.Draw(t, "more"), MinTotal: small.Draw(t, "minTotal")},
			exclusive: Watermarks{MinIdle: minExclusive, MaxIdle: minExclusive + 1},
			minENIs:   rapid.IntRange(0, 2).Draw(t, "minENIs"), ok: open, reclaim: true, pace: Settings{}.withDefaults().Idle,
		}
		leased := map[bool][]Key{}
		for range rapid.IntRange(1, 5).Draw(t, "rounds") {
			for range small.Draw(t, "leases") {
				r := Request{Key: key(w.names), Exclusive: rapid.IntRange(0, 4).Draw(t, "kind") == 0}
				w.names++
				if l.reserve(r, rules{policy: BalanceQueues}, w.now, time.Second) == nil {
					must(t, l.confirm(r.Key, w.now))
					leased[r.Exclusive] = append(leased[r.Exclusive], r.Key)
				}
			}
			for _, isExclusive := range []bool{false, true} {
				list := leased[isExclusive]
				for n := min(small.Draw(t, "released"), len(list)); n > 0; n-- {
					_, err := l.end(list[0], term{cooldown: time.Second}, w.now)
					must(t, err)
					list = list[1:]
				}
				leased[isExclusive] = list
			}
			w.settle(t, s)
			d := l.sharedDemand(0)
			if grow, _ := s.marks.plan(d); grow > 0 {
				t.Fatalf("at rest and %+v is below the marks %+v", d, s.marks)
			}
			if len(l.enis) > l.limits.ENIs {
				t.Fatalf("%d ENIs of %d", len(l.enis), l.limits.ENIs)
			}
		}
	})
}

// A restWorld carries out plans at once.
type restWorld struct {
	l      *ledger
	now    time.Time
	names  int
	minted int
}

// settle carries out plans until there is nothing to do, for all idle times long over.
func (w *restWorld) settle(t *rapid.T, s situation) {
	var trail []string
	for range 60 {
		w.now = w.now.Add(time.Hour)
		w.l.expire(w.now, time.Second, nil)
		s.now = w.now
		steps, _, _ := w.l.plan(s)
		if len(steps) == 0 {
			return
		}
		trail = append(trail, fmt.Sprint(texts(steps)))
		for _, step := range steps {
			w.do(t, step)
		}
	}
	t.Fatalf("no rest:\n%s", strings.Join(trail, "\n"))
}

func (w *restWorld) mint(f aliyun.Family, n int) (addrs []netip.Addr) {
	for range n {
		w.minted++
		if f == aliyun.IPv6 {
			addrs = append(addrs, netip.MustParseAddr(fmt.Sprintf("fd00::%x", w.minted)))
		} else {
			addrs = append(addrs, netip.MustParseAddr(fmt.Sprintf("10.0.%d.%d", w.minted/250, 1+w.minted%250)))
		}
	}
	return addrs
}

func (w *restWorld) do(t *rapid.T, s step) {
	w.names++
	l, token := w.l, fmt.Sprintf("token-%d", w.names)
	switch s.do {
	case stepCreate:
		must(t, l.intend(token, aliyun.VSwitch{ID: "vsw"}, s.count, s.use, w.now))
		e := l.enis[token]
		made := aliyun.ENI{ID: token, PrivateIPs: w.mint(aliyun.IPv4, e.Wish.IPv4), IPv6s: w.mint(aliyun.IPv6, e.Wish.IPv6)}
		made.PrimaryIP = made.PrivateIPs[0]
		must(t, l.created(token, made, w.now))
		must(t, l.moveENI(token, ENIAttaching, w.now))
		must(t, l.moveENI(token, ENIInUse, w.now))
		e.wired = true
	case stepAssign:
		must(t, l.planAssign(s.eni, token, s.family, s.count, w.now))
		must(t, l.assigned(s.eni, s.family, w.mint(s.family, s.count), w.now))
	case stepConvert:
		must(t, l.convert(s.eni, s.use))
		l.enis[s.eni].wired = true
	case stepDrain:
		for _, to := range []ENIState{ENIDraining, ENIDetaching, ENIDeleting, eniGone} {
			must(t, l.moveENI(s.eni, to, w.now))
		}
	case stepRelease:
		must(t, l.release(s.addrs, w.now))
		must(t, l.released(s.addrs, w.now))
	default:
		t.Fatalf("unexpected step %s", s)
	}
}

// An address that was adopted while an assignment is in flight may be of that assignment.
func TestNothingGoesBackDuringAnAssignment(t *testing.T) {
	e := asked(holding("a", ENIInUse, 5), aliyun.IPv4, 2)
	l := ledgerWith(limits{ENIs: 1, AddressesPerENI: 20}, e)
	anything := func(*address) bool { return true }
	if got := l.victims(3, anything); len(got) > 0 {
		t.Errorf("victims are %v", got)
	}
	if err := l.assigned("a", aliyun.IPv4, nil, time.Unix(1, 0)); err != nil {
		t.Fatal(err)
	}
	if got := l.victims(3, anything); len(got) != 3 || slices.Contains(got, e.Primary) {
		t.Errorf("victims are %v", got)
	}
}
