package policy_test

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/nearpath/nearpath/internal/cluster"
	"github.com/nearpath/nearpath/internal/policy"
	"github.com/nearpath/nearpath/internal/policy/interpret"
)

// The five pods of ruleWorld by name; pod i has podAddrs(i).
var rulePods = map[string]int{"x": 0, "y": 1, "blue": 2, "bare": 3, "green": 4}

// ruleWorld is a cluster of five pods: x and y in red, blue and bare in blue, green in green.
func ruleWorld() cluster.Objects {
	o := cluster.Objects{Namespaces: []string{"red", "blue", "green"}, NamespaceLabels: map[string]map[string]string{}}
	for _, name := range o.Namespaces {
		o.NamespaceLabels[name] = map[string]string{"color": name}
	}
	web := func(port uint16) []cluster.NamedPort {
		return []cluster.NamedPort{{Name: "web", Protocol: cluster.TCP, Port: port}}
	}
	for i, pod := range []cluster.PolicyPod{
		{Name: cluster.Name{Namespace: "red", Name: "x"}, Labels: map[string]string{"a": "x"}, ServiceAccount: "robot", Ports: web(80)},
		{Name: cluster.Name{Namespace: "red", Name: "y"}, Labels: map[string]string{"a": "y"}},
		{Name: cluster.Name{Namespace: "blue", Name: "blue"}, Labels: map[string]string{"a": "x"}, Ports: web(8080)},
		{Name: cluster.Name{Namespace: "blue", Name: "bare"}},
		{Name: cluster.Name{Namespace: "green", Name: "green"}},
	} {
		pod.Addrs, pod.Phase, pod.Local, pod.Node = podAddrs(i), cluster.PodRunning, true, "node0"
		o.PolicyPods = append(o.PolicyPods, &pod)
	}
	o.PolicyNodes = []*cluster.PolicyNode{
		{Name: "node0", Addrs: []netip.Addr{netip.MustParseAddr("192.0.2.1")}, Labels: map[string]string{"rack": "1"}},
		{Name: "node1", Addrs: []netip.Addr{netip.MustParseAddr("192.0.2.2")}},
	}
	return o
}

func clusterPolicy(name, tier string, priority int32, ingress, egress []cluster.ClusterPolicyRule) func(*cluster.Objects) {
	return func(o *cluster.Objects) {
		p := &cluster.ClusterNetworkPolicy{Meta: cluster.Meta{Name: cluster.Name{Name: name}}}
		p.Spec = cluster.ClusterNetworkPolicySpec{Tier: tier, Priority: priority, Ingress: ingress, Egress: egress}
		p.Spec.Subject.Namespaces = &metav1.LabelSelector{MatchLabels: map[string]string{"color": "red"}}
		o.ClusterNetworkPolicies = append(o.ClusterNetworkPolicies, p)
	}
}

func from(action string, protocols ...cluster.ClusterPolicyProtocol) []cluster.ClusterPolicyRule {
	peer := cluster.ClusterPolicyPeer{ClusterPolicyPods: cluster.ClusterPolicyPods{Namespaces: &metav1.LabelSelector{}}}
	return []cluster.ClusterPolicyRule{{Action: action, From: []cluster.ClusterPolicyPeer{peer}, Protocols: protocols}}
}

func to(action string, peer cluster.ClusterPolicyPeer, protocols ...cluster.ClusterPolicyProtocol) []cluster.ClusterPolicyRule {
	return []cluster.ClusterPolicyRule{{Action: action, To: []cluster.ClusterPolicyPeer{peer}, Protocols: protocols}}
}

// everywhere is denied after the rules.
func everywhere(rules []cluster.ClusterPolicyRule) []cluster.ClusterPolicyRule {
	return append(rules, to(cluster.ClusterDeny, cluster.ClusterPolicyPeer{Networks: []string{"0.0.0.0/0", "::/0"}})...)
}

func calico(name cluster.Name, spec cluster.CalicoPolicySpec) func(*cluster.Objects) {
	return func(o *cluster.Objects) {
		if spec.Tier == "" {
			spec.Tier = cluster.CalicoDefaultTier
		}
		if spec.Types == nil {
			spec.Types = []string{cluster.CalicoIngress}
		}
		o.CalicoPolicies = append(o.CalicoPolicies, &cluster.CalicoPolicy{Meta: cluster.Meta{Name: name}, SortName: name.Name, Spec: spec})
	}
}

