package policy

import (
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/nearpath/nearpath/internal/cluster"
	"github.com/nearpath/nearpath/internal/policy/interpret"
)

// A trial is a model, a Planner that follows it, and the maps.
type trial struct {
	*testing.T
	model
	seed    uint64
	sub     *cluster.Subscription
	planner *Planner
	maps    *fakeMaps
	locals  map[uint16]LocalPod
	// counts of what was compared
	checks, prefixes, mids, between, crashes int
}

func newTrial(t *testing.T, seed uint64) *trial {
	t.Helper()
	tr := &trial{T: t, seed: seed, maps: newFakeMaps(), locals: map[uint16]LocalPod{}}
	tr.model = model{Rand: rand.New(rand.NewPCG(seed, 0)), store: cluster.NewStore(), domains: map[string][]netip.Addr{}}
	tr.store.Update(func(e *cluster.Edit) {
		e.MarkSynced()
		e.MarkPolicySynced()
		for _, ns := range modelValues {
			e.PutNamespace(ns)
			e.LabelNamespace(ns, tr.labels())
		}
		e.PutService(&cluster.Service{Name: dnsService, Ports: []cluster.ServicePort{
			{Name: "dns", Protocol: cluster.UDP, Port: 53}, {Name: "dns-tcp", Protocol: cluster.TCP, Port: 53},
		}})
		e.PutSlice(tr.dns())
		for at := range modelLocals {
			pod := tr.pod(at)
			e.PutPolicyPod(pod)
			tr.locals[uint16(at+1)] = LocalPod{Number: uint16(at + 1), Name: pod.Name, Addrs: pod.Addrs}
		}
	})
	tr.sub = tr.store.Subscribe()
	t.Cleanup(tr.sub.Close)
	tr.planner = tr.newPlanner()
	return tr
}

func (tr *trial) newPlanner() *Planner {
	p := NewPlanner(Config{
		Secret: [16]byte{1}, Room: tr.maps.room, Listeners: listeners, DNSService: dnsService,
		Domain: func(name string) []netip.Addr { return tr.domains[name] },
	})
	for _, local := range tr.locals {
		p.Local(local, false)
	}
	return p
}

func (tr *trial) next() cluster.Change {
	tr.Helper()
	change, err := tr.sub.Next(tr.Context())
	if err != nil {
		tr.Fatal(err)
	}
	return change
}

// answers are the verdicts of all pods about all addresses at some points, as the maps have them.
type answers struct {
	addrs  []netip.Addr
	points []uint32
}

func (a answers) of(m *fakeMaps, set uint64) []int {
	all := make([]int, 0, len(a.addrs)*len(a.points))
	for _, addr := range a.addrs {
		var list []Interval
		if set != 0 {
			list = m.list(set, m.class(addr))
		} else {
			list = []Interval{All}
		}
		for _, point := range a.points {
			all = append(all, lookup(list, point))
		}
	}
	return all
}

type podAnswers map[uint16][2][]int

func (a answers) all(m *fakeMaps, locals map[uint16]LocalPod) podAnswers {
	all := podAnswers{}
	for number := range locals {
		all[number] = [2][]int{a.of(m, m.Pods[number][0]), a.of(m, m.Pods[number][1])}
	}
	return all
}

// apply applies the ops, and looks after each one whether all verdicts are old or new ones.
func (tr *trial) apply(ops []Op) {
	tr.Helper()
	a := answers{tr.samples(), tr.points()[:6]}
	final := tr.maps.clone()
	for _, op := range ops {
		if err := op.Apply(final); err != nil {
			tr.Fatal(err)
		}
	}
	old, now := a.all(tr.maps, tr.locals), a.all(final, tr.locals)
	inUse := map[uint64]bool{}
	for _, pod := range final.Pods {
		inUse[pod[0]], inUse[pod[1]] = true, true
	}
	was := maps.Clone(tr.maps.Pods)
	for i, op := range ops {
		if err := op.Apply(tr.maps); err != nil {
			tr.Fatal(err)
		}
		if _, ok := op.(PutVerdict); ok && i%8 != 0 {
			continue // they are many
		}
		for number := range tr.locals {
			for d, got := range a.all(tr.maps, map[uint16]LocalPod{number: {}})[number] {
				if slices.Equal(got, old[number][d]) || slices.Equal(got, now[number][d]) {
					tr.prefixes += len(got)
					continue
				}
				// A set that other pods keep says at once what it is to say of addresses that change their class, also to
				// the pods that leave it.
				var mid []int
				if inUse[was[number][d]] {
					mid = a.of(final, was[number][d])
				}
				for n := range got {
					tr.prefixes++
					if got[n] == old[number][d][n] || got[n] == now[number][d][n] {
						continue
					}
					if mid != nil && mid[n] == got[n] {
						tr.mids++
						continue
					}
					tr.Fatalf("seed %d: after op %d of %d (%s) pod %d %s %s %s: got %d, before %d, wanted %d", tr.seed, i, len(ops), op, number,
						Direction(d), a.addrs[n/len(a.points)], point(a.points[n%len(a.points)]), got[n], old[number][d][n], now[number][d][n])
				}
			}
		}
	}
}

