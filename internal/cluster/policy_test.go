package cluster

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/intstr"
	dynamicfake "k8s.io/client-go/dynamic/fake"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"
	"k8s.io/client-go/tools/cache"
	"sigs.k8s.io/yaml"
)

const policyManifests = `
apiVersion: v1
kind: Namespace
metadata: {name: shop, labels: {team: a, kubernetes.io/metadata.name: shop}}
---
apiVersion: v1
kind: Namespace
metadata: {name: going, labels: {kubernetes.io/metadata.name: going}, deletionTimestamp: "2026-01-01T00:00:00Z", finalizers: [f]}
---
apiVersion: v1
kind: Node
metadata: {name: node-a}
status: {addresses: [{type: InternalIP, address: 192.168.0.1}]}
---
apiVersion: v1
kind: Node
metadata: {name: node-b, labels: {zone: z}}
status: {addresses: [{type: InternalIP, address: 192.168.0.2}, {type: ExternalIP, address: "2001:db8::2"}, {type: Hostname, address: node-b}]}
---
apiVersion: v1
kind: Pod
metadata: {name: here, namespace: shop, uid: u1, labels: {app: web}}
spec: {nodeName: node-a, containers: [{name: c, image: i, ports: [{name: http, containerPort: 80}, {containerPort: 81}]}]}
status: {phase: Running, podIPs: [{ip: 10.0.0.1}]}
---
apiVersion: v1
kind: Pod
metadata: {name: there, namespace: shop, uid: u2, labels: {app: web}}
spec:
  nodeName: node-b
  serviceAccountName: sa
  initContainers:
  - {name: before, image: i, ports: [{name: init, containerPort: 1}]}
  - {name: beside, image: i, restartPolicy: Always, ports: [{name: mesh, containerPort: 15001, protocol: UDP}]}
  containers: [{name: c, image: i, ports: [{name: http, containerPort: 80}]}]
status: {phase: Running, podIPs: [{ip: "fd00::2"}, {ip: 10.0.0.2}]}
---
apiVersion: v1
kind: Pod
metadata: {name: host, namespace: shop}
spec: {nodeName: node-b, hostNetwork: true, containers: [{name: c, image: i}]}
status: {phase: Running, podIPs: [{ip: 192.168.0.2}]}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: web, namespace: shop, uid: p1}
spec:
  podSelector: {matchLabels: {app: web}}
  ingress: [{from: [{ipBlock: {cidr: 10.1.2.3/8, except: ["::ffff:10.9.0.0/112"]}}], ports: [{port: http}, {port: 80, endPort: 90}]}]
---
apiVersion: policy.networking.k8s.io/v1alpha2
kind: ClusterNetworkPolicy
metadata: {name: admin}
spec: {tier: Admin, priority: 1, subject: {namespaces: {}}, egress: [{action: Deny, to: [{networks: [10.1.2.3/8]}]}]}
---
apiVersion: crd.projectcalico.org/v1
kind: NetworkPolicy
metadata: {name: web, namespace: shop}
spec: {selector: app == 'web', ingress: [{action: Allow, protocol: TCP, destination: {ports: [80, "90:92", http]}}]}
---
apiVersion: crd.projectcalico.org/v1
kind: GlobalNetworkPolicy
metadata: {name: all}
spec: {order: 1.5, egress: [{action: Deny}]}
---
apiVersion: crd.projectcalico.org/v1
kind: Tier
metadata: {name: mine}
spec: {order: 10}
---
apiVersion: crd.projectcalico.org/v1
kind: NetworkSet
metadata: {name: office, namespace: shop, labels: {net: office}}
spec: {nets: [203.0.113.0/24]}
---
apiVersion: crd.projectcalico.org/v1
kind: GlobalNetworkSet
metadata: {name: bad}
spec: {nets: [198.51.100.7]}
`