func global(name string, spec cluster.CalicoPolicySpec) func(*cluster.Objects) {
	return calico(cluster.Name{Name: name}, spec)
}

func redTo(rules ...cluster.CalicoRule) cluster.CalicoPolicySpec {
	return cluster.CalicoPolicySpec{NamespaceSelector: `color == "red"`, Types: []string{cluster.CalicoEgress}, Egress: rules}
}

func redFrom(rules ...cluster.CalicoRule) cluster.CalicoPolicySpec {
	return cluster.CalicoPolicySpec{NamespaceSelector: `color == "red"`, Ingress: rules}
}

func ruleTier(name string, order float64, end string) func(*cluster.Objects) {
	return func(o *cluster.Objects) {
		o.CalicoTiers = append(o.CalicoTiers, &cluster.CalicoTier{Meta: cluster.Meta{Name: cluster.Name{Name: name}}, Spec: cluster.CalicoTierSpec{Order: &order, DefaultAction: end}})
	}
}

func ruleSet(namespace, name, net string) func(*cluster.Objects) {
	return func(o *cluster.Objects) {
		o.CalicoNetworkSets = append(o.CalicoNetworkSets, &cluster.CalicoNetworkSet{
			Meta: cluster.Meta{Name: cluster.Name{Namespace: namespace, Name: name}, Labels: map[string]string{"set": "yes"}}, Nets: []netip.Prefix{netip.MustParsePrefix(net)},
		})
	}
}

func tcp(number int32) cluster.ClusterPolicyProtocol {
	return cluster.ClusterPolicyProtocol{TCP: &cluster.ClusterPolicyPorts{DestinationPort: &cluster.ClusterPolicyPort{Number: number}}}
}

const (
	allow, deny, pass = cluster.CalicoAllow, cluster.CalicoDeny, cluster.CalicoPass
	yes, no, logs     = "yes", "no", "logged"
)

