package cluster

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"testing"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"
	"k8s.io/client-go/tools/cache"
)

func apiService(name, clusterIP string, labels ...string) *corev1.Service {
	return &corev1.Service{ObjectMeta: meta(name, labels...), Spec: corev1.ServiceSpec{ClusterIP: clusterIP}}
}

func apiSlice(name, service, addr string) *discoveryv1.EndpointSlice {
	return &discoveryv1.EndpointSlice{
		ObjectMeta:  meta(name, discoveryv1.LabelServiceName, service, corev1.IsHeadlessService, ""),
		AddressType: discoveryv1.AddressTypeIPv4,
		Endpoints:   []discoveryv1.Endpoint{{Addresses: []string{addr}}},
	}
}

func apiPod(name, addr string) *corev1.Pod {
	pod := &corev1.Pod{ObjectMeta: meta(name), Spec: corev1.PodSpec{NodeName: testNode}}
	if addr != "" {
		pod.Status = corev1.PodStatus{Phase: corev1.PodRunning, PodIPs: []corev1.PodIP{{IP: addr}}}
	}
	return pod
}

// startAPI runs an APISource on a fake API until the test ends.
func startAPI(t *testing.T, client *fake.Clientset, log *logLines) (*APISource, *Store) {
	t.Helper()
	store := NewStore()
	source, err := newAPISource(client, nil, APIConfig{Store: store, NodeName: testNode, Log: slog.New(slog.NewTextHandler(log, nil))})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- source.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("run: %v", err)
		}
	})
	return source, store
}

