package cluster

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	dynamicfake "k8s.io/client-go/dynamic/fake"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"
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
	var listed atomic.Bool
	client.PrependReactor("list", "networkpolicies", func(clienttesting.Action) (bool, runtime.Object, error) {
		if listed.Load() {
			return false, nil, nil
		}
		return true, nil, errors.New("not now") // one that waits would keep all other requests: the fake takes one at a time
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
	listed.Store(true)
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
