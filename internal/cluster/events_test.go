package cluster

import (
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"
)

func listEvents(t *testing.T, client *fake.Clientset, namespace string) []corev1.Event {
	t.Helper()
	synctest.Wait()
	list, err := client.CoreV1().Events(namespace).List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return list.Items
}

func TestEventsAreAboutPodsAndTheNode(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		client := fake.NewClientset()
		e := newEvents(client, EventsConfig{NodeName: testNode, Log: slog.New(slog.DiscardHandler)})
		e.Warn(Object{}, "VSwitchFull", "vsw-a has no address left") // before it runs
		defer run(t, e)()
		pod := Pod{Name: Name{"shop", "cart-0"}, UID: "u1"}
		e.Warn(pod.Object(), "UnknownAnnotation", strings.Repeat("ä", maxEventMessage))

		about := listEvents(t, client, "shop")
		if len(about) != 1 || about[0].InvolvedObject.Kind != "Pod" || about[0].InvolvedObject.Name != "cart-0" || about[0].InvolvedObject.UID != "u1" {
			t.Fatalf("events %+v", about)
		}
		if got := about[0].Message; got != strings.Repeat("ä", maxEventMessage/2) {
			t.Errorf("a long message became %d bytes", len(got))
		}
		about = listEvents(t, client, metav1.NamespaceDefault)
		if len(about) != 1 {
			t.Fatalf("events %+v", about)
		}
		ev := about[0]
		ref := corev1.ObjectReference{APIVersion: "v1", Kind: "Node", Name: testNode, UID: testNode}
		if ev.InvolvedObject != ref || ev.Reason != "VSwitchFull" || ev.Type != corev1.EventTypeWarning || ev.Source.Host != testNode {
			t.Errorf("event %+v", ev)
		}
	})
}

// TestEventsOfAPublisher: about what names are published for, and nothing about what the API does not have.
func TestEventsOfAPublisher(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		client := fake.NewClientset()
		e := newEvents(client, EventsConfig{Component: "publisher", Log: slog.New(slog.DiscardHandler)})
		defer run(t, e)()
		versions := map[string]string{
			"Service": "v1", "Ingress": "networking.k8s.io/v1", "HTTPRoute": "gateway.networking.k8s.io/v1",
			"DNSEndpoint": "externaldns.k8s.io/v1alpha1",
		}
		for kind := range versions {
			e.Warn(Object{Kind: kind, Name: Name{"shop", strings.ToLower(kind)}, UID: "u1"}, "NoZone", "no zone for cart.example")
		}
		e.Warn(Object{Kind: "Node", Name: Name{"", "node-b"}, UID: "u2"}, "NoZone", "no zone for node-b")
		e.Warn(Object{Kind: "PrivateZone", Name: Name{"", "z1"}}, "ZoneNotFound", "z1")
		e.Warn(Object{}, "Unheard", "of no node")

		about := listEvents(t, client, "shop")
		if len(about) != len(versions) {
			t.Errorf("%d events, want %d: %+v", len(about), len(versions), about)
		}
		for _, ev := range about {
			o := ev.InvolvedObject
			if o.APIVersion != versions[o.Kind] || o.Name != strings.ToLower(o.Kind) || o.UID != "u1" || ev.Source.Component != "publisher" {
				t.Errorf("event %+v", ev)
			}
		}
		about = listEvents(t, client, metav1.NamespaceDefault)
		if len(about) != 1 || about[0].InvolvedObject.Name != "node-b" || about[0].InvolvedObject.APIVersion != "v1" {
			t.Errorf("events about no namespace: %+v", about)
		}
	})
}

