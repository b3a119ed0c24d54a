package autopath

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/coredns/caddy"
	"github.com/coredns/coredns/core/dnsserver"
	_ "github.com/coredns/coredns/plugin/bind"
	_ "github.com/coredns/coredns/plugin/cache"
	_ "github.com/coredns/coredns/plugin/hosts"
	_ "github.com/coredns/coredns/plugin/metadata"
	_ "github.com/coredns/coredns/plugin/template"
	"github.com/miekg/dns"
	corev1 "k8s.io/api/core/v1"

	"github.com/nearpath/nearpath/plugins/autopath/autopathtest"
	_ "github.com/nearpath/nearpath/plugins/nearpath"
)

// lookup is what 127.0.0.1 gets.
func lookup(t *testing.T, server, name string, qtype uint16) string {
	t.Helper()
	return autopathtest.Lookup(t, "127.0.0.1", server, name, qtype)
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
func kubeconfigFor(t *testing.T, api *autopathtest.API) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "kubeconfig")
	text := "apiVersion: v1\nkind: Config\nclusters: [{name: c, cluster: {server: \"" + api.URL +
		"\"}}]\ncontexts: [{name: c, context: {cluster: c}}]\ncurrent-context: c\n"
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// Every way to know how clients search, with the plugins that serve clusters, in a whole server.
func TestServer(t *testing.T) {
	api, moving := autopathtest.StartAPI(t, running("client", "shop", "127.0.0.1")), autopathtest.StartAPI(t, running("client", "shop", "127.0.0.1"))
	kubeconfig := kubeconfigFor(t, api)
	resolv := filepath.Join(t.TempDir(), "resolv.conf")
	if err := os.WriteFile(resolv, []byte("search shop.svc.cluster.local svc.cluster.local cluster.local\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	own := func(api *autopathtest.API) string {
		return "autopath @kubernetes\n kubernetes cluster.local {\n endpoint " + api.URL + "\n}"
	}
	cases := []struct{ name, body string }{
		{"kubernetes, our index", own(api) + behind},
		{"kubernetes by kubeconfig, our index", "autopath @kubernetes\n kubernetes cluster.local {\n kubeconfig " + kubeconfig + "\n}" + behind},
		{
			"kubernetes, its index",
			"autopath @kubernetes {\n index plugin\n}\n kubernetes cluster.local {\n endpoint " + api.URL + "\n pods verified\n}" + behind,
		},
		{
			"nearpath",
			"autopath cluster.local @nearpath {\n index pods " + kubeconfig + "\n}\n nearpath cluster.local {\n kubeconfig " + kubeconfig + "\n}" + behind,
		},
		{"a resolv.conf", "autopath " + resolv + "\n kubernetes cluster.local {\n endpoint " + api.URL + "\n}" + behind},
		{"pods that come and go", own(moving) + behind},
	}
	var bodies []string
	for _, c := range cases {
		bodies = append(bodies, c.body)
	}
	scenarios := autopathtest.Scenarios()
	counts := make([]int, len(scenarios))
	for i, s := range scenarios {
		add := s.Servers(t, own)
		counts[i], bodies = len(add), append(bodies, add...)
	}
	servers := autopathtest.Serve(t, bodies)
	for i, s := range scenarios {
		first := len(servers) - sum(counts[i:])
		t.Run(s.Name, func(t *testing.T) {
			if got := s.Play(t, servers[first:first+counts[i]]); got != s.Want {
				t.Errorf("%s, want %s", got, s.Want)
			}
		})
	}
	for i, c := range cases {
		t.Run(c.name, func(t *testing.T) { checkSearch(t, servers[i]) })
	}
	t.Run("an address that changes hands", func(t *testing.T) { checkReuse(t, moving, servers[len(cases)-1]) })
}

func sum(counts []int) (n int) {
	for _, c := range counts {
		n += c
	}
	return n
}

func checkSearch(t *testing.T, server string) {
	t.Helper()
	autopathtest.Until(t, "www.example.test.", func() string { return lookup(t, server, external, dns.TypeA) })
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
func checkReuse(t *testing.T, api *autopathtest.API, server string) {
	t.Helper()
	from := func(namespace string) func() string {
		return func() string {
			return lookup(t, server, "www.example.test."+namespace+".svc.cluster.local.", dns.TypeA)
		}
	}
	autopathtest.Until(t, "www.example.test.", from("shop"))
	done := running("client", "shop", "127.0.0.1")
	done.Status.Phase = corev1.PodSucceeded
	api.Send(t, "MODIFIED", done)
	autopathtest.Until(t, "NXDOMAIN", from("shop"))
	api.Send(t, "ADDED", running("next", "blue", "127.0.0.1"))
	autopathtest.Until(t, "www.example.test.", from("blue"))
	if got := from("shop")(); got != "NXDOMAIN" {
		t.Errorf("the old search: %s", got)
	}
	api.Send(t, "ADDED", running("third", "shop", "127.0.0.1"))
	autopathtest.Until(t, "NXDOMAIN", from("blue"))
	host := running("host", "shop", "127.0.0.1")
	host.Spec.HostNetwork = true
	api.Send(t, "ADDED", host)
	api.Send(t, "DELETED", running("third", "shop", "127.0.0.1"))
	autopathtest.Until(t, "www.example.test.", from("blue"))
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
