package autopath

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/coredns/caddy"
	"github.com/coredns/coredns/core/dnsserver"
	"github.com/coredns/coredns/plugin/kubernetes"
	"github.com/coredns/coredns/plugin/test"
)

func TestParse(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		in      string
		want    config
		wantErr string
	}{
		// The first four are those of the stock plugin.
		"plugin":           {in: "autopath @kubernetes", want: config{plugin: "kubernetes"}},
		"zone":             {in: "autopath example.org @kubernetes", want: config{zones: []string{"example.org."}, plugin: "kubernetes"}},
		"reverse zone":     {in: "autopath 10.0.0.0/8 @kubernetes", want: config{zones: []string{"10.in-addr.arpa."}, plugin: "kubernetes"}},
		"file":             {in: "autopath /etc/r.conf", want: config{file: "/etc/r.conf"}},
		"plugin's index":   {in: "autopath @kubernetes {\n index plugin\n}", want: config{plugin: "kubernetes", index: indexPlugin}},
		"own index":        {in: "autopath @k8s {\n index pods\n}", want: config{plugin: "k8s", index: indexPods}},
		"own index of":     {in: "autopath @k8s {\n index pods /k\n}", want: config{plugin: "k8s", index: indexPods, kubeconfig: new("/k")}},
		"ndots":            {in: "autopath @kubernetes {\n ndots 2\n}", want: config{plugin: "kubernetes", ndots: 2}},
		"the node's index": {in: "autopath @nearpath {\n index node\n}", want: config{plugin: "nearpath", index: indexNode}},
		"search":           {in: "autopath @kubernetes {\n search a.test b.test\n}", want: config{plugin: "kubernetes", search: []string{"a.test", "b.test"}, searchSet: true}},
		"search nothing":   {in: "autopath @kubernetes {\n search\n}", want: config{plugin: "kubernetes", searchSet: true}},
		"domain":           {in: "autopath @kubernetes {\n domain Cluster.local.\n}", want: config{plugin: "kubernetes", domain: "cluster.local"}},
		"nothing":          {in: "autopath", wantErr: "no resolv-conf"},
		"empty":            {in: `autopath ""`, wantErr: "failed to parse"},
		"no plugin":        {in: `autopath @`, wantErr: "failed to parse"},
		"twice":            {in: "autopath @a\nautopath @b", wantErr: "once per Server Block"},
		"bad ndots":        {in: "autopath @a {\n ndots 16\n}", wantErr: `"16" is not within`},
		"two ndots":        {in: "autopath @a {\n ndots 1 2\n}", wantErr: "argument"},
		"bad index":        {in: "autopath @a {\n index files\n}", wantErr: "argument"},
		"file with index":  {in: "autopath /f {\n index pods\n}", wantErr: "needs none"},
		"bad search":       {in: "autopath @a {\n search a..b\n}", wantErr: `"a..b" is not a domain name`},
		"bad domain":       {in: "autopath @a {\n domain a..b\n}", wantErr: `"a..b" is not a domain name`},
		"unknown property": {in: "autopath @a {\n ttl 5\n}", wantErr: `unknown property "ttl"`},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got, err := parse(caddy.NewTestController("dns", tt.in))
			if tt.wantErr != "" {
				if err == nil || !strings.Contains(err.Error(), tt.wantErr) {
					t.Errorf("error %v, want %q", err, tt.wantErr)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if tt.want.ndots == 0 {
				tt.want.ndots = -1
			}
			sameFile := (got.kubeconfig == nil) == (tt.want.kubeconfig == nil) && (got.kubeconfig == nil || *got.kubeconfig == *tt.want.kubeconfig)
			if !slices.Equal(got.zones, tt.want.zones) || !slices.Equal(got.search, tt.want.search) || !sameFile {
				t.Errorf("%+v, want %+v", got, tt.want)
			}
			if got.file != tt.want.file || got.plugin != tt.want.plugin || got.index != tt.want.index ||
				got.ndots != tt.want.ndots || got.searchSet != tt.want.searchSet || got.domain != tt.want.domain {
				t.Errorf("%+v, want %+v", got, tt.want)
			}
		})
	}
}

// We stand where the stock plugin does: before the cache, which then holds every answer under its own name.
func TestDirectiveOrder(t *testing.T) {
	t.Parallel()
	at := func(directive string) int { return slices.Index(dnsserver.Directives, directive) }
	if at(name) < at("rewrite") || at(name) > at("cache") || at(name) > at("kubernetes") || at(name) < at("metadata") {
		t.Errorf("autopath stands at %d of %q", at(name), dnsserver.Directives)
	}
}

func TestFileScope(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for name, tt := range map[string]struct {
		text string
		cfg  config
		want string
	}{
		"search only":     {"search bar.com baz.com\n", config{ndots: -1}, "search bar.com.(local) baz.com. ndots 5"},
		"ndots":           {"search bar.com\noptions ndots:2\n", config{ndots: -1}, "search bar.com.(local) ndots 2"},
		"ndots of ours":   {"search bar.com\noptions ndots:2\n", config{ndots: 3}, "search bar.com.(local) ndots 3"},
		"search of ours":  {"search a.c\n", config{ndots: -1, search: []string{"d.test"}, domain: "c"}, "search a.c.(local) d.test. ndots 5"},
		"nothing to find": {"nameserver 192.0.2.1\n", config{ndots: -1}, "no search"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			tt.cfg.file = filepath.Join(dir, strings.ReplaceAll(name, " ", "-"))
			if err := os.WriteFile(tt.cfg.file, []byte(tt.text), 0o600); err != nil {
				t.Fatal(err)
			}
			scopes, err := fileScope(tt.cfg)
			if err != nil {
				t.Fatal(err)
			}
			if got := scopes.(fixed).scope.String(); got != tt.want {
				t.Errorf("%s, want %s", got, tt.want)
			}
		})
	}
	if _, err := fileScope(config{file: "kubernetes"}); err == nil || !strings.Contains(err.Error(), "open kubernetes:") {
		t.Errorf("a file that is missing: %v", err)
	}
}

func TestClusterDomain(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		cfg  config
		h    *kubernetes.Kubernetes
		want string
	}{
		"property":             {config{domain: "a.test", zones: []string{"b.test."}}, nil, "a.test"},
		"zones":                {config{zones: []string{"in-addr.arpa.", "b.test."}}, nil, "b.test"},
		"kubernetes' zones":    {config{zones: []string{"."}}, kubernetes.New([]string{"10.in-addr.arpa.", "Cluster.local."}), "cluster.local"},
		"zones before its own": {config{zones: []string{"b.test."}}, kubernetes.New([]string{"cluster.local."}), "cluster.local"},
		"none":                 {config{zones: []string{"."}}, nil, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got, err := clusterDomain(tt.cfg, test.ErrorHandler())
			if tt.h != nil {
				got, err = clusterDomain(tt.cfg, tt.h)
			}
			if got != tt.want || (err == nil) != (tt.want != "") {
				t.Errorf("%q, %v; want %q", got, err, tt.want)
			}
		})
	}
}

func TestListsAreBounded(t *testing.T) {
	t.Parallel()
	l := lists{ndots: 5}
	for i := range maxLists + 10 {
		search := []string{fmt.Sprintf("n%d.svc.test.", i)}
		if l.scope(append(search, "")).Search()[0] != search[0] {
			t.Fatalf("scope of %q", search)
		}
	}
	if len(l.known) > maxLists {
		t.Errorf("%d lists", len(l.known))
	}
}
