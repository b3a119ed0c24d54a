package policy

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"

	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/nearpath/nearpath/internal/cluster"
)

// A scene is a cluster with one pod of this node, number 1, web in namespace shop, and what its maps say.
type scene struct {
	*testing.T
	store   *cluster.Store
	sub     *cluster.Subscription
	planner *Planner
	maps    *fakeMaps
}

var web = cluster.Name{Namespace: "shop", Name: "web"}

func scenePod(name cluster.Name, addr string, labels map[string]string) *cluster.PolicyPod {
	return &cluster.PolicyPod{
		Name: name, Node: "n1", Created: started, Labels: labels, Phase: cluster.PodRunning, Addrs: []netip.Addr{netip.MustParseAddr(addr)},
	}
}

func newScene(t *testing.T) *scene {
	t.Helper()
	s := &scene{T: t, store: cluster.NewStore(), maps: newFakeMaps()}
	s.store.Update(func(e *cluster.Edit) {
		e.MarkSynced()
		e.MarkPolicySynced()
		e.PutNamespace("shop")
		e.PutPolicyPod(scenePod(web, "10.0.0.1", map[string]string{"app": "web"}))
	})
	s.sub = s.store.Subscribe()
	t.Cleanup(s.sub.Close)
	s.begin()
	s.follow()
	return s
}

func (s *scene) begin() {
	s.planner = NewPlanner(Config{Secret: [16]byte{7}, Room: s.maps.room})
	s.planner.Local(LocalPod{Number: 1, Name: web, Addrs: []netip.Addr{netip.MustParseAddr("10.0.0.1")}}, false)
}

func (s *scene) follow() {
	s.Helper()
	change, err := s.sub.Next(s.Context())
	if err != nil {
		s.Fatal(err)
	}
	applyAll(s.T, s.planner, s.maps, change)
}

func (s *scene) update(f func(*cluster.Edit)) {
	s.Helper()
	s.store.Update(f)
	s.follow()
}

func (s *scene) expect(d Direction, peer string, point uint32, want bool) {
	s.Helper()
	set := s.maps.Pods[1][d]
	got := set == 0 || lookup(s.maps.list(set, s.maps.class(netip.MustParseAddr(peer))), point) > 0
	if got != want {
		s.Errorf("%s %s %#x: got %v, want %v", d, peer, point, got, want)
	}
}

// blocks is a policy for egress to networks, each with its exceptions and ports.
func blocks(name string, rules ...networkingv1.NetworkPolicyEgressRule) *cluster.NetworkPolicy {
	p := &cluster.NetworkPolicy{Meta: cluster.Meta{Name: cluster.Name{Namespace: "shop", Name: name}}}
	p.Spec.PolicyTypes, p.Spec.Egress = []networkingv1.PolicyType{"Egress"}, rules
	return p
}

func block(port int32, cidr string, except ...string) networkingv1.NetworkPolicyEgressRule {
	return networkingv1.NetworkPolicyEgressRule{
		To:    []networkingv1.NetworkPolicyPeer{{IPBlock: &networkingv1.IPBlock{CIDR: cidr, Except: except}}},
		Ports: []networkingv1.NetworkPolicyPort{{Port: new(intstr.FromInt32(port))}},
	}
}

// TestUnionOfOverlappingBlocks is the pair that agents with one list of ports for a prefix get wrong: what one rule excepts the other
// still allows.
func TestUnionOfOverlappingBlocks(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	s.update(func(e *cluster.Edit) {
		e.PutNetworkPolicy(blocks("wide", block(53, "10.0.0.0/8")))
		e.PutNetworkPolicy(blocks("narrow", block(80, "10.1.0.0/16", "10.1.2.0/24")))
	})
	for peer, want := range map[string][2]bool{
		"9.255.255.255": {}, "10.0.0.0": {true, false}, "10.0.255.255": {true, false}, "10.1.0.0": {true, true}, "10.1.1.255": {true, true},
		"10.1.2.0": {true, false}, "10.1.2.255": {true, false}, "10.1.3.0": {true, true}, "10.1.255.255": {true, true},
		"10.2.0.0": {true, false}, "10.255.255.255": {true, false}, "11.0.0.0": {}, "::ffff": {}, "fd00::1": {},
	} {
		s.expect(Egress, peer, Point(cluster.TCP, 53), want[0])
		s.expect(Egress, peer, Point(cluster.TCP, 80), want[1])
		s.expect(Egress, peer, Point(cluster.UDP, 53), false)
	}
	s.expect(Ingress, "8.8.8.8", Point(cluster.TCP, 1), true)
}