// plan carries out a plan, or part of it: then another Planner begins with what the maps hold.
func (tr *trial) plan(change cluster.Change) {
	tr.Helper()
	ops, err := tr.planner.Plan(change)
	if err != nil {
		tr.Fatal(err)
	}
	tr.between += len(tr.planner.compiler.dirty.plan)
	if tr.one(6) {
		tr.crashes++
		tr.apply(ops[:tr.IntN(len(ops)+1)])
		listeners := tr.planner.world.listeners
		tr.planner = tr.newPlanner()
		tr.planner.world.listeners = listeners
		if err := tr.planner.Adopt(tr.maps); err != nil {
			tr.Fatal(err)
		}
		if ops, err = tr.planner.Plan(cluster.Change{Snapshot: change.Snapshot, Full: true}); err != nil {
			tr.Fatal(err)
		}
	}
	tr.apply(ops)
	if !tr.one(3) {
		tr.prune()
	}
}

func (tr *trial) prune() {
	tr.Helper()
	for range 3 { // an address may go by way of a class in between
		ops, err := tr.planner.Prune()
		if err != nil {
			tr.Fatal(err)
		}
		if len(ops) == 0 {
			return
		}
		tr.apply(ops)
	}
	tr.Fatalf("seed %d: there is always something to prune", tr.seed)
}

// swap ends two pods of the node, and begins them with each other's numbers.
func (tr *trial) swap() {
	x, y := uint16(1+tr.IntN(modelLocals)), uint16(1+tr.IntN(modelLocals))
	a, b := tr.locals[x], tr.locals[y]
	for _, number := range []uint16{x, y} {
		delete(tr.maps.Pods, number) // as whoever frees the number does
		tr.planner.Local(tr.locals[number], true)
	}
	a.Number, b.Number = y, x
	for _, local := range []LocalPod{a, b} {
		tr.locals[local.Number] = local
		tr.planner.Local(local, false)
	}
}

// compare asks the interpreter.
func (tr *trial) compare() {
	tr.Helper()
	world := &interpret.World{
		Snapshot: tr.store.Snapshot(), Local: map[netip.Addr]cluster.Name{}, Listeners: listeners, DNS: dnsService,
		Domain: func(name string) []netip.Addr { return tr.domains[name] },
	}
	for _, local := range tr.locals {
		for _, addr := range local.Addrs {
			world.Local[addr] = local.Name
		}
	}
	a := answers{tr.samples(), tr.points()}
	for number, local := range tr.locals {
		for d := Ingress; d <= Egress; d++ {
			got := a.of(tr.maps, tr.maps.Pods[number][d])
			for n := range got {
				addr, p := a.addrs[n/len(a.points)], a.points[n%len(a.points)]
				q := interpret.Question{
					Pod: local.Name, Ingress: d == Ingress, Peer: addr, Protocol: cluster.Protocol(p >> 16), Port: uint16(p),
				}
				v, want := world.Policies(q), 0
				if v.Allowed {
					want = 1
					if v.Logged {
						want = 2
					}
				}
				if tr.checks++; got[n] != want {
					tr.Fatalf("seed %d: pod %d (%s) %s %s %s: maps say %d, wanted %d: %s\n%s", tr.seed, number, local.Name, d, addr, point(p), got[n], want, v,
						tr.explain(number, d))
				}
			}
		}
	}
}

func (tr *trial) explain(number uint16, d Direction) string {
	c := tr.planner.compiler
	var text strings.Builder
	for _, ref := range c.Isolating(number, d) {
		text.WriteString(cmp.Diff(nil, tr.planner.world.policies[ref].Rules[d]) + "\n")
	}
	return text.String()
}

