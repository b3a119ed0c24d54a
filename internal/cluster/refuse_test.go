package cluster

import (
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"
	"k8s.io/client-go/tools/cache"
)

// warnings collects what users are told.
type warnings struct {
	mu   sync.Mutex
	said map[Object][]string
}

func (w *warnings) warn(about Object, reason, message string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.said == nil {
		w.said = map[Object][]string{}
	}
	w.said[about] = append(w.said[about], reason+": "+message)
}

func (w *warnings) about(o Object) []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.said[o])
}

// malformed are objects that no proxy can make sense of, by what the error says of each.
func malformed() map[string]runtime.Object {
	service := func(spec corev1.ServiceSpec) *corev1.Service { return &corev1.Service{Spec: spec} }
	port := func(p int32) corev1.ServiceSpec {
		return corev1.ServiceSpec{ClusterIP: "10.96.0.9", Ports: []corev1.ServicePort{{Port: p}}}
	}
	slice := func(family discoveryv1.AddressType, port int32, protocol corev1.Protocol, addrs ...string) *discoveryv1.EndpointSlice {
		s := &discoveryv1.EndpointSlice{AddressType: family, Ports: []discoveryv1.EndpointPort{{Name: new(""), Port: &port, Protocol: &protocol}}}
		s.Endpoints = []discoveryv1.Endpoint{{Addresses: addrs}}
		return s
	}
	ranges := port(80)
	ranges.LoadBalancerSourceRanges = []string{"10.0.0.0/33"}
	external := port(80)
	external.ExternalIPs = []string{"203.0.113"}
	quic := port(80)
	quic.Ports[0].Protocol = "QUIC"
	return map[string]runtime.Object{
		"loadBalancerSourceRanges[0]":       service(ranges),
		"spec.externalIPs[0]":               service(external),
		"spec.clusterIP[0]":                 service(corev1.ServiceSpec{ClusterIP: "10.96.0"}),
		"spec.ports[0].port: 0":             service(port(0)),
		"spec.ports[0].port: 70000":         service(port(70000)),
		`spec.ports[0].protocol: "QUIC"`:    service(quic),
		"endpoints[0].addresses: empty":     slice(discoveryv1.AddressTypeIPv4, 80, "TCP"),
		"endpoints[0].addresses[0]":         slice(discoveryv1.AddressTypeIPv4, 80, "TCP", "fd00::1"),
		"ports[0].port: 70000":              slice(discoveryv1.AddressTypeIPv4, 70000, "TCP", "10.0.0.1"),
		`ports[0].protocol: "QUIC" is not`:  slice(discoveryv1.AddressTypeIPv4, 80, "QUIC", "10.0.0.1"),
		`spec.cidrs[0]: "10.96.0.0/99" is`:  &networkingv1.ServiceCIDR{Spec: networkingv1.ServiceCIDRSpec{CIDRs: []string{"10.96.0.0/99"}}},
		`endpoints[0].addresses[0]: "a.b.c`: slice(discoveryv1.AddressTypeIPv4, 80, "TCP", "a.b.c.d"),
	}
}

