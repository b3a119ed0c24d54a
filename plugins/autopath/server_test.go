package autopath

import (
	"encoding/json"
	"fmt"
	"net"
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

// startServer runs CoreDNS with a server block for each body until the test ends, and returns their addresses. The plugin
// `kubernetes` sets up the process's log, which it cannot do again while something of an earlier server may still write to it.
func startServer(t *testing.T, bodies []string) []string {
	t.Helper()
	var corefile strings.Builder
	var servers []string
	var held []net.PacketConn // so that each has a port of its own
	for _, body := range bodies {
		conn, err := net.ListenPacket("udp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		servers = append(servers, conn.LocalAddr().String())
		_, port, _ := net.SplitHostPort(servers[len(servers)-1])
		fmt.Fprintf(&corefile, ".:%s {\n bind 127.0.0.1\n%s\n}\n", port, body)
		held = append(held, conn)
	}
	for _, conn := range held {
		conn.Close()
	}
	dnsserver.Quiet, caddy.Quiet = true, true
	instance, err := caddy.Start(caddy.CaddyfileInput{Contents: []byte(corefile.String()), Filepath: "Corefile", ServerTypeName: "dns"})
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

const external, service = "www.example.test.shop.svc.cluster.local.", "cart.other.shop.svc.cluster.local."

// kubeconfigFor leads to an API.
func kubeconfigFor(t *testing.T, api *apiServer) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "kubeconfig")
	text := "apiVersion: v1\nkind: Config\nclusters: [{name: c, cluster: {server: \"" + api.url +
		"\"}}]\ncontexts: [{name: c, context: {cluster: c}}]\ncurrent-context: c\n"
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// Every way to know how clients search, with the plugins that serve clusters, in a whole server.
func TestServer(t *testing.T) {
	api, moving := startAPI(t, running("client", "shop", "127.0.0.1")), startAPI(t, running("client", "shop", "127.0.0.1"))
	kubeconfig := kubeconfigFor(t, api)
	resolv := filepath.Join(t.TempDir(), "resolv.conf")
	if err := os.WriteFile(resolv, []byte("search shop.svc.cluster.local svc.cluster.local cluster.local\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	own := func(api *apiServer) string {
		return "autopath @kubernetes\n kubernetes cluster.local {\n endpoint " + api.url + "\n}" + behind
	}
	cases := []struct{ name, body string }{
		{"kubernetes, our index", own(api)},
		{"kubernetes by kubeconfig, our index", "autopath @kubernetes\n kubernetes cluster.local {\n kubeconfig " + kubeconfig + "\n}" + behind},
		{
			"kubernetes, its index",
			"autopath @kubernetes {\n index plugin\n}\n kubernetes cluster.local {\n endpoint " + api.url + "\n pods verified\n}" + behind,
		},
		{
			"nearpath",
			"autopath cluster.local @nearpath {\n index pods " + kubeconfig + "\n}\n nearpath cluster.local {\n kubeconfig " + kubeconfig + "\n}" + behind,
		},
		{"a resolv.conf", "autopath " + resolv + "\n kubernetes cluster.local {\n endpoint " + api.url + "\n}" + behind},
		{"pods that come and go", own(moving)},
	}
	var bodies []string
	for _, c := range cases {
		bodies = append(bodies, c.body)
	}
	servers := startServer(t, bodies)
	for i, c := range cases {
		t.Run(c.name, func(t *testing.T) { checkSearch(t, servers[i]) })
	}
	t.Run("an address that changes hands", func(t *testing.T) { checkReuse(t, moving, servers[len(servers)-1]) })
}

func checkSearch(t *testing.T, server string) {
	t.Helper()
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
}

// checkReuse lets pods in turn have the address of the client: one that has completed, which the stock index gives the
// address as well as the next, one that is in the host network, and two at once.
func checkReuse(t *testing.T, api *apiServer, server string) {
	t.Helper()
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
		"a node that nobody is":         {".:0 {\n bind 127.0.0.1\n autopath @hosts {\n index node\n}\n hosts\n}\n", "does not know its clients"},
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
