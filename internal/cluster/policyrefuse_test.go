package cluster

import (
	"net/netip"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/client-go/kubernetes/fake"
	"k8s.io/client-go/tools/cache"
)

func apiPolicy(spec networkingv1.NetworkPolicySpec) *networkingv1.NetworkPolicy {
	p := &networkingv1.NetworkPolicy{ObjectMeta: meta("p"), Spec: spec}
	p.UID = "u1"
	return p
}

// malformedPolicies are by what the error says of each; all select pods with app: web.
func malformedPolicies() map[string]networkingv1.NetworkPolicySpec {
	rule := func(peer networkingv1.NetworkPolicyPeer, ports ...networkingv1.NetworkPolicyPort) networkingv1.NetworkPolicySpec {
		return networkingv1.NetworkPolicySpec{Ingress: []networkingv1.NetworkPolicyIngressRule{{From: []networkingv1.NetworkPolicyPeer{peer}, Ports: ports}}}
	}
	block := func(cidr string, except ...string) networkingv1.NetworkPolicySpec {
		return rule(networkingv1.NetworkPolicyPeer{IPBlock: &networkingv1.IPBlock{CIDR: cidr, Except: except}})
	}
	port := func(p networkingv1.NetworkPolicyPort) networkingv1.NetworkPolicySpec {
		return rule(networkingv1.NetworkPolicyPeer{PodSelector: &metav1.LabelSelector{}}, p)
	}
	quic, number := corev1.Protocol("QUIC"), func(n int32) *intstr.IntOrString { return new(intstr.FromInt32(n)) }
	egress := networkingv1.NetworkPolicySpec{Egress: []networkingv1.NetworkPolicyEgressRule{{Ports: []networkingv1.NetworkPolicyPort{{Port: number(0)}}}}}
	return map[string]networkingv1.NetworkPolicySpec{
		`spec.ingress[0].from[0].ipBlock.cidr: "10.0.0.0/33"`:                                block("10.0.0.0/33"),
		`spec.ingress[0].from[0].ipBlock.except[0]: "x"`:                                     block("10.0.0.0/8", "x"),
		`spec.ingress[0].from[0].ipBlock.except[0]: 11.0.0.0/16 is not within 10.0.0.0/8`:    block("10.0.0.0/8", "11.0.0.0/16"),
		`spec.ingress[0].from[0].ipBlock.except[1]: 0.0.0.0/0 is not within 10.0.0.0/8`:      block("10.0.0.0/8", "10.0.0.0/9", "0.0.0.0/0"),
		`spec.ingress[0].from[0]: ipBlock beside a selector`:                                 rule(networkingv1.NetworkPolicyPeer{IPBlock: &networkingv1.IPBlock{CIDR: "10.0.0.0/8"}, PodSelector: &metav1.LabelSelector{}}),
		`spec.ingress[0].from[0].podSelector: "Like" is not a valid label selector operator`: rule(networkingv1.NetworkPolicyPeer{PodSelector: &metav1.LabelSelector{MatchExpressions: []metav1.LabelSelectorRequirement{{Key: "a", Operator: "Like"}}}}),
		`spec.ingress[0].ports[0].protocol: "QUIC"`:                                          port(networkingv1.NetworkPolicyPort{Protocol: &quic}),
		`spec.ingress[0].ports[0].port: 70000 is not a port, write 1 to 65535`:               port(networkingv1.NetworkPolicyPort{Port: number(70000)}),
		`spec.ingress[0].ports[0].port: "web_1" is no port's name`:                           port(networkingv1.NetworkPolicyPort{Port: new(intstr.FromString("web_1"))}),
		`spec.ingress[0].ports[0].endPort: 79, write 80 to 65535`:                            port(networkingv1.NetworkPolicyPort{Port: number(80), EndPort: new(int32(79))}),
		`spec.ingress[0].ports[0].endPort: 80 without port`:                                  port(networkingv1.NetworkPolicyPort{EndPort: new(int32(80))}),
		`spec.ingress[0].ports[0].endPort: 80 beside the name "web"`:                         port(networkingv1.NetworkPolicyPort{Port: new(intstr.FromString("web")), EndPort: new(int32(80))}),
		`spec.egress[0].ports[0].port: 0 is not a port`:                                      egress,
		`spec.policyTypes[0]: "Sideways" is no direction`:                                    {PolicyTypes: []networkingv1.PolicyType{"Sideways"}},
	}
}

