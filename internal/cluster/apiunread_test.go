package cluster

import (
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	clienttesting "k8s.io/client-go/testing"
)

// A role that does not allow what is read is an alarm for as long as it is so, and told once.
func TestAPISourceTellsOfWhatItMayNotRead(t *testing.T) {
	t.Parallel()
	client, custom := policyAPIs(t)
	forbidden := func(resource string) error {
		return apierrors.NewForbidden(schema.GroupResource{Group: "networking.k8s.io", Resource: resource}, "", errors.New("no role"))
	}
	var denied atomic.Bool
	denied.Store(true)
	client.PrependReactor("list", "networkpolicies", func(clienttesting.Action) (bool, runtime.Object, error) {
		return denied.Load(), nil, forbidden("networkpolicies")
	})
	told := make(chan string, 10)
	source, store := startPolicyAPI(t, client, custom, func(about Object, reason, message string) {
		told <- fmt.Sprint(about, reason, message)
	})
	if got := <-told; !strings.Contains(got, unreadReason) || !strings.Contains(got, "networkpolicies") {
		t.Errorf("told %q", got)
	}
	if err := source.Unread(); err == nil || !strings.Contains(err.Error(), "forbidden") {
		t.Errorf("unread: %v", err)
	}
	if got := metricValue(t, source.unread.WithLabelValues(kindNetworkPolicy)); got != 1 {
		t.Errorf("the metric is %v", got)
	}
	denied.Store(false)
	first(t, store)
	for source.Unread() != nil { // the watch begins a moment after the list
		time.Sleep(time.Millisecond)
	}
	if got := metricValue(t, source.unread.WithLabelValues(kindNetworkPolicy)); got != 0 {
		t.Errorf("the metric is %v when all can be read", got)
	}
	select {
	case more := <-told:
		t.Errorf("told more than once: %s", more)
	default:
	}
}
