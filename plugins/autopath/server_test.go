package autopath

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/coredns/caddy"
	"github.com/coredns/coredns/core/dnsserver"
	_ "github.com/coredns/coredns/plugin/bind"
	_ "github.com/coredns/coredns/plugin/cache"
	_ "github.com/coredns/coredns/plugin/hosts"
	_ "github.com/coredns/coredns/plugin/metadata"
	"github.com/miekg/dns"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	_ "github.com/nearpath/nearpath/plugins/nearpath"
)

// An apiServer is as much of one as watches of these objects need.
type apiServer struct {
	url string

	mu      sync.Mutex // guards what follows
	pods    []*corev1.Pod
	events  []metav1.WatchEvent // of pods, since the start
	changed chan struct{}       // closed and replaced when there is another event
}

func startAPI(t *testing.T, pods ...*corev1.Pod) *apiServer {
	t.Helper()
	a := &apiServer{pods: pods, changed: make(chan struct{})}
	s := httptest.NewServer(a)
	t.Cleanup(s.Close)
	t.Cleanup(s.CloseClientConnections)
	a.url = s.URL
	return a
}

func (a *apiServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
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

func (a *apiServer) list(kind string) any {
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

func (a *apiServer) watch(w http.ResponseWriter, r *http.Request, kind string) {
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

func (a *apiServer) send(t *testing.T, kind string, p *corev1.Pod) {
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

// startServer runs CoreDNS until the test ends, and returns its address.
func startServer(t *testing.T, corefile string) string {
	t.Helper()
	dnsserver.Quiet, caddy.Quiet = true, true
	instance, err := caddy.Start(caddy.CaddyfileInput{Contents: []byte(corefile), Filepath: "Corefile", ServerTypeName: "dns"})
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
	return instance.Servers()[0].LocalAddr().String()
}

// lookup returns what 127.0.0.1 gets: the target of the CNAME in front, or the status.
func lookup(t *testing.T, server, name string, qtype uint16) string {
	t.Helper()
	reply, err := dns.Exchange(new(dns.Msg).SetQuestion(name, qtype), server)
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

// until waits for a condition of what the server knows.
func until(t *testing.T, want string, got func() string) {
	t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for last := got(); last != want; last = got() {
		if time.Now().After(deadline) {
			t.Fatalf("still %q, want %q", last, want)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

const behind = `
	cache 30
	metadata
	hosts {
		192.0.2.1 www.example.test
		fallthrough
	}
`

// One test after the other: a server is the whole process's.
func TestServer(t *testing.T) {
	const external, service = "www.example.test.shop.svc.cluster.local.", "cart.other.shop.svc.cluster.local."
	kubeconfig := func(api *apiServer) string {
		path := filepath.Join(t.TempDir(), "kubeconfig")
		text := "apiVersion: v1\nkind: Config\nclusters: [{name: c, cluster: {server: \"" + api.url +
			"\"}}]\ncontexts: [{name: c, context: {cluster: c}}]\ncurrent-context: c\n"
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	for name, corefile := range map[string]func(*apiServer) string{
		"kubernetes, our index": func(a *apiServer) string {
			return "autopath @kubernetes\n kubernetes cluster.local {\n endpoint " + a.url + "\n}"
		},
		"kubernetes by kubeconfig, our index": func(a *apiServer) string {
			return "autopath @kubernetes\n kubernetes cluster.local {\n kubeconfig " + kubeconfig(a) + "\n}"
		},
		"kubernetes, its index": func(a *apiServer) string {
			return "autopath @kubernetes {\n index plugin\n}\n kubernetes cluster.local {\n endpoint " + a.url + "\n pods verified\n}"
		},
		"nearpath": func(a *apiServer) string {
			path := kubeconfig(a)
			return "autopath cluster.local @nearpath {\n index pods " + path + "\n}\n nearpath cluster.local {\n kubeconfig " + path + "\n}"
		},
		"a resolv.conf": func(a *apiServer) string {
			path := filepath.Join(t.TempDir(), "resolv.conf")
			if err := os.WriteFile(path, []byte("search shop.svc.cluster.local svc.cluster.local cluster.local\n"), 0o600); err != nil {
				t.Fatal(err)
			}
			return "autopath " + path + "\n kubernetes cluster.local {\n endpoint " + a.url + "\n}"
		},
	} {
		t.Run(name, func(t *testing.T) {
			api := startAPI(t, running("client", "shop", "127.0.0.1"))
			server := startServer(t, ".:0 {\n bind 127.0.0.1\n"+corefile(api)+behind+"}\n")
			until(t, "www.example.test.", func() string { return lookup(t, server, external, dns.TypeA) })
			for range 2 { // the second time from the cache
				if got := lookup(t, server, service, dns.TypeA); got != "cart.other.svc.cluster.local." {
					t.Errorf("Service of another namespace: %s", got)
				}
				if got := lookup(t, server, service, dns.TypeAAAA); got != "NOERROR" {
					t.Errorf("its AAAA: %s", got)
				}
				if got := lookup(t, server, "no.such.blue.svc.cluster.local.", dns.TypeA); got != "NXDOMAIN" {
					t.Errorf("a name of another namespace: %s", got)
				}
			}
		})
	}
}

// The address of a pod that has completed is another's by now, which the stock index gives to either.
func TestServerFollowsPods(t *testing.T) {
	api := startAPI(t, running("client", "shop", "127.0.0.1"))
	server := startServer(t, ".:0 {\n bind 127.0.0.1\n autopath @kubernetes\n kubernetes cluster.local {\n endpoint "+api.url+"\n}"+behind+"}\n")
	from := func(namespace string) func() string {
		return func() string {
			return lookup(t, server, "www.example.test."+namespace+".svc.cluster.local.", dns.TypeA)
		}
	}
	until(t, "www.example.test.", from("shop"))
	done := running("client", "shop", "127.0.0.1")
	done.Status.Phase = corev1.PodSucceeded
	api.send(t, "MODIFIED", done)
	until(t, "NXDOMAIN", from("shop"))
	api.send(t, "ADDED", running("next", "blue", "127.0.0.1"))
	until(t, "www.example.test.", from("blue"))
	if got := from("shop")(); got != "NXDOMAIN" {
		t.Errorf("the old search: %s", got)
	}
	api.send(t, "ADDED", running("third", "shop", "127.0.0.1"))
	until(t, "NXDOMAIN", from("blue"))
	host := running("host", "shop", "127.0.0.1")
	host.Spec.HostNetwork = true
	api.send(t, "ADDED", host)
	api.send(t, "DELETED", running("third", "shop", "127.0.0.1"))
	until(t, "www.example.test.", from("blue"))
}

func TestServerRefuses(t *testing.T) {
	for name, tt := range map[string]struct{ corefile, want string }{
		"a domain that is not known":    {".:0 {\n bind 127.0.0.1\n autopath @hosts\n hosts\n}\n", "domain is not known"},
		"a plugin without AutoPath":     {".:0 {\n bind 127.0.0.1\n autopath @hosts {\n index plugin\n}\n hosts\n}\n", "does not implement the AutoPather interface"},
		"a kubeconfig that is missing":  {".:0 {\n bind 127.0.0.1\n autopath c.test @hosts {\n index pods /nonexistent\n}\n hosts\n}\n", "/nonexistent"},
		"a resolv.conf that is missing": {".:0 {\n bind 127.0.0.1\n autopath kubernetes\n}\n", "open kubernetes:"},
	} {
		t.Run(name, func(t *testing.T) {
			dnsserver.Quiet, caddy.Quiet = true, true
			instance, err := caddy.Start(caddy.CaddyfileInput{Contents: []byte(tt.corefile), Filepath: "Corefile", ServerTypeName: "dns"})
			if err == nil {
				_ = instance.Stop()
			}
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error %v, want %q", err, tt.want)
			}
		})
	}
}
