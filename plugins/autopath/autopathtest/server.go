// Package autopathtest has what tests of the plugin `autopath` need, of ours and of the stock one: a Kubernetes API, servers, and
// what has gone wrong with autopath before. It registers neither.
package autopathtest

import (
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/coredns/caddy"
	"github.com/coredns/coredns/core/dnsserver"
	"github.com/miekg/dns"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// Start is when pods began, unless they say otherwise.
func Start() time.Time { return time.Unix(1_000_000, 0) }

// Running is a pod as the API has it while it runs.
func Running(uid, namespace string, addrs ...string) *corev1.Pod {
	start := metav1.NewTime(Start())
	p := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: uid, UID: types.UID(uid), ResourceVersion: "1"},
		Status: corev1.PodStatus{
			Phase:             corev1.PodRunning,
			StartTime:         &start,
			ContainerStatuses: []corev1.ContainerStatus{{State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{}}}},
		},
	}
	for _, addr := range addrs {
		p.Status.PodIPs = append(p.Status.PodIPs, corev1.PodIP{IP: addr})
		p.Status.PodIP = p.Status.PodIPs[0].IP
	}
	return p
}

// An API is as much of a Kubernetes API server as watches of pods, Services, EndpointSlices and Namespaces need. There is one
// Service, cart in the namespace other.
type API struct {
	URL string

	mu      sync.Mutex // guards what follows
	pods    []*corev1.Pod
	events  []metav1.WatchEvent // of pods, since the start
	changed chan struct{}       // closed and replaced when there is another event
}

// StartAPI serves until the test ends.
func StartAPI(t *testing.T, pods ...*corev1.Pod) *API {
	t.Helper()
	a := &API{pods: pods, changed: make(chan struct{})}
	s := httptest.NewServer(a)
	t.Cleanup(s.Close)
	t.Cleanup(s.CloseClientConnections)
	a.URL = s.URL
	return a
}

// ServeHTTP implements http.Handler.
func (a *API) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "application/json")
	_, kind, _ := strings.Cut(strings.Trim(r.URL.Path, "/"), "v1/")
	if r.URL.Query().Get("sendInitialEvents") == "true" { // as an old server
		w.WriteHeader(http.StatusUnprocessableEntity)
		_ = json.NewEncoder(w).Encode(metav1.Status{
			TypeMeta: metav1.TypeMeta{Kind: "Status", APIVersion: "v1"},
			Status:   metav1.StatusFailure, Reason: metav1.StatusReasonInvalid, Code: http.StatusUnprocessableEntity,
		})
		return
	}
	if r.URL.Query().Get("watch") != "" {
		a.watch(w, r, kind)
		return
	}
	_ = json.NewEncoder(w).Encode(a.list(kind))
}

func (a *API) list(kind string) any {
	a.mu.Lock()
	defer a.mu.Unlock()
	meta := metav1.ListMeta{ResourceVersion: "1"}
	typed := func(kind, version string) metav1.TypeMeta { return metav1.TypeMeta{Kind: kind, APIVersion: version} }
	switch kind {
	case "pods":
		l := corev1.PodList{TypeMeta: typed("PodList", "v1"), ListMeta: meta, Items: []corev1.Pod{}}
		for _, p := range a.pods {
			l.Items = append(l.Items, *p)
		}
		return l
	case "services":
		cart := corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "other", Name: "cart", ResourceVersion: "1"}}
		cart.Spec.ClusterIP, cart.Spec.ClusterIPs = "10.96.0.7", []string{"10.96.0.7"}
		return corev1.ServiceList{TypeMeta: typed("ServiceList", "v1"), ListMeta: meta, Items: []corev1.Service{cart}}
	case "namespaces":
		l := corev1.NamespaceList{TypeMeta: typed("NamespaceList", "v1"), ListMeta: meta}
		for _, n := range []string{"other", "shop", "blue"} {
			l.Items = append(l.Items, corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: n, ResourceVersion: "1"}})
		}
		return l
	}
	return map[string]any{"kind": "EndpointSliceList", "apiVersion": "discovery.k8s.io/v1", "metadata": meta, "items": []any{}}
}