// TestRules has a row for each rule of the two APIs. Questions are "pod > peer protocol/port" or "pod < peer protocol/port".
func TestRules(t *testing.T) {
	t.Parallel()
	protocol := func(number cluster.CalicoProtocol) *cluster.CalicoProtocol { return &number }
	denied := &cluster.NetworkPolicy{Meta: cluster.Meta{Name: cluster.Name{Namespace: "red", Name: "all"}}}
	denied.Spec.PolicyTypes = []networkingv1.PolicyType{networkingv1.PolicyTypeIngress}
	isolated := func(o *cluster.Objects) { o.NetworkPolicies = append(o.NetworkPolicies, denied) }
	for name, test := range map[string]struct {
		objects []func(*cluster.Objects)
		want    map[string]string
	}{
		"Accept of Admin goes before NetworkPolicy": {
			[]func(*cluster.Objects){isolated, clusterPolicy("p", "Admin", 1, from(cluster.ClusterAccept, tcp(80)), nil)},
			map[string]string{"x < blue 6/80": yes, "x < blue 6/81": no, "x < 203.0.113.1 6/80": no, "x > blue 6/1": yes, "blue < x 6/1": yes},
		},
		"Pass of Admin leaves the tier, and Baseline is not asked about a direction that is isolated": {
			[]func(*cluster.Objects){
				isolated, clusterPolicy("p", "Admin", 1, from(cluster.ClusterPass), nil), clusterPolicy("q", "Admin", 2, from(cluster.ClusterAccept), nil),
				clusterPolicy("r", "Baseline", 1, from(cluster.ClusterAccept), to(cluster.ClusterDeny, cluster.ClusterPolicyPeer{Networks: []string{"0.0.0.0/0"}})),
			},
			map[string]string{"x < blue 6/80": no, "x > blue 6/80": no, "x > fd00:1::9 6/80": yes},
		},
		"lower priorities go first, and names decide between equal ones": {
			[]func(*cluster.Objects){
				clusterPolicy("b", "Admin", 5, from(cluster.ClusterAccept, tcp(80)), nil), clusterPolicy("a", "Admin", 5, from(cluster.ClusterDeny, tcp(80), tcp(81)), nil),
				clusterPolicy("c", "Admin", 4, from(cluster.ClusterAccept, tcp(81)), nil),
			},
			map[string]string{"x < blue 6/80": no, "x < blue 6/81": yes, "x < blue 6/82": yes},
		},
		"a peer that is not known": {
			[]func(*cluster.Objects){clusterPolicy("p", "Admin", 5, []cluster.ClusterPolicyRule{
				{Action: cluster.ClusterAccept, From: []cluster.ClusterPolicyPeer{{ClusterPolicyPods: cluster.ClusterPolicyPods{Namespaces: &metav1.LabelSelector{}}}, {}}},
				{Action: cluster.ClusterPass, From: []cluster.ClusterPolicyPeer{{}}, Protocols: []cluster.ClusterPolicyProtocol{tcp(80)}},
			}, nil)},
			map[string]string{"x < blue 6/80": no, "x < 203.0.113.1 17/9": no, "x > blue 6/80": yes},
		},
		"networks hold for pods, and without protocols for ICMP": {
			[]func(*cluster.Objects){clusterPolicy("p", "Admin", 5, nil, to(cluster.ClusterDeny, cluster.ClusterPolicyPeer{Networks: []string{"10.1.0.0/30"}}))},
			map[string]string{"x > blue 1/2048": no, "x > bare 6/80": yes, "x > 10.1.0.0 17/1": no},
		},
		"nodes, and names": {
			[]func(*cluster.Objects){
				clusterPolicy("p", "Admin", 5, nil, to(cluster.ClusterAccept, cluster.ClusterPolicyPeer{Nodes: &metav1.LabelSelector{MatchLabels: map[string]string{"rack": "1"}}})),
				clusterPolicy("q", "Admin", 6, nil, everywhere(to(cluster.ClusterAccept, cluster.ClusterPolicyPeer{DomainNames: []string{"*.example.com", "example.org"}}, tcp(443)))),
			},
			map[string]string{"x > 192.0.2.1 6/80": yes, "x > 192.0.2.2 6/80": no, "x > 192.0.2.200 6/443": yes, "x > 2001:db8::1 6/443": yes, "x > 192.0.2.200 6/80": no, "x > 192.0.2.201 6/443": no},
		},
		"named ports are the destination's": {
			[]func(*cluster.Objects){clusterPolicy("p", "Admin", 5, from(cluster.ClusterDeny, cluster.ClusterPolicyProtocol{DestinationNamedPort: "web"}),
				to(cluster.ClusterDeny, cluster.ClusterPolicyPeer{ClusterPolicyPods: cluster.ClusterPolicyPods{Namespaces: &metav1.LabelSelector{}}}, cluster.ClusterPolicyProtocol{DestinationNamedPort: "web"}))},
			map[string]string{"x < blue 6/80": no, "x < blue 6/8080": yes, "x < blue 17/80": yes, "x > blue 6/8080": no, "x > blue 6/80": yes, "y < blue 6/80": yes},
		},
		"order, none last; NetworkPolicy is of order 1000 in the default tier": {
			[]func(*cluster.Objects){
				isolated,
				global("late", func() cluster.CalicoPolicySpec {
					s := redFrom(cluster.CalicoRule{Action: allow, Protocol: protocol(6)})
					return s
				}()),
				global("early", func() cluster.CalicoPolicySpec {
					s := redFrom(cluster.CalicoRule{Action: deny, Protocol: protocol(6), Destination: cluster.CalicoEntity{Ports: []cluster.CalicoPort{{First: 80, Last: 90}}, NotPorts: []cluster.CalicoPort{{First: 85, Last: 85}}}})
					s.Order = new(float64(10))
					return s
				}()),
			},
			map[string]string{"x < blue 6/80": no, "x < blue 6/85": yes, "x < blue 17/85": no, "x < blue 6/91": yes, "x > blue 17/1": yes},
		},
		"the end of a tier denies, or passes; one that nothing defines is last": {
			[]func(*cluster.Objects){
				ruleTier("open", 10, pass), ruleTier("shut", 20, deny),
				global("a", func() cluster.CalicoPolicySpec {
					s := redFrom(cluster.CalicoRule{Action: deny, Protocol: protocol(17)})
					s.Tier = "open"
					return s
				}()),
				global("b", func() cluster.CalicoPolicySpec {
					s := redFrom(cluster.CalicoRule{Action: pass, Protocol: protocol(6)}, cluster.CalicoRule{Action: allow, Protocol: protocol(132)})
					s.Tier = "shut"
					return s
				}()),
				global("c", func() cluster.CalicoPolicySpec {
					s := redFrom(cluster.CalicoRule{Action: allow, Source: cluster.CalicoEntity{Nets: []string{"10.1.0.3"}}})
					s.Tier = "lost"
					return s
				}()),
			},
			map[string]string{"x < blue 6/1": yes, "x < bare 6/1": no, "x < bare 132/1": yes, "x < blue 17/1": no, "x < blue 1/2048": no},
		},
		"Log goes on, and marks what is allowed": {
			[]func(*cluster.Objects){global("p", redFrom(cluster.CalicoRule{Action: cluster.CalicoLog, Protocol: protocol(6)}, cluster.CalicoRule{Action: allow}))},
			map[string]string{"x < blue 6/1": logs, "x < blue 17/1": yes},
		},
		"notSelector leaves everybody else in, a negated selector other pods only": {
			[]func(*cluster.Objects){
				global("p", redFrom(cluster.CalicoRule{Action: allow, Protocol: protocol(6), Source: cluster.CalicoEntity{NotSelector: `a == "x"`}},
					cluster.CalicoRule{Action: allow, Protocol: protocol(17), Source: cluster.CalicoEntity{Selector: `!a == "x"`}})),
			},
			map[string]string{"y < blue 6/1": no, "y < bare 6/1": yes, "y < 203.0.113.1 6/1": yes, "y < blue 17/1": no, "y < bare 17/1": yes, "y < 203.0.113.1 17/1": no},
		},
		"selectors of a policy with a namespace are about it, unless they say another": {
			[]func(*cluster.Objects){ruleSet("blue", "blue", "203.0.113.0/24"), ruleSet("red", "red", "198.51.100.0/24"), calico(cluster.Name{Namespace: "red", Name: "p"}, cluster.CalicoPolicySpec{Selector: "all()", Ingress: []cluster.CalicoRule{
				{Action: allow, Protocol: protocol(47), Source: cluster.CalicoEntity{Selector: "has(set)"}},
				{Action: allow, Protocol: protocol(6), Source: cluster.CalicoEntity{Selector: `a == "x"`}},
				{Action: allow, Protocol: protocol(17), Source: cluster.CalicoEntity{Selector: `a == "x"`, NamespaceSelector: "all()"}},
				{Action: allow, Protocol: protocol(132), Source: cluster.CalicoEntity{NotSelector: `a == "x"`}},
			}})},
			map[string]string{"y < x 6/1": yes, "y < blue 6/1": no, "y < blue 17/1": yes, "x < y 132/1": yes, "x < bare 132/1": no, "bare < blue 6/1": yes, "x < 203.0.113.1 47/0": no, "x < 198.51.100.1 47/0": yes},
		},
		"selectors find network sets; global() finds those of no namespace, and no pod": {
			[]func(*cluster.Objects){
				ruleSet("", "world", "203.0.113.0/24"), ruleSet("blue", "blue", "198.51.100.0/24"),
				global("p", redTo(cluster.CalicoRule{Action: allow, Protocol: protocol(6), Destination: cluster.CalicoEntity{Selector: "has(set) || has(a)"}},
					cluster.CalicoRule{Action: allow, Protocol: protocol(17), Destination: cluster.CalicoEntity{NamespaceSelector: "global()", Selector: "has(set) || has(a)"}},
					cluster.CalicoRule{Action: allow, Protocol: protocol(132), Destination: cluster.CalicoEntity{NamespaceSelector: `color == "blue"`, NotNets: []string{"198.51.100.128/25"}}})),
			},
			map[string]string{
				"x > 203.0.113.1 6/1": yes, "x > 198.51.100.1 6/1": yes, "x > blue 6/1": yes, "x > bare 6/1": no, "x > 192.0.2.2 6/1": no,
				"x > 203.0.113.1 17/1": yes, "x > 198.51.100.1 17/1": no, "x > blue 17/1": no,
				"x > 203.0.113.1 132/1": no, "x > 198.51.100.1 132/1": yes, "x > 198.51.100.129 132/1": no, "x > bare 132/1": yes,
			},
		},
		"the end that the policy selects, and service accounts": {
			[]func(*cluster.Objects){global("p", redFrom(
				cluster.CalicoRule{Action: allow, Protocol: protocol(6), Destination: cluster.CalicoEntity{Selector: "has(a)", NotSelector: `a == "x"`}},
				cluster.CalicoRule{Action: allow, Protocol: protocol(17), Source: cluster.CalicoEntity{ServiceAccounts: &cluster.CalicoServiceAccounts{Names: []string{"robot"}}}},
			))},
			map[string]string{"x < blue 6/1": no, "y < blue 6/1": yes, "y < x 17/1": yes, "y < blue 17/1": no},
		},
		"nets and notNets, IP versions, messages, protocols by what they are not": {
			[]func(*cluster.Objects){global("p", redTo(
				cluster.CalicoRule{Action: allow, Protocol: protocol(6), Destination: cluster.CalicoEntity{Nets: []string{"10.1.0.0/29"}, NotNets: []string{"10.1.0.4/30"}}},
				cluster.CalicoRule{Action: allow, Protocol: protocol(17), IPVersion: new(6)},
				cluster.CalicoRule{Action: allow, Protocol: protocol(1), ICMP: &cluster.CalicoICMP{Type: new(8)}, NotICMP: &cluster.CalicoICMP{Type: new(8), Code: new(7)}},
				cluster.CalicoRule{Action: deny, NotProtocol: protocol(47)}, cluster.CalicoRule{Action: allow},
			))},
			map[string]string{
				"x > blue 6/1": yes, "x > bare 6/1": no, "x > 10.1.0.8 6/1": no, "x > blue 17/1": no, "x > fd00:1::3 17/1": yes,
				"x > blue 1/2048": yes, "x > blue 1/2055": no, "x > blue 1/0": no, "x > blue 47/0": yes, "x > blue 50/0": no,
			},
		},
		"a named port without a protocol": {
			[]func(*cluster.Objects){global("p", redTo(cluster.CalicoRule{Action: allow, Destination: cluster.CalicoEntity{Ports: []cluster.CalicoPort{{Name: "web"}}}}))},
			map[string]string{"x > blue 6/8080": yes, "x > blue 6/80": no, "x > 203.0.113.1 6/8080": no},
		},
	} {
		o := ruleWorld()
		for _, add := range test.objects {
			add(&o)
		}
		w := newOracle(o, new(int))
		defer w.follow.Close()
		w.plan(t)
		for question, want := range test.want {
			if got := w.answer(t, question); got != want {
				t.Errorf("%s: %s: %s, want %s", name, question, got, want)
			}
		}
	}
}

