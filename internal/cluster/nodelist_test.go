package cluster

import (
	"fmt"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"
)

func nodeWith(name, providerID string) *corev1.Node {
	return &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.NodeSpec{ProviderID: providerID}}
}

func TestNodeInstances(t *testing.T) {
	t.Parallel()
	client := fake.NewClientset(nodeWith("a", "cn-hangzhou.i-1"), nodeWith("b", "alicloud://cn-hangzhou.i-2"))
	got, err := nodeInstances(t.Context(), client)
	if err != nil || len(got) != 2 || !got["i-1"] || !got["i-2"] {
		t.Errorf("listed %v (%v), want i-1 and i-2", got, err)
	}
	for _, id := range []string{"", "cn-hangzhou", "aws:///zone/x-1"} {
		client := fake.NewClientset(nodeWith("a", "cn-hangzhou.i-1"), nodeWith("odd", id))
		if got, err := nodeInstances(t.Context(), client); err == nil || !strings.Contains(err.Error(), "odd") {
			t.Errorf("provider ID %q: listed %v (%v), want an error that names the node", id, got, err)
		}
	}
}

// TestNodeInstancesReadsEveryPage: a cluster has more nodes than one answer holds.
func TestNodeInstancesReadsEveryPage(t *testing.T) {
	t.Parallel()
	client, calls := fake.NewClientset(), 0
	client.PrependReactor("list", "nodes", func(clienttesting.Action) (bool, runtime.Object, error) {
		calls++
		page := &corev1.NodeList{Items: []corev1.Node{*nodeWith("n", fmt.Sprintf("r.i-%d", calls))}}
		if calls < 3 {
			page.Continue = "more"
		}
		return true, page, nil
	})
	if got, err := nodeInstances(t.Context(), client); err != nil || len(got) != 3 {
		t.Errorf("listed %v (%v), want three pages", got, err)
	}
}
