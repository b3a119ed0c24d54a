package policy_test

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"testing"

	"pgregory.net/rapid"

	"github.com/nearpath/nearpath/internal/cluster"
	"github.com/nearpath/nearpath/internal/policy"
	"github.com/nearpath/nearpath/internal/policy/interpret"
)

func (d draw) expr() string {
	return pick(d, "", "", "all()", `a == "x"`, `a != 'x'`, `a in {"x", "y"} && !has(b)`, `b not in {"x"} || a starts with "x"`,
		`!(a ends with "y")`, `a contains "x"`, `projectcalico.org/namespace == "red"`, `projectcalico.org/serviceaccount == "robot"`,
		`projectcalico.org/orchestrator == "k8s"`, `pcns.projectcalico.org/name in {"red", "blue"}`)
}

func (d draw) namespaceExpr() string {
	return pick(d, "", "", "all()", `a == "x"`, `!has(a)`, `projectcalico.org/name != "red"`, `kubernetes.io/metadata.name in {"red", "green"}`)
}

func (d draw) calicoTier(name string) *cluster.CalicoTier {
	t := &cluster.CalicoTier{Meta: cluster.Meta{Name: cluster.Name{Name: name}}}
	t.Spec.Order = pick(d, nil, new(float64(500)), new(float64(5000)), new(float64(2e6)))
	t.Spec.DefaultAction = pick(d, "", cluster.CalicoDeny, cluster.CalicoPass)
	return t
}

func (d draw) networkSet(name string) *cluster.CalicoNetworkSet {
	s := &cluster.CalicoNetworkSet{Meta: cluster.Meta{Name: cluster.Name{Namespace: pick(d, "", "red", "blue"), Name: name}, Labels: d.labels()}}
	for range rapid.IntRange(0, 2).Draw(d.T, "nets") {
		s.Nets = append(s.Nets, netip.MustParsePrefix(d.net()))
	}
	return s
}

func (d draw) calicoPolicy(name string) *cluster.CalicoPolicy {
	namespace := pick(d, "", "red", "blue")
	p := &cluster.CalicoPolicy{Meta: cluster.Meta{Name: cluster.Name{Namespace: namespace, Name: name}}, SortName: pick(d, name, "p1")}
	p.Spec = cluster.CalicoPolicySpec{
		Tier: pick(d, cluster.CalicoDefaultTier, "early", "late", "lost", cluster.CalicoAdminTier), Order: pick(d, nil, new(float64(500)), new(float64(1000)), new(float64(2000))),
		Selector: d.expr(), Types: pick(d, []string{"Ingress"}, []string{"Egress"}, []string{"Ingress", "Egress"}),
	}
	if namespace == "" {
		p.Spec.NamespaceSelector = d.namespaceExpr()
	}
	p.Spec.Ingress = some(d, 3, func() cluster.CalicoRule { return d.calicoRule(true) })
	p.Spec.Egress = some(d, 3, func() cluster.CalicoRule { return d.calicoRule(false) })
	return p
}

func (d draw) calicoRule(ingress bool) cluster.CalicoRule {
	r := cluster.CalicoRule{
		Action:    pick(d, cluster.CalicoAllow, cluster.CalicoDeny, cluster.CalicoPass, cluster.CalicoLog),
		IPVersion: pick(d, nil, nil, new(4), new(6)),
		Protocol:  pick(d, nil, new(cluster.CalicoProtocol(6)), new(cluster.CalicoProtocol(17)), new(cluster.CalicoProtocol(1)), new(cluster.CalicoProtocol(47))),
	}
	if d.oneIn(3) {
		r.NotProtocol = new(pick[cluster.CalicoProtocol](d, 6, 17, 58))
	}
	icmp := func() cluster.CalicoICMP {
		m := cluster.CalicoICMP{Type: pick(d, nil, new(8), new(3))}
		if m.Type != nil && d.oneIn(2) {
			m.Code = new(1)
		}
		return m
	}
	if r.Protocol != nil && r.Protocol.IsICMP() {
		r.ICMP, r.NotICMP = maybe(d, icmp), maybe(d, icmp)
	}
	r.Source, r.Destination = d.calicoEntity(ingress), d.calicoEntity(!ingress)
	d.calicoPorts(&r)
	return r
}

