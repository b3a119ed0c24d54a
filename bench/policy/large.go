package policy

import (
	"fmt"
	"net/netip"
	"strconv"

	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/nearpath/nearpath/internal/cluster"
)

// A large cluster has pods in namespaces of twenty teams. All of its policies select pods of this node, of which there is one in each
// of the first namespaces: the worst that a node may meet.
const (
	largePods       = 10_000
	largeNamespaces = 200
	largeLocals     = 100
	largePolicies   = 1_000
	teams           = 20
	apps            = 10
)

var largeAddrs = netip.MustParsePrefix("10.200.0.0/14")

func largeNamespace(n int) string { return fmt.Sprintf("namespace-%d", n%largeNamespaces) }

func largePod(n, more int) *cluster.PolicyPod {
	return &cluster.PolicyPod{
		Name: cluster.Name{Namespace: largeNamespace(n), Name: fmt.Sprintf("pod-%d", n)}, Created: epoch, Phase: cluster.PodRunning,
		Addrs:  []netip.Addr{nth(largeAddrs, n)},
		Labels: map[string]string{"app": strconv.Itoa((n/largeNamespaces + more) % apps)},
		Ports:  []cluster.NamedPort{{Name: "http", Protocol: cluster.TCP, Port: 8080}},
	}
}

// largePolicy has pods, pods of other namespaces and a block with exceptions for peers, and ports of which one is a name.
func largePolicy(n int, port uint16) networkingv1.NetworkPolicySpec {
	peers := []networkingv1.NetworkPolicyPeer{
		{PodSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": strconv.Itoa(n % apps)}}},
		{
			NamespaceSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"team": strconv.Itoa(n % teams)}},
			PodSelector:       &metav1.LabelSelector{MatchLabels: map[string]string{"app": strconv.Itoa(n % 7)}},
		},
		{IPBlock: &networkingv1.IPBlock{CIDR: fmt.Sprintf("192.%d.%d.0/24", n%200, n%250), Except: []string{fmt.Sprintf("192.%d.%d.128/25", n%200, n%250)}}},
	}
	number, name := intstr.FromInt32(int32(port)), intstr.FromString("http")
	ports := []networkingv1.NetworkPolicyPort{{Port: &number}, {Port: &name}}
	return networkingv1.NetworkPolicySpec{
		PolicyTypes: []networkingv1.PolicyType{networkingv1.PolicyTypeIngress, networkingv1.PolicyTypeEgress},
		Ingress:     []networkingv1.NetworkPolicyIngressRule{{From: peers, Ports: ports}},
		Egress:      []networkingv1.NetworkPolicyEgressRule{{To: peers, Ports: ports}},
	}
}

func policyName(n int) cluster.Name {
	return cluster.Name{Namespace: largeNamespace(n % largeLocals), Name: fmt.Sprintf("policy-%d", n)}
}

func putPolicy(e *cluster.Edit, n int, port uint16) {
	e.PutNetworkPolicy(&cluster.NetworkPolicy{Meta: cluster.Meta{Name: policyName(n)}, Spec: largePolicy(n, port)})
}

func labelNamespace(e *cluster.Edit, n, team int) {
	e.LabelNamespace(largeNamespace(n), map[string]string{"team": strconv.Itoa(team % teams)})
}

func putLarge(e *cluster.Edit) {
	for n := range largeNamespaces {
		labelNamespace(e, n, n)
	}
	for n := range largePods {
		e.PutPolicyPod(largePod(n, 0))
	}
	for n := range largePolicies {
		putPolicy(e, n, 80)
	}
}

// changeKinds are the changes of a large cluster that are measured.
var changeKinds = []string{"label of a pod", "label of a pod here", "new pod", "policy", "label of a namespace"}

// edits make them, the n-th time; the first one is 1.
var edits = map[string]func(e *cluster.Edit, n int){
	"label of a pod":       func(e *cluster.Edit, n int) { e.PutPolicyPod(largePod(5000, n%2)) },
	"label of a pod here":  func(e *cluster.Edit, n int) { e.PutPolicyPod(largePod(50, n%2)) },
	"new pod":              func(e *cluster.Edit, n int) { e.PutPolicyPod(largePod(largePods+n, 0)) },
	"policy":               func(e *cluster.Edit, n int) { putPolicy(e, 7, uint16(1000+n%10_000)) },
	"label of a namespace": func(e *cluster.Edit, n int) { labelNamespace(e, 150, n) },
}
