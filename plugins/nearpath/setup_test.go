package nearpath

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/coredns/caddy"
	"github.com/coredns/coredns/core/dnsserver"
	"github.com/miekg/dns"

	"github.com/nearpath/nearpath/nodelocaldns"
)

func TestParse(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		in         string
		zones      []string
		ttl        uint32
		manifests  string
		kubeconfig string
		wantErr    string
	}{
		"defaults":                  {in: "nearpath cluster.local", zones: []string{"cluster.local."}, ttl: 5, kubeconfig: "unset"},
		"reverse zones":             {in: "nearpath cluster.local 10.0.0.0/8 ip6.arpa", zones: []string{"cluster.local.", "10.in-addr.arpa.", "ip6.arpa."}, ttl: 5, kubeconfig: "unset"},
		"ttl":                       {in: "nearpath cluster.local {\n ttl 0\n}", zones: []string{"cluster.local."}, kubeconfig: "unset"},
		"manifests":                 {in: "nearpath cluster.local {\n manifests /m\n}", zones: []string{"cluster.local."}, ttl: 5, manifests: "/m", kubeconfig: "unset"},
		"kubeconfig":                {in: "nearpath cluster.local {\n kubeconfig /k\n}", zones: []string{"cluster.local."}, ttl: 5, kubeconfig: "/k"},
		"service account":           {in: "nearpath cluster.local {\n kubeconfig\n}", zones: []string{"cluster.local."}, ttl: 5},
		"no zones":                  {in: "nearpath", wantErr: "the cluster's domain is not among them"},
		"root":                      {in: "nearpath . cluster.local", wantErr: "or the root is"},
		"reverse only":              {in: "nearpath in-addr.arpa", wantErr: "the cluster's domain is not among them"},
		"twice":                     {in: "nearpath a.b\nnearpath c.d", wantErr: "once per Server Block"},
		"ttl too long":              {in: "nearpath a.b {\n ttl 3601\n}", wantErr: "3601"},
		"ttl of two words":          {in: "nearpath a.b {\n ttl 1 2\n}", wantErr: "argument"},
		"two sources":               {in: "nearpath a.b {\n manifests /m\n kubeconfig /k\n}", wantErr: "a source is set already"},
		"manifests of no directory": {in: "nearpath a.b {\n manifests\n}", wantErr: "argument"},
		"unknown property":          {in: "nearpath a.b {\n pods verified\n}", wantErr: `unknown property "pods"`},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			n, from, err := parse(caddy.NewTestController("dns", tt.in))
			if tt.wantErr != "" {
				if err == nil || !strings.Contains(err.Error(), tt.wantErr) {
					t.Errorf("error %v, want %q", err, tt.wantErr)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			kubeconfig := "unset"
			if from.kubeconfig != nil {
				kubeconfig = *from.kubeconfig
			}
			if !slices.Equal(n.Zones, tt.zones) || from.manifests != tt.manifests || kubeconfig != tt.kubeconfig {
				t.Errorf("zones %q, manifests %q, kubeconfig %q", n.Zones, from.manifests, kubeconfig)
			}
			if want := []nodelocaldns.Zone{{Domain: "cluster.local.", TTL: tt.ttl}}; !slices.Equal(n.Domains, want) {
				t.Errorf("domains %+v, want %+v", n.Domains, want)
			}
		})
	}
}

func TestDirectiveOrder(t *testing.T) {
	t.Parallel()
	at := func(directive string) int { return slices.Index(dnsserver.Directives, directive) }
	if at(name) < 0 || at(name) > at("cache") || at(name) < at("rewrite") || at(name) < at("errors") {
		t.Errorf("nearpath stands at %d of %q", at(name), dnsserver.Directives)
	}
}

// One test after the other: they share what Provide sets.
func TestSources(t *testing.T) {
	t.Cleanup(func() { provided.Store(nil) })
	if err := setup(caddy.NewTestController("dns", "nearpath cluster.local")); err == nil || !strings.Contains(err.Error(), "no source") {
		t.Errorf("without any source: %v", err)
	}
	Provide(testStore().Snapshot)
	if err := setup(caddy.NewTestController("dns", "nearpath cluster.local")); err != nil {
		t.Errorf("with a Snapshot provided: %v", err)
	}
	if err := setup(caddy.NewTestController("dns", "nearpath cluster.local {\n kubeconfig /nonexistent\n}")); err == nil || !strings.Contains(err.Error(), "/nonexistent") {
		t.Errorf("with a kubeconfig that is missing: %v", err)
	}
}

func TestManifestsRunAsLongAsTheServer(t *testing.T) {
	dir := t.TempDir()
	manifest := "apiVersion: v1\nkind: Service\nmetadata: {name: cart, namespace: shop}\nspec: {clusterIP: 10.96.0.7}\n"
	if err := os.WriteFile(filepath.Join(dir, "cart.yaml"), []byte(manifest), 0o600); err != nil {
		t.Fatal(err)
	}
	corefile := ".:0 {\n bind 127.0.0.1\n nearpath cluster.local {\n manifests " + dir + "\n }\n}\n"
	dnsserver.Quiet, caddy.Quiet = true, true
	start := time.Now()
	instance, err := caddy.Start(caddy.CaddyfileInput{Contents: []byte(corefile), Filepath: "Corefile", ServerTypeName: "dns"})
	if err != nil {
		t.Fatal(err)
	}
	if took := time.Since(start); took > startupTimeout {
		t.Errorf("starting took %s, although the source was ready", took)
	}
	question := new(dns.Msg).SetQuestion("cart.shop.svc.cluster.local.", dns.TypeA)
	reply, err := dns.Exchange(question, instance.Servers()[0].LocalAddr().String())
	if err != nil || len(reply.Answer) != 1 {
		t.Errorf("right after the start: %v, %v", reply, err)
	}
	start = time.Now()
	for _, err := range instance.ShutdownCallbacks() {
		t.Error(err)
	}
	if err := instance.Stop(); err != nil {
		t.Error(err)
	}
	if took := time.Since(start); took > startupTimeout {
		t.Errorf("stopping took %s", took)
	}
}