// TestHoldsPoliciesOfALeavingNamespace: a namespace's policies may be deleted before its pods have ended.
func TestHoldsPoliciesOfALeavingNamespace(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	s.update(func(e *cluster.Edit) { e.PutNetworkPolicy(blocks("p", block(53, "10.0.0.0/8"))) })
	s.update(func(e *cluster.Edit) {
		e.LeaveNamespace("shop", true)
		e.DeleteNetworkPolicy(cluster.Name{Namespace: "shop", Name: "p"})
	})
	s.expect(Egress, "10.0.0.9", Point(cluster.TCP, 53), true)
	s.expect(Egress, "10.0.0.9", Point(cluster.TCP, 54), false)
	s.update(func(e *cluster.Edit) {
		e.DeletePolicyPod(web)
		e.DeleteNamespace("shop")
	})
	s.expect(Egress, "10.0.0.9", Point(cluster.TCP, 53), true)
	s.expect(Egress, "10.0.0.9", Point(cluster.TCP, 54), false)
	s.update(func(e *cluster.Edit) { e.PutNamespace("shop") }) // another one of that name
	s.expect(Egress, "10.0.0.9", Point(cluster.TCP, 54), true)

	s.update(func(e *cluster.Edit) { e.PutNetworkPolicy(blocks("p", block(53, "10.0.0.0/8"))) })
	s.update(func(e *cluster.Edit) { e.DeleteNetworkPolicy(cluster.Name{Namespace: "shop", Name: "p"}) })
	s.expect(Egress, "10.0.0.9", Point(cluster.TCP, 54), true) // a policy that is deleted and no more restores
}

// TestReleasesPoliciesWithoutNamespaces: where manifests have no Namespaces, one is there as long as anything is in it, and it may
// be gone with its last policy.
func TestReleasesPoliciesWithoutNamespaces(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	s.update(func(e *cluster.Edit) { e.PutNetworkPolicy(blocks("p", block(53, "10.0.0.0/8"))) })
	s.expect(Egress, "10.0.0.9", Point(cluster.TCP, 54), false)
	s.update(func(e *cluster.Edit) {
		e.DeleteNetworkPolicy(cluster.Name{Namespace: "shop", Name: "p"})
		e.DeleteNamespace("shop")
	})
	s.expect(Egress, "10.0.0.9", Point(cluster.TCP, 54), true)
}

// TestUnknownPodIsIsolated: of a pod that the API does not know yet nobody can say which policies are about it.
func TestUnknownPodIsIsolated(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	if s.planner.MaySelect("shop") {
		t.Error("a policy may be about a pod, where there is none")
	}
	s.update(func(e *cluster.Edit) {
		e.DeletePolicyPod(web)
		p := blocks("p", block(53, "10.0.0.0/8"))
		p.Spec.PodSelector = metav1.LabelSelector{MatchLabels: map[string]string{"app": "web"}}
		e.PutNetworkPolicy(p)
	})
	if !s.planner.MaySelect("shop") || s.planner.MaySelect("other") {
		t.Error("the policy may be about pods of shop, and not about others")
	}
	s.begin() // another agent, which has never seen the pod's object
	ops, err := s.planner.Plan(cluster.Change{Snapshot: s.store.Snapshot(), Full: true})
	if err != nil {
		t.Fatal(err)
	}
	for _, op := range ops {
		if err := op.Apply(s.maps); err != nil {
			t.Fatal(err)
		}
	}
	s.expect(Egress, "10.0.0.9", Point(cluster.TCP, 53), false)
	s.expect(Ingress, "10.0.0.9", Point(cluster.TCP, 53), true)
	s.update(func(e *cluster.Edit) { e.PutPolicyPod(scenePod(web, "10.0.0.1", map[string]string{"app": "web"})) })
	s.expect(Egress, "10.0.0.9", Point(cluster.TCP, 53), true)
	if refs := s.planner.Isolating(1, Egress); len(refs) != 1 || refs[0].String() != "NetworkPolicy shop/p" {
		t.Errorf("egress is isolated by %v", refs)
	}
}