// checkPolicies holds a Snapshot to policyManifests.
func checkPolicies(t *testing.T, s *Snapshot) {
	t.Helper()
	var pods []string
	for pod := range s.PolicyPods() {
		pods = append(pods, fmt.Sprintf("%v %t %s %s %s %v %v %t %v", pod.Name, pod.Local, pod.UID, pod.Node, pod.ServiceAccount, pod.Addrs, pod.Ports, pod.HostNetwork, pod.Phase))
	}
	slices.Sort(pods)
	if want := []string{
		"shop/here true u1 node-a  [10.0.0.1] [{http TCP 80}] false Running",
		"shop/host false  node-b  [192.168.0.2] [] true Running",
		"shop/there false  node-b sa [10.0.0.2 fd00::2] [{http TCP 80} {mesh UDP 15001}] false Running",
	}; !slices.Equal(pods, want) {
		t.Errorf("pods of the cluster\n%s\nwant\n%s", strings.Join(pods, "\n"), strings.Join(want, "\n"))
	}
	for text, want := range map[string]string{"10.0.0.1": "here", "fd00::2": "there", "10.0.0.2": "there", "192.168.0.2": ""} {
		if pod := s.PolicyPodByIP(netip.MustParseAddr(text)); pod == nil && want != "" || pod != nil && pod.Name.Name != want {
			t.Errorf("%s is of %+v, want %q", text, pod, want)
		}
	}
	if n := s.PolicyNode("node-b"); n == nil || fmt.Sprint(n.Addrs, n.Labels) != "[192.168.0.2 2001:db8::2] map[zone:z]" || s.PolicyNode("node-a") == nil {
		t.Errorf("node-b is %+v", n)
	}
	if got := s.NamespaceLabels("shop"); !maps.Equal(got, map[string]string{"team": "a", "kubernetes.io/metadata.name": "shop"}) {
		t.Errorf("labels of the namespace are %v", got)
	}
	if s.NamespaceLeaving("shop") || !s.NamespaceLeaving("going") {
		t.Error("which namespace is being deleted is mistaken")
	}
	// What means this node goes on to.
	own := slices.Collect(s.Pods())
	if len(own) != 1 || own[0].Name.Name != "here" || s.Pod(Name{"shop", "there"}) != nil || s.PodByIP(netip.MustParseAddr("10.0.0.2")) != nil {
		t.Errorf("pods of this node are %v", own)
	}
	if nodes := slices.Collect(s.Nodes()); len(nodes) != 1 || nodes[0].Name.Name != "node-a" {
		t.Errorf("nodes that are this one: %v", nodes)
	}
	checkPolicyObjects(t, s)
}

func checkPolicyObjects(t *testing.T, s *Snapshot) {
	t.Helper()
	policy := s.NetworkPolicy(Name{"shop", "web"})
	if policy == nil || policy.UID != "p1" || policy.Refused != "" || len(slices.Collect(s.NetworkPolicies())) != 1 {
		t.Fatalf("NetworkPolicy %+v", policy)
	}
	if block := policy.Spec.Ingress[0].From[0].IPBlock; block.CIDR != "10.0.0.0/8" || block.Except[0] != "10.9.0.0/16" {
		t.Errorf("the block is not canonical: %v", block)
	}
	if in, out := policy.Isolates(); !in || out {
		t.Errorf("isolates %t, %t", in, out)
	}
	if p := s.ClusterNetworkPolicy("admin"); p == nil || p.Spec.Egress[0].To[0].Networks[0] != "10.0.0.0/8" {
		t.Errorf("ClusterNetworkPolicy %+v", p)
	}
	namespaced, global := s.CalicoPolicy(Name{"shop", "web"}), s.CalicoPolicy(Name{"", "all"})
	if namespaced == nil || global == nil || *global.Spec.Order != 1.5 || fmt.Sprint(namespaced.Spec.Ingress[0].Destination.Ports) != "[{80 80 } {90 92 } {0 0 http}]" {
		t.Errorf("Calico's policies are %+v, %+v", namespaced, global)
	}
	if tier := s.CalicoTier("mine"); tier == nil || *tier.Spec.Order != 10 {
		t.Errorf("tier %+v", tier)
	}
	office, bad := s.CalicoNetworkSet(Name{"shop", "office"}), s.CalicoNetworkSet(Name{"", "bad"})
	if office == nil || office.Labels["net"] != "office" || bad == nil || bad.Nets[0] != netip.MustParsePrefix("198.51.100.7/32") {
		t.Errorf("sets of networks are %+v, %+v", office, bad)
	}
}