// answer answers a question, by what is compiled; the interpreter must say the same.
func (w *oracle) answer(t *testing.T, question string) string {
	t.Helper()
	var pod, arrow, peer string
	var protocol, port uint16
	if _, err := fmt.Sscanf(strings.Replace(question, "/", " ", 1), "%s %s %s %d %d", &pod, &arrow, &peer, &protocol, &port); err != nil {
		t.Fatalf("%s: %v", question, err)
	}
	i, ok := rulePods[peer]
	addr := podAddrs(i)[0]
	if !ok {
		addr = netip.MustParseAddr(peer)
	}
	d := policy.Egress
	if arrow == "<" {
		d = policy.Ingress
	}
	number := rulePods[pod]
	allowed, logged := w.maps.verdict(uint16(number+1), d, addr, uint32(protocol)<<16|uint32(port))
	world := &interpret.World{Snapshot: w.store.Snapshot(), Domain: domains}
	want := world.Policies(interpret.Question{Pod: ruleWorld().PolicyPods[number].Name, Ingress: d == policy.Ingress, Peer: addr, Protocol: cluster.Protocol(protocol), Port: port})
	if want.Allowed != allowed || allowed && want.Logged != logged {
		t.Errorf("%s: compiled %t (logged %t), interpreted %v", question, allowed, logged, want)
	}
	switch {
	case logged:
		return logs
	case allowed:
		return yes
	}
	return no
}