// TestRoom: what does not fit is left out whole, and what was in force stays.
func TestRoom(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	s.maps.room.CIDRs = 64
	s.begin()
	s.update(func(e *cluster.Edit) { e.PutNetworkPolicy(blocks("small", block(53, "10.0.0.0/8"))) })
	many := func(port int32) *cluster.NetworkPolicy {
		var rules []networkingv1.NetworkPolicyEgressRule
		for n := range 100 {
			rules = append(rules, block(port, fmt.Sprintf("192.168.%d.0/24", n)))
		}
		return blocks("large", rules...)
	}
	s.update(func(e *cluster.Edit) {
		e.PutNetworkPolicy(many(80))
		e.PutNetworkPolicy(blocks("other", block(443, "10.9.0.0/16")))
	})
	large := Ref{kindNetworkPolicy, cluster.Name{Namespace: "shop", Name: "large"}}
	if text := s.planner.Refused()[large]; !strings.Contains(text, "policy_cidrs") || !strings.Contains(text, "isolates") {
		t.Errorf("refused: %q", text)
	}
	s.expect(Egress, "192.168.3.1", Point(cluster.TCP, 80), false)
	s.expect(Egress, "10.9.0.1", Point(cluster.TCP, 53), true)
	s.expect(Egress, "10.9.0.1", Point(cluster.TCP, 443), true)

	s.update(func(e *cluster.Edit) { e.PutNetworkPolicy(blocks("large", block(81, "192.168.0.0/16"))) })
	if len(s.planner.Refused()) > 0 {
		t.Errorf("refused: %v", s.planner.Refused())
	}
	s.update(func(e *cluster.Edit) { e.PutNetworkPolicy(many(82)) })
	if text := s.planner.Refused()[large]; !strings.Contains(text, "last version") {
		t.Errorf("refused: %q", text)
	}
	s.expect(Egress, "192.168.3.1", Point(cluster.TCP, 81), true)
	s.expect(Egress, "192.168.3.1", Point(cluster.TCP, 82), false)
}

// TestRoomAgain: what did not fit is enforced when it is tried again after something else has gone, and not before.
func TestRoomAgain(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	s.maps.room.CIDRs = 64
	s.begin()
	many := func(name string, port int32) *cluster.NetworkPolicy {
		var rules []networkingv1.NetworkPolicyEgressRule
		for n := range 40 {
			rules = append(rules, block(port, fmt.Sprintf("10.%d.%d.0/24", port, n)))
		}
		return blocks(name, rules...)
	}
	s.update(func(e *cluster.Edit) { e.PutNetworkPolicy(many("first", 80)) })
	s.update(func(e *cluster.Edit) { e.PutNetworkPolicy(many("second", 81)) })
	second := Ref{kindNetworkPolicy, cluster.Name{Namespace: "shop", Name: "second"}}
	for range 2 {
		if text := s.planner.Refused()[second]; !strings.Contains(text, "it isolates, and its rules are not in force") {
			t.Errorf("refused: %q", text)
		}
		s.expect(Egress, "10.80.3.1", Point(cluster.TCP, 80), true)
		s.expect(Egress, "10.81.3.1", Point(cluster.TCP, 81), false)
		s.planner.Retry()
		applyAll(t, s.planner, s.maps, cluster.Change{})
	}
	s.update(func(e *cluster.Edit) { e.DeleteNetworkPolicy(cluster.Name{Namespace: "shop", Name: "first"}) })
	s.expect(Egress, "10.81.3.1", Point(cluster.TCP, 81), false)
	s.planner.Retry()
	applyAll(t, s.planner, s.maps, cluster.Change{})
	if len(s.planner.Refused()) > 0 {
		t.Errorf("refused: %v", s.planner.Refused())
	}
	s.expect(Egress, "10.81.3.1", Point(cluster.TCP, 81), true)
}