// TestMalformedObjects holds what sources do with objects that cannot be converted: "malformed objects never disturb
// other Services". Each is good first, and then malformed beside objects that change.
func TestMalformedObjectsNeverDisturbOthers(t *testing.T) {
	t.Parallel()
	t.Log("malformed objects never disturb other Services")
	for want, bad := range malformed() {
		t.Run(want, func(t *testing.T) {
			t.Parallel()
			store, told := NewStore(), &warnings{}
			source, err := newAPISource(fake.NewClientset(), nil, APIConfig{Store: store, NodeName: testNode, Warn: told.warn, Log: discard()})
			if err != nil {
				t.Fatal(err)
			}
			objectMeta := meta("bad", discoveryv1.LabelServiceName, "bad")
			good := map[string]runtime.Object{
				"*v1.Service":       &corev1.Service{Spec: corev1.ServiceSpec{ClusterIP: "10.96.0.1"}},
				"*v1.EndpointSlice": apiSlice("bad", "bad", "10.0.0.1"),
				"*v1.ServiceCIDR":   &networkingv1.ServiceCIDR{Spec: networkingv1.ServiceCIDRSpec{CIDRs: []string{"10.96.0.0/12"}}},
			}[fmt.Sprintf("%T", bad)]
			for _, o := range []runtime.Object{good, bad} {
				named(o, objectMeta)
			}
			deliver(t, source, good)
			before := dumpOf(store.Snapshot())
			deliver(t, source, bad)
			deliver(t, source, named(apiService("other", "10.96.0.8"), meta("other")))
			after := store.Snapshot()
			if after.Service(Name{"shop", "other"}) == nil {
				t.Error("another Service did not get through")
			}
			got := dumpOf(after)
			delete(got.Services, Name{"shop", "other"})
			if fmt.Sprint(got.Services, got.ServiceSlices, got.ServiceCIDRs) != fmt.Sprint(before.Services, before.ServiceSlices, before.ServiceCIDRs) {
				t.Errorf("the last good state did not stay: %+v", got)
			}
			kind := strings.TrimPrefix(fmt.Sprintf("%T", bad), "*v1.")
			about := Object{Kind: kind, Name: Name{objectMeta.Namespace, "bad"}, UID: "u1"}
			if events := told.about(about); len(events) != 1 || !strings.HasPrefix(events[0], "Malformed: convert ") || !strings.Contains(events[0], want) {
				t.Errorf("events on %v are %q, want one that says %q", about, events, want)
			}
			if n := metricValue(t, source.refused.WithLabelValues(kind)); n != 1 {
				t.Errorf("%v refusals of %s are counted, want 1", n, kind)
			}
			err = source.Refused()
			if counts := kind != kindServiceCIDR; (err != nil) != counts || counts && !strings.Contains(err.Error(), want) {
				t.Errorf("refused as it stands: %v", err)
			}
			deliver(t, source, good)
			if err := source.Refused(); err != nil {
				t.Errorf("refused though it is good again: %v", err)
			}
		})
	}
}

func named(o runtime.Object, m metav1.ObjectMeta) runtime.Object {
	switch o := o.(type) {
	case *corev1.Service:
		o.ObjectMeta = m
	case *discoveryv1.EndpointSlice:
		o.ObjectMeta = m
	case *networkingv1.ServiceCIDR:
		o.ObjectMeta = m
	}
	return o
}

// TestHugeSlice: more endpoints than the control plane puts into a slice are no fault.
func TestHugeSlice(t *testing.T) {
	t.Parallel()
	in := apiSlice("web-1", "web", "10.0.0.1")
	for i := range 4999 {
		in.Endpoints = append(in.Endpoints, discoveryv1.Endpoint{Addresses: []string{netip.AddrFrom4([4]byte{10, 1, byte(i >> 8), byte(i)}).String()}})
	}
	slice, err := SliceFrom(in)
	if err != nil || len(slice.Endpoints) != 5000 {
		t.Errorf("got %v, %v, want 5000 endpoints", slice, err)
	}
}