// TestEventsOfManyNodes: what every node sees alike is one event, and another one when it is something else.
func TestEventsOfManyNodes(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		client := fake.NewClientset()
		svc := Service{Name: Name{"shop", strings.Repeat("c", 199) + "-art"}, UID: "u1"}
		for i := range 5 {
			e := newEvents(client, EventsConfig{NodeName: fmt.Sprint("node-", i), Log: slog.New(slog.DiscardHandler)})
			defer run(t, e)()
			e.WarnOnce(svc.Object(), "Malformed", "port 0")
			if i == 4 {
				e.WarnOnce(svc.Object(), "Malformed", "port 65536")
			}
		}
		got := listEvents(t, client, "shop")
		if len(got) != 2 {
			t.Fatalf("%d events, want 2: %+v", len(got), got)
		}
		for _, ev := range got {
			if ev.InvolvedObject.UID != "u1" || ev.Reason != "Malformed" || ev.Type != corev1.EventTypeWarning || ev.Count != 1 || ev.LastTimestamp.IsZero() {
				t.Errorf("event %+v", ev)
			}
			if errs := validation.IsDNS1123Subdomain(ev.Name); len(errs) > 0 {
				t.Errorf("event %s: %v", ev.Name, errs)
			}
		}
		client.ClearActions()
		e := newEvents(client, EventsConfig{NodeName: testNode, Log: slog.New(slog.DiscardHandler)})
		defer run(t, e)()
		for i := range eventQueue {
			e.WarnOnce(svc.Object(), "Malformed", fmt.Sprint("port ", i))
		}
		time.Sleep(time.Minute)
		if n := len(client.Actions()); n < 25 || n > 31 {
			t.Errorf("%d calls in a minute", n)
		}
	})
}

func TestEventsAreCountedAndLimited(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		client := fake.NewClientset()
		e := newEvents(client, EventsConfig{NodeName: testNode, Log: slog.New(slog.DiscardHandler)})
		defer run(t, e)()
		for range 5 {
			e.Warn(Object{}, "VSwitchFull", "vsw-a has no address left")
			time.Sleep(time.Second)
		}
		if got := listEvents(t, client, metav1.NamespaceDefault); len(got) != 1 || got[0].Count != 5 {
			t.Errorf("5 times the same are %d events: %+v", len(got), got)
		}
		client.ClearActions()
		for i := range 1000 {
			e.Warn(Object{}, "CloudCallFailed", fmt.Sprint("request ", i))
			time.Sleep(time.Millisecond)
		}
		synctest.Wait()
		if n := len(client.Actions()); n > 25 {
			t.Errorf("1000 events made %d calls", n)
		}
	})
}

func TestEventsSurviveAnAPIOutage(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		client, log := fake.NewClientset(), newLogLines()
		var away atomic.Bool
		away.Store(true)
		client.PrependReactor("create", "events", func(clienttesting.Action) (bool, runtime.Object, error) {
			if away.Load() {
				return true, nil, errors.New("away")
			}
			return false, nil, nil
		})
		e := newEvents(client, EventsConfig{NodeName: testNode, Log: slog.New(slog.NewTextHandler(log, nil))})
		for range eventQueue + 1 { // must not block, running or not
			e.Warn(Object{}, "VSwitchFull", "vsw-a has no address left")
		}
		if log.count("event dropped") != 1 {
			t.Errorf("dropped %d", log.count("event dropped"))
		}
		defer run(t, e)()
		time.Sleep(30 * time.Second)
		away.Store(false)
		time.Sleep(time.Minute)
		if got := listEvents(t, client, metav1.NamespaceDefault); len(got) != 1 {
			t.Errorf("%d events after the API came back", len(got))
		}
	})
}

// Whoever records events declares what it needs; both satisfy it.
func TestNoEvents(t *testing.T) {
	t.Parallel()
	type recorder interface {
		Warn(about Object, reason, message string)
		WarnOnce(about Object, reason, message string)
	}
	for _, r := range []recorder{NoEvents{}, newEvents(fake.NewClientset(), EventsConfig{})} {
		r.Warn(Object{}, "VSwitchFull", "vsw-a has no address left")
	}
}