// fresh compares the maps with what a new Planner makes of empty ones.
func (tr *trial) fresh() {
	tr.Helper()
	tr.prune()
	empty := newFakeMaps()
	p := tr.newPlanner()
	p.world.listeners = tr.planner.world.listeners
	applyAll(tr.T, p, empty, cluster.Change{Snapshot: tr.store.Snapshot(), Full: true})
	if diff := cmp.Diff(essence(empty), essence(tr.maps)); diff != "" {
		tr.Fatalf("seed %d: a plan from nothing (-) differs from many small ones (+):\n%s", tr.seed, diff)
	}
	// Neither a second plan nor one from scratch finds anything to do.
	if ops, err := tr.planner.Plan(cluster.Change{}); err != nil || len(ops) > 0 {
		tr.Fatalf("seed %d: a second plan has %v, %v", tr.seed, ops, err)
	}
	p = tr.newPlanner()
	p.world.listeners = tr.planner.world.listeners
	if err := p.Adopt(tr.maps); err != nil {
		tr.Fatal(err)
	}
	ops, err := p.Plan(cluster.Change{Snapshot: tr.store.Snapshot(), Full: true})
	if err != nil {
		tr.Fatal(err)
	}
	ops = slices.DeleteFunc(ops, func(op Op) bool {
		put, ok := op.(PutPod)
		return ok && tr.maps.Pods[put.Number] == put.Sets
	})
	if len(ops) > 1 || len(ops) == 1 && ops[0] != (Bump{}) {
		tr.Fatalf("seed %d: after a start there is something to do: %v", tr.seed, ops)
	}
}

// essence leaves out what says no more than what would be found without it.
func essence(m *fakeMaps) map[string]any {
	m = m.clone()
	for key, list := range m.Verdicts {
		if key.Class != 0 && slices.Equal(list, m.Verdicts[VerdictKey{Set: key.Set}]) {
			delete(m.Verdicts, key)
		} else if len(list) == 0 {
			m.Verdicts[key] = nil
		}
	}
	maps.DeleteFunc(m.Pods, func(_ uint16, sets PodSets) bool { return sets == PodSets{} })
	return map[string]any{"verdicts": m.Verdicts, "peers": m.Peers, "networks": m.CIDRs, "pods": m.Pods}
}

func applyAll(tb testing.TB, p *Planner, m *fakeMaps, change cluster.Change) {
	tb.Helper()
	ops, err := p.Plan(change)
	for err == nil && len(ops) > 0 {
		for _, op := range ops {
			if err := op.Apply(m); err != nil {
				tb.Fatal(err)
			}
		}
		ops, err = p.Prune()
	}
	if err != nil {
		tb.Fatal(err)
	}
}

// TestRandomClusters follows clusters through changes: the maps say what the interpreter says, in every moment of the way either
// what they said or what is wanted, and in the end what a plan from nothing makes.
func TestRandomClusters(t *testing.T) {
	t.Parallel()
	const clusters, steps = 14, 12
	checks, prefixes, mids, between, crashes := 0, 0, 0, 0, 0
	for seed := range uint64(clusters) {
		tr := newTrial(t, seed)
		tr.store.Update(func(e *cluster.Edit) {
			for range seed {
				tr.step(e)
			}
		})
		tr.plan(tr.next())
		tr.compare()
		for n := range steps {
			tr.store.Update(func(e *cluster.Edit) {
				for range 1 + tr.IntN(3) {
					tr.planner.Names(tr.step(e))
				}
				// What is above may have changed nothing.
				e.PutPolicyNode(&cluster.PolicyNode{Name: "tick", Labels: map[string]string{"n": string(rune('a' + n))}})
			})
			if tr.one(4) {
				tr.swap()
			}
			tr.plan(tr.next())
			tr.compare()
			if n%4 == 3 {
				tr.fresh()
			}
		}
		checks, prefixes, mids = checks+tr.checks, prefixes+tr.prefixes, mids+tr.mids
		between, crashes = between+tr.between, crashes+tr.crashes
	}
	t.Logf("%d verdicts compared with the interpreter, %d on the way with those before and after", checks, prefixes)
	t.Logf("%d said by sets that others keep, %d addresses with classes in between, %d plans broken off", mids, between, crashes)
	if checks < 1_000_000 {
		t.Errorf("only %d checks", checks)
	}
}