func (a *API) watch(w http.ResponseWriter, r *http.Request, kind string) {
	rc := http.NewResponseController(w)
	_ = rc.Flush()
	sent := 0
	for {
		a.mu.Lock()
		events, changed := a.events[sent:], a.changed
		a.mu.Unlock()
		for _, e := range events {
			sent++
			if kind == "pods" {
				_ = json.NewEncoder(w).Encode(e)
				_ = rc.Flush()
			}
		}
		select {
		case <-changed:
		case <-r.Context().Done():
			return
		}
	}
}

// Send is an event of a pod.
func (a *API) Send(t *testing.T, kind string, p *corev1.Pod) {
	t.Helper()
	p.TypeMeta = metav1.TypeMeta{Kind: "Pod", APIVersion: "v1"}
	raw, err := json.Marshal(p)
	if err != nil {
		t.Fatal(err)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	e := metav1.WatchEvent{Type: kind}
	e.Object.Raw = raw
	a.events = append(a.events, e)
	close(a.changed)
	a.changed = make(chan struct{})
}

// Serve runs CoreDNS with a server block for each body until the test ends, and returns their addresses. The plugin
// `kubernetes` sets up the process's log, which it cannot do again while something of an earlier server may still write to it.
func Serve(t *testing.T, bodies []string) []string {
	t.Helper()
	dnsserver.Quiet, caddy.Quiet = true, true
	for tries := 1; ; tries++ {
		servers, corefile := corefileFor(t, bodies)
		instance, err := caddy.Start(caddy.CaddyfileInput{Contents: []byte(corefile), Filepath: "Corefile", ServerTypeName: "dns"})
		if err != nil && tries < 5 && strings.Contains(err.Error(), "address already in use") { // by somebody quicker
			instance.ShutdownCallbacks()
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			for _, err := range instance.ShutdownCallbacks() {
				t.Error(err)
			}
			if err := instance.Stop(); err != nil {
				t.Error(err)
			}
		})
		return servers
	}
}

// corefileFor gives each body a port that is free for UDP and TCP at the moment.
func corefileFor(t *testing.T, bodies []string) (servers []string, corefile string) {
	t.Helper()
	var text strings.Builder
	for _, body := range bodies {
		for {
			packets, err := net.ListenPacket("udp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			defer packets.Close() // once each has a port of its own
			at := packets.LocalAddr().String()
			streams, err := net.Listen("tcp", at)
			if err != nil {
				continue
			}
			defer streams.Close()
			_, port, _ := net.SplitHostPort(at)
			fmt.Fprintf(&text, ".:%s {\n bind 127.0.0.1\n%s\n}\n", port, body)
			servers = append(servers, at)
			break
		}
	}
	return servers, text.String()
}

// Lookup returns what a client on the loopback network gets: the target of the CNAME in front, or the status.
func Lookup(t *testing.T, from, server, name string, qtype uint16) string {
	t.Helper()
	client := dns.Client{Timeout: 10 * time.Second, Dialer: &net.Dialer{LocalAddr: &net.UDPAddr{IP: net.ParseIP(from)}}}
	reply, _, err := client.Exchange(new(dns.Msg).SetQuestion(name, qtype), server)
	if err != nil {
		t.Fatal(err)
	}
	if len(reply.Answer) > 0 {
		if c, ok := reply.Answer[0].(*dns.CNAME); ok {
			return c.Target
		}
	}
	return dns.RcodeToString[reply.Rcode]
}

// Until waits for a condition of what the server knows.
func Until(t *testing.T, want string, got func() string) {
	t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for last := got(); last != want; last = got() {
		if time.Now().After(deadline) {
			t.Fatalf("still %q, want %q", last, want)
		}
		time.Sleep(10 * time.Millisecond)
	}
}
