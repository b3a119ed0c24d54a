package policy

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/nearpath/nearpath/bench/measure"
	"github.com/nearpath/nearpath/bench/site"
	"github.com/nearpath/nearpath/internal/cluster"
	"github.com/nearpath/nearpath/internal/policy"
)

// The budgets of policy are about metrics that its series have.
func TestBudgets(t *testing.T) {
	t.Parallel()
	b := &bed{path: &contender{name: "nearpath", role: measure.Subject}, nft: &contender{name: "nftables", role: measure.Peer}}
	series := b.all()
	if err := measure.BudgetsNameSeries("../budgets.yaml", Benchmark().Name, series); err != nil {
		t.Error(err)
	}
}

// room is enough for all of it.
var room = policy.Room{Verdicts: 1 << 20, Peers: 1 << 18, CIDRs: 1 << 18, Cells: 1 << 20, Pods: 1024}

// opsOf plans from nothing what a Store wants for pods.
func opsOf(t *testing.T, put func(*cluster.Edit), pods []policy.LocalPod) []policy.Op {
	t.Helper()
	store := newStore()
	store.Update(put)
	changes := store.Subscribe()
	defer changes.Close()
	planner := policy.NewPlanner(policy.Config{Room: room})
	for i, p := range pods {
		p.Number = uint16(i + 1)
		planner.Local(p, false)
	}
	change, err := changes.Next(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	ops, err := planner.Plan(change)
	if err != nil || len(planner.Refused()) > 0 {
		t.Fatalf("error %v, refused %v", err, planner.Refused())
	}
	return ops
}

func countOps[O policy.Op](ops []policy.Op) (n int) {
	for _, op := range ops {
		if _, ok := op.(O); ok {
			n++
		}
	}
	return n
}

// What nearpath and nftables are given is the same: as many pods and peers, of which the server is one.
func TestScene(t *testing.T) {
	t.Parallel()
	for _, s := range []scene{{}, {1, 10}, {1, 100}, {10, 10}, {25, 10}} {
		var pods []policy.LocalPod
		for i, addr := range s.pods() {
			pods = append(pods, policy.LocalPod{Name: podName(i), Addrs: []netip.Addr{addr}})
		}
		ops, rules := opsOf(t, s.put, pods), s.rules()
		if got, want := countOps[policy.PutPeer](ops), s.Policies*s.Peers; got != want {
			t.Errorf("%+v: nearpath has %d peers, want %d", s, got, want)
		}
		isolated := 0
		for _, op := range ops {
			if put, ok := op.(policy.PutPod); ok && put.Sets != (policy.PodSets{}) {
				isolated++
			}
		}
		if want := (s.Policies + perPod - 1) / perPod; isolated != want || strings.Count(rules, "chain pod-") != 2*want {
			t.Errorf("%+v: %d pods are isolated by nearpath and %d chains are of pods, want %d and twice as many", s, isolated, strings.Count(rules, "chain pod-"), want)
		}
		if want := min(1, s.Policies); strings.Count(rules, answers.String()) != want || strings.Count(rules, dark.String()) != want {
			t.Errorf("%+v: the rules do not name the server once", s)
		}
		if s.Policies > 0 && !strings.Contains(rules, site.Pod.String()+" : jump pod-0-out") {
			t.Errorf("%+v: the rules do not name the pod", s)
		}
	}
}

// Every change of the large cluster is one that the kernel is told of, whichever number it has.
func TestChanges(t *testing.T) {
	t.Parallel()
	store := newStore()
	store.Update(putLarge)
	changes := store.Subscribe()
	defer changes.Close()
	planner := policy.NewPlanner(policy.Config{Room: room})
	for i := range largeLocals {
		p := largePod(i, 0)
		planner.Local(policy.LocalPod{Number: uint16(i + 1), Name: p.Name, Addrs: p.Addrs}, false)
	}
	plan := func() []policy.Op {
		change, err := changes.Next(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		ops, err := planner.Plan(change)
		if err != nil || len(planner.Refused()) > 0 {
			t.Fatalf("error %v, refused %v", err, planner.Refused())
		}
		return ops
	}
	if n := countOps[policy.PutPod](plan()); n != largeLocals {
		t.Errorf("%d pods are isolated, want %d", n, largeLocals)
	}
	for _, kind := range changeKinds {
		for n := 1; n <= 2; n++ {
			store.Update(func(e *cluster.Edit) { edits[kind](e, n) })
			if ops := plan(); countOps[policy.Bump](ops) != 1 {
				t.Errorf("%s, number %d: %d ops, none of which begins a generation", kind, n, len(ops))
			}
		}
	}
}