func TestPolicyManifests(t *testing.T) {
	t.Parallel()
	set := newManifestSet("node-a", nil)
	set.policy = true
	if err := set.addFile("f.yaml", []byte(policyManifests)); err != nil {
		t.Fatal(err)
	}
	store := NewStore()
	store.Replace(set.result())
	checkPolicies(t, store.Snapshot())
	store.Replace(Objects{})
	if s := store.Snapshot(); s.policyPods.len()+s.policyIPs.len()+s.policyNodes.len()+s.networkPolicies.len()+s.clusterPolicies.len()+
		s.calicoPolicies.len()+s.calicoTiers.len()+s.calicoSets.len()+s.leaving.len()+s.namespaceLabels.len() != 0 {
		t.Error("something stays of what is gone")
	}
	without := newManifestSet("node-a", nil)
	if err := without.addFile("f.yaml", []byte(policyManifests)); err != nil {
		t.Fatal(err)
	}
	if all := without.result(); len(all.PolicyPods)+len(all.NetworkPolicies)+len(all.CalicoPolicies)+len(all.NamespaceLabels) != 0 {
		t.Error("something is read for policies that are off")
	}
}

func calicoLists() map[schema.GroupVersionResource]string {
	return map[schema.GroupVersionResource]string{
		{Group: policyGroup, Version: "v1alpha2", Resource: "clusternetworkpolicies"}: "ClusterNetworkPolicyList",
		calicoResource("networkpolicies"):                                             "NetworkPolicyList", calicoResource("globalnetworkpolicies"): "GlobalNetworkPolicyList",
		calicoResource("tiers"): "TierList", calicoResource("networksets"): "NetworkSetList", calicoResource("globalnetworksets"): "GlobalNetworkSetList",
	}
}