// TestMalformedPolicies: the last good state stays; without one the policy isolates whom it selects.
func TestMalformedPolicies(t *testing.T) {
	t.Parallel()
	for want, spec := range malformedPolicies() {
		t.Run(want, func(t *testing.T) {
			t.Parallel()
			told := &warnings{}
			store := NewStore()
			source, err := newAPISource(fake.NewClientset(), nil, APIConfig{Store: store, NodeName: testNode, Policy: true, Warn: told.warn, Log: discard()})
			if err != nil {
				t.Fatal(err)
			}
			w := source.watchNetworkPolicies()
			give := func(spec networkingv1.NetworkPolicySpec, how cache.DeltaType) *NetworkPolicy {
				t.Helper()
				spec.PodSelector.MatchLabels = map[string]string{"app": "web"}
				o, err := source.stripper(w)(apiPolicy(spec))
				if err == nil {
					err = source.process(cache.Deltas{{Type: how, Object: o}}, false)
				}
				if err != nil {
					t.Fatal(err)
				}
				return store.Snapshot().NetworkPolicy(Name{"shop", "p"})
			}
			p := give(spec, cache.Added)
			if p == nil || !strings.Contains(p.Refused, want) || len(p.Spec.Ingress)+len(p.Spec.Egress) != 0 || p.Spec.PodSelector.MatchLabels["app"] != "web" {
				t.Fatalf("in force is %+v, want what isolates, and %s", p, want)
			}
			in, out := p.Isolates()
			if wantOut := len(spec.Egress) > 0 || len(spec.PolicyTypes) > 0; !in || out != wantOut {
				t.Errorf("isolates %t, %t", in, out)
			}
			if events := told.about(Object{kindNetworkPolicy, Name{"shop", "p"}, "u1"}); len(events) != 1 || !strings.Contains(events[0], want) {
				t.Errorf("events are %q, want one that says %s", events, want)
			}
			good := networkingv1.NetworkPolicySpec{Ingress: []networkingv1.NetworkPolicyIngressRule{{}}}
			if p = give(good, cache.Updated); p == nil || p.Refused != "" || len(p.Spec.Ingress) != 1 {
				t.Errorf("a good state is not taken: %+v", p)
			}
			if p = give(spec, cache.Updated); p == nil || p.Refused != "" || len(p.Spec.Ingress) != 1 {
				t.Errorf("the last good state is gone: %+v", p)
			}
			if n := metricValue(t, source.refused.WithLabelValues(kindNetworkPolicy)); n != 2 {
				t.Errorf("%v refusals, want 2", n)
			}
			if p = give(spec, cache.Deleted); p != nil {
				t.Error("stays after its deletion")
			}
		})
	}
}

// TestMalformedPolicyManifests: the same for manifests.
func TestMalformedPolicyManifests(t *testing.T) {
	t.Parallel()
	load := func(store *Store, text string) {
		t.Helper()
		set := newManifestSet(testNode, nil)
		set.policy, set.tolerant = true, true
		if err := set.addFile("f.yaml", []byte(text)); err != nil {
			t.Fatal(err)
		}
		store.Replace(set.result())
	}
	policy := func(spec string) string {
		return "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: p, namespace: ns}\nspec: {podSelector: {matchLabels: {app: web}}, " + spec + "}\n" +
			"---\napiVersion: crd.projectcalico.org/v1\nkind: NetworkPolicy\nmetadata: {name: p, namespace: ns}\nspec: {selector: app == 'web'}\n"
	}
	store, name := NewStore(), Name{"ns", "p"}
	for _, rule := range []string{"from: [{later: 1}]", "ports: [{port: 0}]"} {
		load(store, policy("ingress: [{"+rule+"}]"))
		if p := store.Snapshot().NetworkPolicy(name); p == nil || p.Refused == "" || len(p.Spec.Ingress) != 0 || p.Spec.PodSelector.MatchLabels["app"] != "web" {
			t.Errorf("%s: in force is %+v, want what isolates", rule, p)
		}
		if store.Snapshot().CalicoPolicy(name) == nil {
			t.Errorf("%s: Calico's policy of the same name is gone", rule)
		}
	}
	load(store, policy("ingress: [{}]"))
	load(store, policy("ingress: [{ports: [{port: 0}]}]"))
	if p := store.Snapshot().NetworkPolicy(name); p == nil || p.Refused != "" || len(p.Spec.Ingress) != 1 {
		t.Errorf("the last good state is gone: %+v", p)
	}
	load(store, policy("ingres: [{}]"))
	if p := store.Snapshot().NetworkPolicy(name); p == nil || p.Refused != "" {
		t.Errorf("the last good state is gone: %+v", p)
	}
	empty := NewStore()
	load(empty, policy("ingres: [{}]"))
	if p := empty.Snapshot().NetworkPolicy(name); p != nil {
		t.Errorf("whom it selects cannot be known, and in force is %+v", p)
	}
}

