package cluster

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// TestNodeLeaving: H2, when kube-proxy tells load balancers to send elsewhere.
func TestNodeLeaving(t *testing.T) {
	t.Parallel()
	taint := func(key string) corev1.Node {
		return corev1.Node{Spec: corev1.NodeSpec{Taints: []corev1.Taint{{Key: "other", Effect: corev1.TaintEffectNoSchedule}, {Key: key}}}}
	}
	for name, tt := range map[string]struct {
		node corev1.Node
		want bool
	}{
		"a node":               {taint("another"), false},
		"about to be deleted":  {taint("ToBeDeletedByClusterAutoscaler"), true},
		"being deleted":        {corev1.Node{ObjectMeta: metav1.ObjectMeta{DeletionTimestamp: &metav1.Time{Time: metav1.Now().Time}}}, true},
		"cordoned, for drains": {corev1.Node{Spec: corev1.NodeSpec{Unschedulable: true}}, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got, err := NodeFrom(&tt.node)
			if err != nil || got.Leaving != tt.want {
				t.Errorf("leaving: %v, %v", got.Leaving, err)
			}
			if stays := (&Node{}); tt.want && got.equal(&Node{Meta: got.Meta}) || !stays.equal(&Node{}) {
				t.Error("a node that leaves is equal to one that stays")
			}
		})
	}
}