// policyAPIs are clients of an API server with the objects of policyManifests.
func policyAPIs(t *testing.T) (*fake.Clientset, *dynamicfake.FakeDynamicClient) {
	t.Helper()
	client := fake.NewClientset()
	custom := dynamicfake.NewSimpleDynamicClientWithCustomListKinds(runtime.NewScheme(), calicoLists())
	for doc := range documents([]byte(policyManifests)) {
		object := &unstructured.Unstructured{}
		if err := yaml.Unmarshal(doc, object); err != nil {
			t.Fatal(err)
		}
		typed := map[string]runtime.Object{
			"v1/Namespace": &corev1.Namespace{}, "v1/Node": &corev1.Node{}, "v1/Pod": &corev1.Pod{}, "networking.k8s.io/v1/NetworkPolicy": &networkingv1.NetworkPolicy{},
		}[object.GetAPIVersion()+"/"+object.GetKind()]
		if typed != nil {
			if err := yaml.Unmarshal(doc, typed); err != nil {
				t.Fatal(err)
			}
			if err := client.Tracker().Add(typed); err != nil {
				t.Fatal(err)
			}
			continue
		}
		for resource, list := range calicoLists() {
			if resource.GroupVersion().String() == object.GetAPIVersion() && object.GetKind()+"List" == list {
				if err := custom.Tracker().Create(resource, object, object.GetNamespace()); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
	client.Resources = []*metav1.APIResourceList{
		installed(versionClusterPolicy, "clusternetworkpolicies"),
		installed(versionCalico, "networkpolicies", "globalnetworkpolicies", "tiers", "networksets", "globalnetworksets"),
	}
	return client, custom
}

// selectsFields makes a fake look at field selectors of pods and nodes, as it does not by itself.
func selectsFields(client *fake.Clientset) {
	client.PrependReactor("list", "*", func(action clienttesting.Action) (bool, runtime.Object, error) {
		by := action.(clienttesting.ListAction).GetListRestrictions().Fields
		switch action.GetResource().Resource {
		case "pods":
			all, err := client.Tracker().List(action.GetResource(), corev1.SchemeGroupVersion.WithKind("Pod"), "")
			if err != nil {
				return true, nil, err
			}
			list := all.(*corev1.PodList).DeepCopy()
			list.Items = slices.DeleteFunc(list.Items, func(p corev1.Pod) bool { return !by.Matches(fieldsOf{"spec.nodeName": p.Spec.NodeName}) })
			return true, list, nil
		case "nodes":
			all, err := client.Tracker().List(action.GetResource(), corev1.SchemeGroupVersion.WithKind("Node"), "")
			if err != nil {
				return true, nil, err
			}
			list := all.(*corev1.NodeList).DeepCopy()
			list.Items = slices.DeleteFunc(list.Items, func(n corev1.Node) bool { return !by.Matches(fieldsOf{"metadata.name": n.Name}) })
			return true, list, nil
		}
		return false, nil, nil
	})
}

type fieldsOf map[string]string

func (f fieldsOf) Has(field string) bool   { _, ok := f[field]; return ok }
func (f fieldsOf) Get(field string) string { return f[field] }

func startPolicyAPI(t *testing.T, client *fake.Clientset, custom *dynamicfake.FakeDynamicClient, warn func(Object, string, string)) (*APISource, *Store) {
	t.Helper()
	store := NewStore()
	source, err := newAPISource(client, custom, APIConfig{Store: store, NodeName: "node-a", Policy: true, Warn: warn, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(run(t, source))
	return source, store
}

// first waits for the first Change of whoever reads policies.
func first(t *testing.T, store *Store) *Snapshot {
	t.Helper()
	sub := store.Subscribe(NetworkPolicies, PolicyPods)
	defer sub.Close()
	change, err := sub.Next(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if !change.Full || !change.Snapshot.PolicySynced() || !change.Snapshot.Synced() {
		t.Errorf("the first Change: full %t, synced %t, policies %t", change.Full, change.Snapshot.Synced(), change.Snapshot.PolicySynced())
	}
	return change.Snapshot
}

func TestAPISourceReadsPolicies(t *testing.T) {
	t.Parallel()
	client, custom := policyAPIs(t)
	selectsFields(client)
	_, store := startPolicyAPI(t, client, custom, nil)
	checkPolicies(t, first(t, store))

	if err := client.NetworkingV1().NetworkPolicies("shop").Delete(t.Context(), "web", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := client.CoreV1().Pods("shop").Delete(t.Context(), "there", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	for resource, name := range map[schema.GroupVersionResource]Name{
		calicoResource("networkpolicies"): {"shop", "web"}, calicoResource("globalnetworkpolicies"): {"", "all"}, calicoResource("tiers"): {"", "mine"},
		calicoResource("networksets"): {"shop", "office"}, calicoResource("globalnetworksets"): {"", "bad"},
		{Group: policyGroup, Version: "v1alpha2", Resource: "clusternetworkpolicies"}: {"", "admin"},
	} {
		if err := custom.Resource(resource).Namespace(name.Namespace).Delete(t.Context(), name.Name, metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	waitFor(t, store, "deletions", func(s *Snapshot) bool {
		return s.networkPolicies.len()+s.clusterPolicies.len()+s.calicoPolicies.len()+s.calicoTiers.len()+s.calicoSets.len() == 0 &&
			s.PolicyPod(Name{"shop", "there"}) == nil && s.PolicyPod(Name{"shop", "here"}) != nil
	})

	// What the role must allow, as the package's comment says.
	used := make(map[string]bool)
	for _, action := range slices.Concat(client.Actions(), custom.Actions()) {
		resource := action.GetResource()
		if verb := action.GetVerb(); verb == "list" || verb == "watch" {
			used[strings.TrimPrefix(resource.Group+"/"+resource.Resource, "/")] = true
		}
	}
	want := []string{
		"crd.projectcalico.org/globalnetworkpolicies", "crd.projectcalico.org/globalnetworksets", "crd.projectcalico.org/networkpolicies",
		"crd.projectcalico.org/networksets", "crd.projectcalico.org/tiers", "discovery.k8s.io/endpointslices", "namespaces",
		"networking.k8s.io/networkpolicies", "nodes", "pods", "policy.networking.k8s.io/clusternetworkpolicies", "services",
	}
	if got := slices.Sorted(maps.Keys(used)); !slices.Equal(got, want) {
		t.Errorf("listed and watched %q, want %q", got, want)
	}
}

// Services and names do not wait for policies, but who reads policies waits for all of them.
func TestNothingElseWaitsForPolicies(t *testing.T) {
	t.Parallel()
	client, custom := policyAPIs(t)
	client.Resources = nil // no CRD is installed
	release := make(chan struct{})
	client.PrependReactor("list", "networkpolicies", func(clienttesting.Action) (bool, runtime.Object, error) {
		<-release
		return false, nil, nil
	})
	source, store := startPolicyAPI(t, client, custom, nil)
	policies, services := store.Subscribe(NetworkPolicies), store.Subscribe(Services)
	defer policies.Close()
	defer services.Close()
	<-source.Ready()
	if change, err := services.Next(t.Context()); err != nil || change.Snapshot.PolicySynced() {
		t.Errorf("a reader of Services: %v", err)
	}
	early, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := policies.Next(early); err == nil {
		t.Error("a reader of policies begins before they are listed")
	}
	close(release)
	change, err := policies.Next(t.Context())
	if err != nil || !change.Full || change.Snapshot.NetworkPolicy(Name{"shop", "web"}) == nil {
		t.Errorf("policies that have been listed: %+v, %v", change, err)
	}
	if n := len(custom.Actions()); n != 0 {
		t.Errorf("%d calls for APIs that are not installed", n)
	}
}

// A pod's name may go from one node to another, and each of two watches tells half of it, in any order.
func TestPodsOfOneNameOnTwoNodes(t *testing.T) {
	t.Parallel()
	pod := func(local bool, created int64) *PolicyPod {
		return &PolicyPod{Name: Name{"ns", "db-0"}, Local: local, Created: metav1.Unix(created, 0).Time, Addrs: []netip.Addr{netip.MustParseAddr("10.0.0.9")}}
	}
	name := Name{"ns", "db-0"}
	for _, newIsLocal := range []bool{true, false} {
		for order, edit := range map[string]func(*Edit){
			"in order": func(e *Edit) {
				e.deletePodFrom(name, !newIsLocal)
				e.putPodAnywhere(pod(newIsLocal, 2))
			},
			"new one first": func(e *Edit) {
				e.putPodAnywhere(pod(newIsLocal, 2))
				e.putPodAnywhere(pod(!newIsLocal, 1)) // a late change of the old one
				e.deletePodFrom(name, !newIsLocal)
			},
		} {
			store := NewStore()
			store.Update(func(e *Edit) { e.putPodAnywhere(pod(!newIsLocal, 1)) })
			store.Update(edit)
			if got := store.Snapshot().PolicyPod(name); got == nil || got.Local != newIsLocal {
				t.Errorf("new one local %t, %s: %+v", newIsLocal, order, got)
			}
			store.Update(func(e *Edit) { e.deletePodFrom(name, newIsLocal) })
			if s := store.Snapshot(); s.PolicyPod(name) != nil || len(s.PolicyPodsByIP(netip.MustParseAddr("10.0.0.9"))) != 0 {
				t.Errorf("new one local %t, %s: stays after its deletion", newIsLocal, order)
			}
		}
	}
}

func TestPolicyPodByIP(t *testing.T) {
	t.Parallel()
	addr := netip.MustParseAddr("10.0.0.9")
	pod := func(name string, created int64, change func(*PolicyPod)) *PolicyPod {
		p := &PolicyPod{Name: Name{"ns", name}, Created: metav1.Unix(created, 0).Time, Addrs: []netip.Addr{addr}}
		change(p)
		return p
	}
	same := func(*PolicyPod) {}
	for want, pods := range map[string][]*PolicyPod{
		"":      {pod("a", 1, func(p *PolicyPod) { p.Phase = PodFailed }), pod("b", 1, func(p *PolicyPod) { p.HostNetwork = true })},
		"young": {pod("old", 1, same), pod("young", 2, same)},
		"alive": {pod("alive", 1, same), pod("going", 2, func(p *PolicyPod) { p.Terminating = true })},
		"runs":  {pod("ended", 2, func(p *PolicyPod) { p.Phase = PodSucceeded }), pod("runs", 1, same)},
	} {
		for _, list := range [][]*PolicyPod{pods, {pods[1], pods[0]}} {
			store := NewStore()
			store.Replace(Objects{PolicyPods: list})
			if got := store.Snapshot().PolicyPodByIP(addr); got == nil && want != "" || got != nil && got.Name.Name != want {
				t.Errorf("%s has the address, want %q", got.Name, want)
			}
		}
	}
}

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
