package policy

import (
	"fmt"
	"net/netip"
	"runtime"
	"testing"

	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/nearpath/nearpath/internal/cluster"
)

// Size of the cluster of the benchmarks.
const (
	benchPods       = 10_000
	benchNamespaces = 200
	benchLocals     = 100
	benchPolicies   = 1_000
)

func benchPod(n, version int) *cluster.PolicyPod {
	name := cluster.Name{Namespace: fmt.Sprintf("ns%d", n%benchNamespaces), Name: fmt.Sprintf("pod%d", n)}
	app := n / benchNamespaces % 10 // 1,000 or so replicas of each
	return &cluster.PolicyPod{
		Name: name, Created: started, Phase: cluster.PodRunning,
		Addrs:  []netip.Addr{netip.AddrFrom4([4]byte{10, 1, byte(n >> 8), byte(n)})},
		Labels: map[string]string{"app": fmt.Sprintf("app%d", app), "version": fmt.Sprint(version)},
		Ports:  []cluster.NamedPort{{Name: "http", Protocol: cluster.TCP, Port: 8080}},
	}
}

// benchPolicy has a pod, a namespace and a block with exceptions as peers. Policies of the first namespaces select pods of this node:
// with local of them each does.
func benchPolicy(n, port int) *cluster.NetworkPolicy {
	p := &cluster.NetworkPolicy{Meta: cluster.Meta{Name: cluster.Name{Namespace: fmt.Sprintf("ns%d", n%benchLocals), Name: fmt.Sprintf("p%d", n)}}}
	p.Spec.PodSelector = metav1.LabelSelector{}
	p.Spec.PolicyTypes = []networkingv1.PolicyType{"Ingress", "Egress"}
	peers := []networkingv1.NetworkPolicyPeer{
		{PodSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": fmt.Sprintf("app%d", n%10)}}},
		{
			NamespaceSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"team": fmt.Sprint(n % 20)}},
			PodSelector:       &metav1.LabelSelector{MatchLabels: map[string]string{"app": fmt.Sprintf("app%d", n%7)}},
		},
		{IPBlock: &networkingv1.IPBlock{CIDR: fmt.Sprintf("192.%d.%d.0/24", n%200, n%250), Except: []string{fmt.Sprintf("192.%d.%d.128/25", n%200, n%250)}}},
	}
	ports := []networkingv1.NetworkPolicyPort{{Port: new(intstr.FromInt32(int32(port)))}, {Port: new(intstr.FromString("http"))}}
	p.Spec.Ingress = []networkingv1.NetworkPolicyIngressRule{{From: peers, Ports: ports}}
	p.Spec.Egress = []networkingv1.NetworkPolicyEgressRule{{To: peers, Ports: ports}}
	return p
}

// benchCluster is a cluster with that many policies, all of which select a pod of this node.
func benchCluster(tb testing.TB, policies int) (*cluster.Store, *cluster.Subscription, *Planner) {
	tb.Helper()
	store := cluster.NewStore()
	store.Update(func(e *cluster.Edit) {
		e.MarkSynced()
		e.MarkPolicySynced()
		for n := range benchNamespaces {
			e.PutNamespace(fmt.Sprintf("ns%d", n))
			e.LabelNamespace(fmt.Sprintf("ns%d", n), map[string]string{"team": fmt.Sprint(n % 20)})
		}
		for n := range benchPods {
			e.PutPolicyPod(benchPod(n, 0))
		}
		for n := range policies {
			e.PutNetworkPolicy(benchPolicy(n, 80))
		}
	})
	p := NewPlanner(Config{Room: Room{Verdicts: 1 << 20, Peers: 1 << 18, CIDRs: 1 << 18, Cells: 1 << 20, Pods: 1024}})
	for n := range benchLocals {
		pod := benchPod(n, 0)
		p.Local(LocalPod{Number: uint16(n + 1), Name: pod.Name, Addrs: pod.Addrs}, false)
	}
	sub := store.Subscribe()
	tb.Cleanup(sub.Close)
	return store, sub, p
}

func benchPlan(b *testing.B, sub *cluster.Subscription, p *Planner) (n int) {
	b.Helper()
	change, err := sub.Next(b.Context())
	if err != nil {
		b.Fatal(err)
	}
	ops, err := p.Plan(change)
	if err != nil {
		b.Fatal(err)
	}
	return len(ops)
}

func benchPrune(b *testing.B, p *Planner) (n int) {
	b.Helper()
	ops, err := p.Prune()
	if err != nil {
		b.Fatal(err)
	}
	return len(ops)
}

// BenchmarkFull is a plan from nothing.
func BenchmarkFull(b *testing.B) {
	for _, policies := range []int{10, 100, benchPolicies} {
		b.Run(fmt.Sprintf("policies=%d", policies), func(b *testing.B) {
			b.ReportAllocs()
			ops := 0
			for b.Loop() {
				b.StopTimer()
				_, sub, p := benchCluster(b, policies)
				var before, after runtime.MemStats
				runtime.GC()
				runtime.ReadMemStats(&before)
				b.StartTimer()
				ops = benchPlan(b, sub, p)
				b.StopTimer()
				runtime.GC()
				runtime.ReadMemStats(&after)
				b.ReportMetric(float64(after.HeapAlloc-before.HeapAlloc)/1e6, "MB")
				c := p.compiler
				b.ReportMetric(float64(len(c.classes)), "classes")
				b.ReportMetric(float64(len(c.have.verdicts)), "verdicts")
				b.StartTimer()
			}
			b.ReportMetric(float64(ops), "ops")
		})
	}
}

// BenchmarkChange is what one change costs, and what is taken away after it.
func BenchmarkChange(b *testing.B) {
	for name, change := range map[string]func(*cluster.Edit, int){
		"pod":       func(e *cluster.Edit, n int) { e.PutPolicyPod(benchPod(5000, n)) },
		"newpod":    func(e *cluster.Edit, n int) { e.PutPolicyPod(benchPod(benchPods+n, 0)) },
		"policy":    func(e *cluster.Edit, n int) { e.PutNetworkPolicy(benchPolicy(7, 1+n%60_000)) },
		"namespace": func(e *cluster.Edit, n int) { e.LabelNamespace("ns150", map[string]string{"team": fmt.Sprint(n % 20)}) },
	} {
		for _, policies := range []int{100, benchPolicies} {
			b.Run(fmt.Sprintf("%s/policies=%d", name, policies), func(b *testing.B) {
				store, sub, p := benchCluster(b, policies)
				benchPlan(b, sub, p)
				benchPrune(b, p)
				n, ops := 0, 0
				for b.Loop() {
					n++
					store.Update(func(e *cluster.Edit) { change(e, n) })
					ops += benchPlan(b, sub, p)
					ops += benchPrune(b, p)
				}
				b.ReportMetric(float64(ops)/float64(b.N), "ops/op")
			})
		}
	}
}
