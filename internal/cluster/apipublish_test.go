package cluster

import (
	"log/slog"
	"maps"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	dynamicfake "k8s.io/client-go/dynamic/fake"
	"k8s.io/client-go/kubernetes/fake"
	"sigs.k8s.io/yaml"
)

// fakeAPIs are clients of an API server with the objects of publishManifests.
func fakeAPIs(t *testing.T) (*fake.Clientset, *dynamicfake.FakeDynamicClient) {
	t.Helper()
	var typed []runtime.Object
	var custom []*unstructured.Unstructured
	for doc := range documents([]byte(publishManifests)) {
		var header metav1.TypeMeta
		if err := yaml.Unmarshal(doc, &header); err != nil {
			t.Fatal(err)
		}
		object, ok := map[string]runtime.Object{
			kindNamespace: &corev1.Namespace{}, kindNode: &corev1.Node{}, kindService: &corev1.Service{},
			kindSlice: &discoveryv1.EndpointSlice{}, kindPod: &corev1.Pod{}, kindIngress: &networkingv1.Ingress{},
		}[header.Kind]
		if !ok {
			object := &unstructured.Unstructured{}
			if err := yaml.Unmarshal(doc, object); err != nil {
				t.Fatal(err)
			}
			custom = append(custom, object)
			continue
		}
		if err := yaml.Unmarshal(doc, object); err != nil {
			t.Fatal(err)
		}
		typed = append(typed, object)
	}
	lists := map[schema.GroupVersionResource]string{
		gatewayResource("httproutes"): "HTTPRouteList", gatewayResource("gateways"): "GatewayList",
		{Group: "externaldns.k8s.io", Version: "v1alpha1", Resource: "dnsendpoints"}: "DNSEndpointList",
	}
	client := dynamicfake.NewSimpleDynamicClientWithCustomListKinds(runtime.NewScheme(), lists)
	for _, object := range custom { // the fake guesses the plural of a gateway wrong
		for resource, list := range lists {
			if object.GetKind()+"List" != list {
				continue
			}
			if err := client.Tracker().Create(resource, object, object.GetNamespace()); err != nil {
				t.Fatal(err)
			}
		}
	}
	return fake.NewClientset(typed...), client
}

func installed(version string, resources ...string) *metav1.APIResourceList {
	list := &metav1.APIResourceList{GroupVersion: version}
	for _, name := range resources {
		list.APIResources = append(list.APIResources, metav1.APIResource{Name: name})
	}
	return list
}

func TestAPISourcePublishes(t *testing.T) {
	t.Parallel()
	client, custom := fakeAPIs(t)
	client.Resources = []*metav1.APIResourceList{installed(versionGateway, "httproutes", "gateways"), installed(versionDNSEndpoint, "dnsendpoints")}
	store := NewNameStore()
	source, err := newAPISource(client, custom, APIConfig{Store: store, Publish: everyKind, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	defer run(t, source)()
	<-source.Ready()
	checkPublished(t, store.Snapshot())

	routes := custom.Resource(gatewayResource("httproutes")).Namespace("shop")
	if err := routes.Delete(t.Context(), "web", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	waitFor(t, store, "a route deleted", func(s *Snapshot) bool { return s.HTTPRoute(Name{"shop", "web"}) == nil })
	if err := client.CoreV1().Nodes().Delete(t.Context(), "node-a", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	waitFor(t, store, "a node deleted", func(s *Snapshot) bool { return s.Node("node-a") == nil })

	// What the role must allow, as the package's comment says.
	want := []string{
		"discovery.k8s.io/endpointslices", "externaldns.k8s.io/dnsendpoints", "gateway.networking.k8s.io/gateways",
		"gateway.networking.k8s.io/httproutes", "namespaces", "networking.k8s.io/ingresses", "nodes", "pods", "services",
	}
	used := make(map[string]bool)
	for _, action := range slices.Concat(client.Actions(), custom.Actions()) {
		resource := action.GetResource()
		if verb := action.GetVerb(); verb == "list" || verb == "watch" {
			used[strings.TrimPrefix(resource.Group+"/"+resource.Resource, "/")] = true
		}
	}
	if got := slices.Sorted(maps.Keys(used)); !slices.Equal(got, want) {
		t.Errorf("listed and watched %q, want %q", got, want)
	}
}

func TestAPISourceWaitsForAPIsToBeInstalled(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		client, custom := fakeAPIs(t)
		client.Resources = []*metav1.APIResourceList{installed(versionGateway, "gateways")}
		store := NewNameStore()
		source, err := newAPISource(client, custom, APIConfig{Store: store, Publish: []Kind{HTTPRoutes, DNSEndpoints}, Log: slog.New(slog.DiscardHandler)})
		if err != nil {
			t.Fatal(err)
		}
		defer run(t, source)()
		<-source.Ready()
		if n := len(custom.Actions()); n != 0 {
			t.Fatalf("%d calls for APIs that are not installed", n)
		}
		client.Lock()
		client.Resources = []*metav1.APIResourceList{installed(versionGateway, "httproutes")}
		client.Unlock()
		time.Sleep(recheck + retry)
		synctest.Wait()
		if s := store.Snapshot(); s.HTTPRoute(Name{"shop", "web"}) == nil || s.DNSEndpoint(Name{"shop", "extra"}) != nil {
			t.Error("an API that was installed later is not read")
		}
	})
}

// An object that is gone when a watch starts anew has nobody else to tell of it.
func TestAPISourceDeletesWhatANewListLacks(t *testing.T) {
	t.Parallel()
	store := NewNameStore()
	store.Update(func(e *Edit) {
		e.PutNode(&Node{Meta: Meta{Name: Name{"", "old"}}})
		e.PutPod(&Pod{Name: Name{"shop", "old"}})
		e.LabelNamespace("old", nil)
	})
	source, err := newAPISource(fake.NewClientset(), nil, APIConfig{Store: store, Publish: []Kind{Nodes, Pods, Namespaces}, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	defer run(t, source)()
	<-source.Ready()
	if s := store.Snapshot(); s.Node("old") != nil || s.Pod(Name{"shop", "old"}) != nil || s.HasNamespace("old") {
		t.Error("objects that are not listed stay")
	}
}