func (d draw) calicoPorts(r *cluster.CalicoRule) {
	numbers := func() []cluster.CalicoPort {
		return some(d, 2, func() cluster.CalicoPort {
			return pick(d, cluster.CalicoPort{First: 80, Last: 80}, cluster.CalicoPort{First: 50, Last: 8000}, cluster.CalicoPort{First: 0, Last: 65535})
		})
	}
	if r.Protocol != nil && !r.Protocol.HasPorts() || d.oneIn(3) {
		return
	}
	if r.Protocol != nil {
		r.Destination.Ports, r.Destination.NotPorts = numbers(), numbers()
	}
	if len(r.Destination.NotPorts) == 0 && d.oneIn(2) {
		r.Destination.Ports = append(r.Destination.Ports, cluster.CalicoPort{Name: d.portName()})
	}
}

// calicoEntity draws the peer, or the end that the policy selects, which has no networks.
func (d draw) calicoEntity(peer bool) cluster.CalicoEntity {
	var e cluster.CalicoEntity
	if !peer && d.oneIn(2) {
		return e
	}
	e.Selector = d.expr()
	if d.oneIn(3) {
		e.NotSelector = d.expr()
	}
	if d.oneIn(3) {
		e.NamespaceSelector = pick(d, d.namespaceExpr(), "global()")
	}
	if d.oneIn(5) {
		e.ServiceAccounts = &cluster.CalicoServiceAccounts{Names: some(d, 1, func() string { return "robot" })}
	}
	if peer && d.oneIn(2) {
		e.Nets, e.NotNets = some(d, 2, d.net), some(d, 1, d.net)
	}
	return e
}

// domains are what names led to.
func domains(name string) []netip.Addr {
	return map[string][]netip.Addr{
		"www.example.com": {netip.MustParseAddr("192.0.2.200"), netip.MustParseAddr("10.1.0.6")},
		"*.example.com":   {netip.MustParseAddr("192.0.2.200"), netip.MustParseAddr("10.1.0.6"), netip.MustParseAddr("2001:db8::1")},
	}[policy.FoldName(name)]
}

// An oracle holds a Planner against the interpreter.
type oracle struct {
	store   *cluster.Store
	follow  *cluster.Subscription
	planner *policy.Planner
	maps    *oracleMaps
	checks  *int
}

func newOracle(o cluster.Objects, checks *int) *oracle {
	w := &oracle{store: cluster.NewStore(), maps: newOracleMaps(), checks: checks}
	w.store.Replace(o)
	w.store.Update(func(e *cluster.Edit) { e.MarkSynced(); e.MarkPolicySynced() })
	w.follow = w.store.Subscribe()
	w.planner = policy.NewPlanner(policy.Config{Secret: [16]byte{7}, Room: oracleRoom, Domain: domains})
	for i, pod := range o.PolicyPods[:5] {
		w.planner.Local(policy.LocalPod{Number: uint16(i + 1), Name: pod.Name, Addrs: pod.Addrs}, false)
	}
	return w
}

// A fataler is a test, or one run of a property.
type fataler interface {
	Context() context.Context
	Fatal(...any)
}