// TestFileSourceRefusesABadObjectAlone: the same for manifests, as long as it is certain which object is meant.
func TestFileSourceRefusesABadObjectAlone(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	service := func(name, spec string) string {
		return "apiVersion: v1\nkind: Service\nmetadata: {name: " + name + ", namespace: ns}\nspec: {" + spec + "}\n---\n"
	}
	cidr := func(text string) string {
		return "apiVersion: networking.k8s.io/v1\nkind: ServiceCIDR\nmetadata: {name: kubernetes}\nspec: {cidrs: [" + text + "]}\n"
	}
	write(t, dir, "a.yaml", service("a", "clusterIP: 10.96.0.1")+service("b", "clusterIP: 10.96.0.2")+cidr("10.96.0.0/12"))
	f := startFiles(t, time.Hour, dir)
	<-f.source.Ready()
	write(t, dir, "a.yaml", service("a", "clusterIP: 10.96.0.3")+service("b", "ports: [{port: 0}]")+service("c", "clusterip: 1")+cidr("10.96.0.0/99"))
	waitFor(t, f.store, "the good Service beside bad ones", func(s *Snapshot) bool {
		svc := s.Service(Name{"ns", "a"})
		return svc != nil && svc.ClusterIPs[0] == netip.MustParseAddr("10.96.0.3")
	})
	s := f.store.Snapshot()
	if svc := s.Service(Name{"ns", "b"}); svc == nil || svc.ClusterIPs[0] != netip.MustParseAddr("10.96.0.2") {
		t.Errorf("the last good state of the bad Service is gone: %+v", svc)
	}
	if got := s.ServiceCIDRs(); !slices.Equal(got, []netip.Prefix{netip.MustParsePrefix("10.96.0.0/12")}) {
		t.Errorf("Service CIDRs are %v, want the last good ones", got)
	}
	if err := f.source.Refused(); err == nil || !strings.Contains(err.Error(), "ns/b") || !strings.Contains(err.Error(), "ns/c") || strings.Contains(err.Error(), "CIDR") {
		t.Errorf("refused as they stand: %v", err)
	}
	f.log.wait(t, "document 2: Service ns/b: spec.ports[0].port: 0 is not a port")
	f.log.wait(t, `document 3: Service ns/c: unknown field`)
	if got := metricValue(t, f.source.metrics.objects.WithLabelValues(kindService)); got != 2 {
		t.Errorf("%v Services are counted as refused, want 2", got)
	}
	write(t, dir, "a.yaml", service("a", "clusterIP: 10.96.0.3"))
	waitFor(t, f.store, "deletion of what was refused", has("a"))
	if err := f.source.Refused(); err != nil {
		t.Errorf("refused though all is good: %v", err)
	}
	if got := metricValue(t, f.source.metrics.stale); got != 0 {
		t.Errorf("stale is %v after all is good again", got)
	}
}

// TestAPISourceServiceCIDRs: they come where the API has them, and nobody waits for them where not, or where they are
// forbidden.
func TestAPISourceServiceCIDRs(t *testing.T) {
	t.Parallel()
	object := &networkingv1.ServiceCIDR{
		ObjectMeta: metav1.ObjectMeta{Name: "kubernetes"}, Spec: networkingv1.ServiceCIDRSpec{CIDRs: []string{"10.96.0.0/12", "fd00:96::/112"}},
	}
	client := fake.NewClientset(object)
	client.Resources = []*metav1.APIResourceList{{GroupVersion: "networking.k8s.io/v1", APIResources: []metav1.APIResource{{Name: "servicecidrs"}}}}
	source, store := startAPI(t, client, newLogLines())
	<-source.Ready()
	waitFor(t, store, "the Service CIDRs", func(s *Snapshot) bool { return len(s.ServiceCIDRs()) == 2 })

	forbidden := fake.NewClientset(object)
	forbidden.Resources = client.Resources
	forbidden.PrependReactor("list", "servicecidrs", func(clienttesting.Action) (bool, runtime.Object, error) {
		return true, nil, fmt.Errorf("forbidden")
	})
	source, _ = startAPI(t, forbidden, newLogLines())
	<-source.Ready()
	source, store = startAPI(t, fake.NewClientset(object), newLogLines())
	<-source.Ready()
	if got := store.Snapshot().ServiceCIDRs(); len(got) != 0 {
		t.Errorf("Service CIDRs are %v without the API", got)
	}
}

func discard() *slog.Logger { return slog.New(slog.DiscardHandler) }

// deliver hands an object to a source as the watch does.
func deliver(t *testing.T, s *APISource, o runtime.Object) {
	t.Helper()
	stripped, err := s.strip(o)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.process(cache.Deltas{{Type: cache.Updated, Object: stripped}}, false); err != nil {
		t.Fatal(err)
	}
}