// Events are on what the API calls the object.
func TestEventsOnPolicies(t *testing.T) {
	t.Parallel()
	e := newEvents(fake.NewClientset(), EventsConfig{})
	for kind, want := range map[string]string{
		kindNetworkPolicy: "networking.k8s.io/v1 NetworkPolicy", kindCalicoPolicy: "crd.projectcalico.org/v1 NetworkPolicy",
		kindCalicoGlobalPolicy: "crd.projectcalico.org/v1 GlobalNetworkPolicy", kindClusterPolicy: "policy.networking.k8s.io/v1alpha2 ClusterNetworkPolicy",
		kindCalicoTier: "crd.projectcalico.org/v1 Tier", kindCalicoGlobalSet: "crd.projectcalico.org/v1 GlobalNetworkSet", kindPolicyPod: "v1 Pod",
	} {
		reference, ok := e.reference(Object{kind, Name{"ns", "n"}, "u"})
		if got := reference.APIVersion + " " + reference.Kind; !ok || got != want {
			t.Errorf("%s is %s, want %s", kind, got, want)
		}
	}
}

func TestPoliciesNeedANode(t *testing.T) {
	t.Parallel()
	if _, err := newAPISource(nil, nil, APIConfig{Policy: true}); err == nil {
		t.Error("API source: no error")
	}
	if _, err := NewFileSource(FileConfig{Policy: true}); err == nil {
		t.Error("file source: no error")
	}
}

func FuzzPolicies(f *testing.F) {
	for doc := range documents([]byte(policyManifests)) {
		f.Add(doc)
	}
	for _, spec := range []string{
		`{"podSelector":{},"ingress":[{"from":[{"ipBlock":{"cidr":"::ffff:1.2.3.4/96","except":["1.2.3.4/32"]}}],"ports":[{"port":"a","endPort":1}]}]}`,
		`{"selector":"has(a) && b in {'c'}","ingress":[{"action":"Log","protocol":255,"icmp":{"type":-1},"source":{"nets":["::/0"],"notSelector":"!"}}]}`,
	} {
		f.Add([]byte(`{"apiVersion":"networking.k8s.io/v1","kind":"NetworkPolicy","metadata":{"name":"p"},"spec":` + spec + `}`))
		f.Add([]byte(`{"apiVersion":"crd.projectcalico.org/v1","kind":"NetworkPolicy","metadata":{"name":"p"},"spec":` + spec + `}`))
	}
	f.Fuzz(func(t *testing.T, content []byte) {
		set := newManifestSet("node-a", nil)
		set.policy, set.tolerant = true, true
		if set.addFile("f.yaml", content) != nil {
			return
		}
		store := NewStore()
		store.Replace(set.result())
		for p := range store.Snapshot().NetworkPolicies() {
			for _, rule := range p.Spec.Ingress {
				for _, peer := range rule.From {
					if peer.IPBlock != nil && netip.MustParsePrefix(peer.IPBlock.CIDR).Masked().String() != peer.IPBlock.CIDR {
						t.Errorf("%s is not canonical", peer.IPBlock.CIDR)
					}
				}
			}
		}
		store.Replace(Objects{})
		if s := store.Snapshot(); s.policyPods.len()+s.policyIPs.len()+s.networkPolicies.len()+s.clusterPolicies.len()+s.calicoPolicies.len() != 0 {
			t.Error("something stays after its deletion")
		}
	})
}