// TestRoomOfLists: the cells of lists that nobody has any more are free when all is taken away.
func TestRoomOfLists(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	s.maps.room.Cells = 60
	s.begin()
	ports := func(name string, first int32) *cluster.NetworkPolicy {
		rule := block(first, "10.0.0.0/8")
		for n := range int32(39) {
			rule.Ports = append(rule.Ports, networkingv1.NetworkPolicyPort{Port: new(intstr.FromInt32(first + 2*n + 2))})
		}
		return blocks(name, rule)
	}
	s.update(func(e *cluster.Edit) { e.PutNetworkPolicy(ports("first", 100)) })
	s.update(func(e *cluster.Edit) { e.DeleteNetworkPolicy(cluster.Name{Namespace: "shop", Name: "first"}) })
	s.update(func(e *cluster.Edit) { e.PutNetworkPolicy(ports("second", 1000)) })
	if len(s.planner.Refused()) > 0 {
		t.Errorf("refused: %v", s.planner.Refused())
	}
	s.expect(Egress, "10.0.0.1", Point(cluster.TCP, 1002), true)
}

// TestNoRoomForPods: what is too much without any policy that has changed is not planned at all.
func TestNoRoomForPods(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	s.maps.room.Peers = 2
	s.begin()
	s.update(func(e *cluster.Edit) {
		p := blocks("p", networkingv1.NetworkPolicyEgressRule{To: []networkingv1.NetworkPolicyPeer{{PodSelector: &metav1.LabelSelector{}}}})
		e.PutNetworkPolicy(p)
	})
	s.expect(Egress, "10.0.0.1", Point(cluster.TCP, 80), true)
	s.store.Update(func(e *cluster.Edit) {
		for n := range 5 {
			e.PutPolicyPod(scenePod(cluster.Name{Namespace: "shop", Name: fmt.Sprint(n)}, fmt.Sprintf("10.0.1.%d", n), nil))
		}
	})
	change, err := s.sub.Next(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var tooLarge *TooLargeError
	if ops, err := s.planner.Plan(change); !errors.As(err, &tooLarge) || tooLarge.Map != "policy_peers" || len(ops) > 0 {
		t.Fatalf("got %v, %v", ops, err)
	}
	s.expect(Egress, "10.0.0.1", Point(cluster.TCP, 80), true)
	s.update(func(e *cluster.Edit) {
		for n := range 5 {
			e.DeletePolicyPod(cluster.Name{Namespace: "shop", Name: fmt.Sprint(n)})
		}
	})
	s.expect(Egress, "10.0.0.1", Point(cluster.TCP, 80), true)
	s.expect(Egress, "10.0.1.1", Point(cluster.TCP, 80), false)
}

// TestLocalAddresses: pods that swap their numbers keep their addresses, whatever a status that is behind says of these.
func TestLocalAddresses(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	second := cluster.Name{Namespace: "shop", Name: "second"}
	s.update(func(e *cluster.Edit) {
		e.PutPolicyPod(scenePod(second, "10.0.0.77", map[string]string{"app": "db"})) // it has 10.0.0.2 now
		p := blocks("p", networkingv1.NetworkPolicyEgressRule{To: []networkingv1.NetworkPolicyPeer{
			{PodSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "db"}}},
		}})
		e.PutNetworkPolicy(p)
	})
	a := LocalPod{Number: 1, Name: web, Addrs: []netip.Addr{netip.MustParseAddr("10.0.0.1")}}
	b := LocalPod{Number: 2, Name: second, Addrs: []netip.Addr{netip.MustParseAddr("10.0.0.2")}}
	s.planner.Local(b, false)
	applyAll(t, s.planner, s.maps, cluster.Change{})
	s.expect(Egress, "10.0.0.2", Point(cluster.TCP, 80), true)
	for _, local := range []LocalPod{a, b} {
		s.planner.Local(local, true)
	}
	a.Number, b.Number = 2, 1
	s.planner.Local(b, false)
	s.planner.Local(a, false)
	applyAll(t, s.planner, s.maps, cluster.Change{})
	s.expect(Egress, "10.0.0.2", Point(cluster.TCP, 80), true)
}
