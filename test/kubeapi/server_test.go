package kubeapi

import (
	"context"
	"fmt"
	"log/slog"
	"net/http/httptest"
	"slices"
	"testing"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/nearpath/nearpath/internal/cluster"
)

func service(name, ip string) *corev1.Service {
	return &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: name},
		Spec:       corev1.ServiceSpec{ClusterIP: ip, ClusterIPs: []string{ip}, Ports: []corev1.ServicePort{{Port: 80}}},
	}
}

// TestClientsFollow has the project's own reader of clusters follow the server: what is there, what changes, what it may
// not read for a while.
func TestClientsFollow(t *testing.T) {
	t.Parallel()
	api := New()
	for i := range 100 {
		if err := api.Put(service(fmt.Sprint("s", i), fmt.Sprint("10.96.0.", i+1))); err != nil {
			t.Fatal(err)
		}
	}
	server := httptest.NewServer(api)
	t.Cleanup(server.Close)
	store := cluster.NewNameStore()
	source, err := cluster.NewAPISource(cluster.APIConfig{
		REST: &rest.Config{Host: server.URL}, Store: store, Publish: []cluster.Kind{cluster.Services}, Log: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- source.Run(ctx) }()
	t.Cleanup(func() {
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	<-source.Ready()
	changes := store.Subscribe(cluster.Services)
	t.Cleanup(changes.Close)
	until := func(what string, holds func(*cluster.Snapshot) bool) {
		t.Helper()
		for {
			c, err := changes.Next(t.Context())
			if err != nil {
				t.Fatalf("%s: %v", what, err)
			}
			if holds(c.Snapshot) {
				return
			}
		}
	}
	count := func(s *cluster.Snapshot) int { return len(slices.Collect(s.Services())) }
	until("100 Services", func(s *cluster.Snapshot) bool { return count(s) == 100 })
	if err := api.Put(service("more", "10.96.1.1")); err != nil {
		t.Fatal(err)
	}
	until("one more", func(s *cluster.Snapshot) bool { return count(s) == 101 })

	api.Refuse(func(verb, resource string) bool { return resource == "services" })
	if err := api.Delete("Service", "shop", "s1"); err != nil {
		t.Fatal(err)
	}
	if n := count(store.Snapshot()); n != 101 {
		t.Errorf("%d Services while they may not be read", n)
	}
	api.Refuse(nil)
	until("one less", func(s *cluster.Snapshot) bool { return count(s) == 100 })
}

// TestWritersMeet: of two writers that have read the same only one wins, and what is there is not made twice.
func TestWritersMeet(t *testing.T) {
	t.Parallel()
	server := httptest.NewServer(New())
	t.Cleanup(server.Close)
	client, err := kubernetes.NewForConfig(&rest.Config{Host: server.URL})
	if err != nil {
		t.Fatal(err)
	}
	leases, ctx := client.CoordinationV1().Leases("kube-system"), t.Context()
	if _, err := leases.Get(ctx, "l", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("a Lease that there is not: %v", err)
	}
	lease := &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Name: "l"}}
	first, err := leases.Create(ctx, lease, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := leases.Create(ctx, lease, metav1.CreateOptions{}); !apierrors.IsAlreadyExists(err) {
		t.Errorf("made twice: %v", err)
	}
	if _, err := leases.Update(ctx, first.DeepCopy(), metav1.UpdateOptions{}); err != nil {
		t.Error(err)
	}
	if _, err := leases.Update(ctx, first.DeepCopy(), metav1.UpdateOptions{}); !apierrors.IsConflict(err) {
		t.Errorf("two updates of the same: %v", err)
	}
	patched, err := leases.Patch(ctx, "l", "application/merge-patch+json", []byte(`{"spec":{"holderIdentity":"me"}}`), metav1.PatchOptions{})
	if err != nil || *patched.Spec.HolderIdentity != "me" {
		t.Errorf("patched %+v, %v", patched, err)
	}
}