// plan follows the store's changes.
func (w *oracle) plan(t fataler) {
	change, err := w.follow.Next(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	ops, err := w.planner.Plan(change)
	w.apply(t, ops, err)
}

func (w *oracle) apply(t fataler, ops []policy.Op, err error) {
	if err != nil {
		t.Fatal(err)
	}
	for _, op := range ops {
		if err := op.Apply(w.maps); err != nil {
			t.Fatal(err)
		}
	}
}

// peers are addresses of all kinds, and those around the ends of networks.
func peers() []netip.Addr {
	var list []netip.Addr
	for i := range 7 {
		list = append(list, podAddrs(i)...)
	}
	for _, text := range []string{
		"192.0.2.1", "192.0.2.2", "192.0.2.127", "192.0.2.128", "192.0.2.200", "192.0.3.0", "9.255.255.255", "10.0.0.0", "10.1.0.0", "10.1.0.15",
		"10.1.0.16", "11.0.0.0", "203.0.113.1", "fd00::1", "fd00:1::ff", "fd00:1:0:1::", "fd01::", "2001:db8::1",
	} {
		list = append(list, netip.MustParseAddr(text))
	}
	return list
}

// check compares all verdicts at some points.
func (w *oracle) check(t *rapid.T, random *rand.Rand) {
	world := &interpret.World{Snapshot: w.store.Snapshot(), Local: map[netip.Addr]cluster.Name{}, Domain: domains}
	var locals []cluster.Name
	for i := range 5 {
		for pod := range world.Snapshot.PolicyPods() {
			if pod.Name.Name == fmt.Sprint("pod", i) {
				locals = append(locals, pod.Name)
				for _, addr := range pod.Addrs {
					world.Local[addr] = pod.Name
				}
			}
		}
	}
	points := []uint32{6<<16 | 80, 6<<16 | 8080, 6<<16 | 49, 17<<16 | 53, 17<<16 | 80, 132<<16 | 81, 1<<16 | 8<<8, 1<<16 | 8<<8 | 1, 1<<16 | 3<<8, 58<<16 | 128<<8, 47 << 16}
	for n, name := range locals {
		for _, peer := range peers() {
			for d := range 2 {
				point := points[random.IntN(len(points))]
				q := interpret.Question{Pod: name, Ingress: d == 0, Peer: peer, Protocol: cluster.Protocol(point >> 16), Port: uint16(point)}
				want := world.Policies(q)
				allowed, logged := w.maps.verdict(uint16(n+1), policy.Direction(d), peer, point)
				if *w.checks++; allowed != want.Allowed || allowed && logged != want.Logged {
					w.explain(t)
					t.Fatalf("%s %s of %v at %d/%d: compiled %v (logged %v), interpreted %v (logged %v)",
						name, policy.Direction(d), peer, point>>16, point&0xffff, allowed, logged, want, want.Logged)
				}
			}
		}
	}
}

// TestAllThreeAPIs holds what is compiled from random objects of all three APIs against the interpreter of the objects, also
// after changes.
func TestAllThreeAPIs(t *testing.T) {
	t.Parallel()
	checks := 0
	rapid.Check(t, func(t *rapid.T) {
		d := draw{t}
		random := rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "points"), 0))
		w := newOracle(d.objects(), &checks)
		defer w.follow.Close()
		w.plan(t)
		w.check(t, random)
		for i := range rapid.IntRange(0, 4).Draw(t, "changes") {
			w.store.Update(func(e *cluster.Edit) {
				d.change(e)
				e.LabelNamespace("counter", map[string]string{"changes": fmt.Sprint(i)}) // else there may be nothing to follow
			})
			w.plan(t)
			w.check(t, random)
			if rapid.Bool().Draw(t, "prune") {
				ops, err := w.planner.Prune()
				w.apply(t, ops, err)
				w.check(t, random)
			}
		}
	})
	t.Logf("%d verdicts compared", checks)
}

// change changes one thing or two.
func (d draw) change(e *cluster.Edit) {
	e.PutCalicoNetworkSet(d.networkSet("s0"))
	switch pick(d, 0, 1, 2, 3, 4, 5, 6, 7, 8) {
	case 0:
		namespace := d.namespace()
		e.LabelNamespace(namespace, d.namespaceLabels(namespace))
	case 1:
		e.PutCalicoTier(d.calicoTier(pick(d, "early", "late")))
	case 2:
		e.DeleteCalicoTier(pick(d, "early", "late"))
	case 3:
		e.PutCalicoPolicy(d.calicoPolicy(pick(d, "p0", "p1", "p9")))
	case 4:
		e.DeleteCalicoPolicy(cluster.Name{Namespace: pick(d, "", "red", "blue"), Name: "p0"})
	case 5:
		e.PutClusterNetworkPolicy(d.clusterPolicy(pick(d, "p0", "p1", "p9")))
	case 6:
		e.DeleteClusterNetworkPolicy("p0")
	case 7:
		e.PutPolicyNode(d.node(0))
	case 8:
		e.PutPolicyPod(d.pod(6))
	}
}

// explain writes down what there is.
func (w *oracle) explain(t *rapid.T) {
	s := w.store.Snapshot()
	write := func(what any) {
		text, err := json.Marshal(what)
		t.Logf("%T %s %v", what, text, err)
	}
	for pod := range s.PolicyPods() {
		write(pod)
	}
	for p := range s.NetworkPolicies() {
		write(p)
	}
	for p := range s.ClusterNetworkPolicies() {
		write(p)
	}
	for p := range s.CalicoPolicies() {
		write(p)
	}
	for p := range s.CalicoTiers() {
		write(p)
	}
	for p := range s.CalicoNetworkSets() {
		write(p)
	}
	for _, name := range []string{"red", "blue", "green"} {
		write(s.NamespaceLabels(name))
	}
}