func TestAPISourceFollows(t *testing.T) {
	t.Parallel()
	client := fake.NewClientset(
		&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "shop"}},
		apiService("cart", "10.96.0.7"),
		apiService("web", "None"),
		apiService("mesh", "10.96.0.8", labelServiceProxyName, "other"),
		apiSlice("web-1", "web", "10.0.0.1"),
	)
	source, store := startAPI(t, client, newLogLines())
	<-source.Ready()
	s := store.Snapshot()
	if !s.Synced() || !s.HasNamespace("shop") {
		t.Fatalf("synced %t, namespace %t", s.Synced(), s.HasNamespace("shop"))
	}
	if s.Service(Name{"shop", "cart"}) == nil || s.Service(Name{"shop", "mesh"}) == nil || len(s.Slices(Name{"shop", "web"})) != 1 {
		t.Fatal("a Service of another proxy or a headless slice is missing: DNS answers for both")
	}

	services, slices := client.CoreV1().Services("shop"), client.DiscoveryV1().EndpointSlices("shop")
	if _, err := services.Update(t.Context(), apiService("cart", "10.96.0.9"), metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	waitFor(t, store, "an address changed", func(s *Snapshot) bool {
		return s.Service(Name{"shop", "cart"}).ClusterIPs[0].String() == "10.96.0.9"
	})
	if _, err := slices.Update(t.Context(), apiSlice("web-1", "cart", "10.0.0.1"), metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	waitFor(t, store, "a slice of another Service", func(s *Snapshot) bool {
		return len(s.Slices(Name{"shop", "web"})) == 0 && len(s.Slices(Name{"shop", "cart"})) == 1
	})
	if _, err := slices.Update(t.Context(), apiSlice("web-1", "", "10.0.0.1"), metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	waitFor(t, store, "a slice of no Service", func(s *Snapshot) bool { return len(s.Slices(Name{"shop", "cart"})) == 0 })
	if err := services.Delete(t.Context(), "cart", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := client.CoreV1().Namespaces().Delete(t.Context(), "shop", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	waitFor(t, store, "deletions", func(s *Snapshot) bool {
		return s.Service(Name{"shop", "cart"}) == nil && !s.HasNamespace("shop")
	})
}

func TestAPISourceRefusesABadObjectAlone(t *testing.T) {
	t.Parallel()
	client, log := fake.NewClientset(apiService("cart", "10.96.0.7")), newLogLines()
	source, store := startAPI(t, client, log)
	<-source.Ready()
	services := client.CoreV1().Services("shop")
	if _, err := services.Update(t.Context(), apiService("cart", "x"), metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	log.wait(t, "convert Service shop/cart: spec.clusterIP[0]")
	if svc := store.Snapshot().Service(Name{"shop", "cart"}); svc == nil || svc.ClusterIPs[0].String() != "10.96.0.7" {
		t.Errorf("the last good state is gone: %+v", svc)
	}
	if got := metricValue(t, source.refused.WithLabelValues(kindService)); got != 1 {
		t.Errorf("%v objects refused, want 1", got)
	}
	if _, err := services.Create(t.Context(), apiService("web", "10.96.0.8"), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	waitFor(t, store, "the next object", func(s *Snapshot) bool { return s.Service(Name{"shop", "web"}) != nil })
}

// TestRefusalsAreSaidOnce: however often a bad object changes or is listed, until it is another trouble or was none.
func TestRefusalsAreSaidOnce(t *testing.T) {
	t.Parallel()
	var told []string
	log := newLogLines()
	s, err := newAPISource(fake.NewClientset(), nil, APIConfig{
		Store: NewStore(), Log: slog.New(slog.NewTextHandler(log, nil)),
		Warn: func(about Object, reason, message string) { told = append(told, fmt.Sprint(about, reason, message)) },
	})
	if err != nil {
		t.Fatal(err)
	}
	for i, tt := range []struct {
		addr string
		how  cache.DeltaType
		told int
	}{
		{"x", cache.Added, 1}, {"x", cache.Updated, 1}, {"x", cache.Replaced, 1}, {"y", cache.Updated, 2}, {"x", cache.Updated, 3},
		{"10.96.0.7", cache.Updated, 3}, {"x", cache.Updated, 4}, {"x", cache.Deleted, 4}, {"x", cache.Added, 5},
	} {
		o, err := s.strip(apiService("cart", tt.addr))
		if err == nil {
			err = s.process(cache.Deltas{{Type: tt.how, Object: o}}, false)
		}
		if err != nil || len(told) != tt.told || log.count("object refused") != tt.told {
			t.Errorf("%d: told %q, want %d; logged %d; %v", i, told, tt.told, log.count("object refused"), err)
		}
	}
}

func TestAPISourceFollowsPodsOfItsNode(t *testing.T) {
	t.Parallel()
	client, log := fake.NewClientset(apiPod("web-0", "")), newLogLines()
	source, store := startAPI(t, client, log)
	<-source.Ready()
	if store.Snapshot().Pod(Name{"shop", "web-0"}) == nil {
		t.Fatal("synced without the pod that was listed")
	}
	asked := 0
	for _, action := range client.Actions() { // the fake does not filter by field
		var fields string
		switch a := action.(type) {
		case clienttesting.ListActionImpl:
			fields = a.ListRestrictions.Fields.String()
		case clienttesting.WatchActionImpl:
			fields = a.WatchRestrictions.Fields.String()
		}
		if action.GetResource().Resource != "pods" {
			continue
		}
		if asked++; fields != "spec.nodeName="+testNode {
			t.Errorf("%s of pods with field selector %q", action.GetVerb(), fields)
		}
	}
	if asked == 0 {
		t.Error("pods were not asked for")
	}

	pods, addr := client.CoreV1().Pods("shop"), netip.MustParseAddr("10.0.0.5")
	if _, err := pods.Update(t.Context(), apiPod("web-0", "10.0.0.5"), metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	waitFor(t, store, "the pod's address", func(s *Snapshot) bool { return s.PodByIP(addr) != nil })
	if _, err := pods.Update(t.Context(), apiPod("web-0", "x"), metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	log.wait(t, "convert Pod shop/web-0: status.podIPs[0]")
	if store.Snapshot().PodByIP(addr) == nil {
		t.Error("the last good state is gone")
	}
	if err := pods.Delete(t.Context(), "web-0", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	waitFor(t, store, "the deletion", func(s *Snapshot) bool { return s.Pod(Name{"shop", "web-0"}) == nil })
}

func TestAPISourceWithoutANodeAsksForNoPods(t *testing.T) {
	t.Parallel()
	client := fake.NewClientset()
	source, err := newAPISource(client, nil, APIConfig{Store: NewStore()})
	if err != nil {
		t.Fatal(err)
	}
	if n := len(source.watches()); n != 3 {
		t.Errorf("%d kinds watched, want Namespaces, EndpointSlices and Services", n)
	}
}

func TestAPISourceIsNotSyncedWithoutEveryKind(t *testing.T) {
	t.Parallel()
	for _, kind := range []string{"namespaces", "pods"} {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			client, log := fake.NewClientset(apiService("cart", "10.96.0.7")), newLogLines()
			client.PrependReactor("list", kind, func(clienttesting.Action) (bool, runtime.Object, error) {
				return true, nil, context.DeadlineExceeded
			})
			source, store := startAPI(t, client, log)
			log.wait(t, "watch failed")
			select {
			case <-source.Ready():
				t.Error("ready without " + kind)
			default:
			}
			if store.Snapshot().Synced() {
				t.Error("synced without " + kind)
			}
		})
	}
}
