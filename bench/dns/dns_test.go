package dns

import (
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/nearpath/nearpath/bench/measure"
)

// The budgets of DNS are about metrics that its series have.
func TestBudgets(t *testing.T) {
	t.Parallel()
	budgets, err := measure.ReadBudgets("../budgets.yaml")
	if err != nil {
		t.Fatal(err)
	}
	series, some := (&bed{}).all(), false
	for _, budget := range budgets {
		if budget.Benchmark != Benchmark().Name {
			continue
		}
		some = true
		found := slices.ContainsFunc(series, func(s measure.Series) bool {
			return s.Name == budget.Series && slices.ContainsFunc(s.Metrics, func(m measure.Metric) bool { return m.Name == budget.Metric })
		})
		if !found {
			t.Errorf("budget %q is about %q of series %q, which does not exist", budget.What, budget.Metric, budget.Series)
		}
	}
	if !some {
		t.Error("no budget is about DNS")
	}
}

// The client's three ways to ask, against the upstream, which counts.
func TestClientAsksUpstream(t *testing.T) {
	t.Parallel()
	at := netip.MustParseAddrPort("127.53.53.1:35353")
	u := &upstream{asked: map[string]int{}}
	if err := u.listen(at); err != nil {
		t.Fatal(err)
	}
	names := []string{"a.example", "b.example"}
	if times, err := (loop{Server: at, Names: names, Times: 3}).do(); err != nil || len(times) != 3 {
		t.Errorf("%d times, %v, want 3", len(times), err)
	}
	if a, b := u.count("a.example"), u.count("b.example"); a != 2 || b != 1 {
		t.Errorf("asked %d and %d times, want 2 and 1", a, b)
	}
	if answered, err := (rate{Server: at, Name: "c.example", Window: 4, For: 20 * time.Millisecond}).do(); err != nil || answered == 0 {
		t.Errorf("%d answers, %v", answered, err)
	}
	if answered, err := (burst{Server: at, Name: "d.example", Sockets: 20}).do(); err != nil || answered != 20 {
		t.Errorf("%d sockets of 20 got an answer, %v", answered, err)
	}
	if n := u.count("d.example"); n < 20 {
		t.Errorf("asked %d times, want 20 at least", n)
	}
	if _, err := (loop{Server: netip.MustParseAddrPort("127.53.53.1:35354"), Names: names, Times: 1}).do(); err == nil {
		t.Error("nobody answers, and that is no error")
	}
}
