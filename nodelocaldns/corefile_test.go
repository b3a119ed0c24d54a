package nodelocaldns

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func listen(texts ...string) []netip.AddrPort {
	var all []netip.AddrPort
	for _, text := range texts {
		all = append(all, netip.MustParseAddrPort(text))
	}
	return all
}

func TestCorefile(t *testing.T) {
	t.Parallel()
	got, err := Config{
		Domain:    "example.org.",
		TTL:       7,
		Listen:    listen("169.254.20.10:53", "127.0.0.1:5353", "[fd00::a]:53"),
		Upstreams: []string{"100.100.2.136", "[fd00::1]:5353", "/etc/resolv.conf"},
		Stubs:     []Stub{{"example", []string{"10.0.0.1"}}, {"a.example.", []string{"10.0.0.2:5300", "10.0.0.3"}}},
		CacheSize: 2000, Autopath: true, Directives: "rewrite name x y\nhosts {\n\tfallthrough\n}",
	}.Corefile()
	if err != nil {
		t.Fatal(err)
	}
	block := func(port, addrs string) string {
		return ".:" + port + ` {
	bind ` + addrs + `
	metadata
	metrics
	errors
	answers
	loadbalance
	autopath @nearpath
	nearpath example.org in-addr.arpa ip6.arpa {
		ttl 7
	}
	cache {
		success 2000
		denial 2000
		servfail 5s
		prefetch 1 1h 20%
		serve_stale 1h verify 1.8s 30s 5s
		serve_stale_policy prefer_positive
	}
	upstream example 10.0.0.1
	upstream a.example 10.0.0.2:5300 10.0.0.3
	upstream . 100.100.2.136 [fd00::1]:5353 /etc/resolv.conf
	rewrite name x y
	hosts {
		fallthrough
	}
}
`
	}
	if diff := cmp.Diff(block("53", "169.254.20.10 fd00::a")+block("5353", "127.0.0.1"), string(got)); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

func TestCorefileWithoutUpstreams(t *testing.T) {
	t.Parallel()
	got, err := Config{Listen: listen("127.0.0.1:53")}.Corefile()
	if err != nil {
		t.Fatal(err)
	}
	if text := string(got); strings.Contains(text, "upstream") || !strings.Contains(text, "nearpath cluster.local ") {
		t.Errorf("got:\n%s", text)
	}
}

func TestCorefileErrorsNameTheField(t *testing.T) {
	t.Parallel()
	good := Config{Listen: listen("127.0.0.1:53")}
	for name, tt := range map[string]struct {
		change func(*Config)
		want   string
	}{
		"domain with a brace":   {func(c *Config) { c.Domain = "a {" }, `domain: "a {"`},
		"domain of two lines":   {func(c *Config) { c.Domain = "a\nb" }, "domain: "},
		"TTL":                   {func(c *Config) { c.TTL = 3601 }, "ttl: 3601"},
		"no listener":           {func(c *Config) { c.Listen = nil }, "listen: "},
		"listener without port": {func(c *Config) { c.Listen = listen("127.0.0.1:0") }, `listen: "127.0.0.1:0"`},
		"cache":                 {func(c *Config) { c.CacheSize = -1 }, "cache size: -1"},
		"upstream by name":      {func(c *Config) { c.Upstreams = []string{"dns.example"} }, `upstreams: "dns.example"`},
		"upstream of two lines": {func(c *Config) { c.Upstreams = []string{"/a\n}"} }, "upstreams: "},
		"stub without upstream": {func(c *Config) { c.Stubs = []Stub{{"a.example", nil}} }, "stub domains: a.example has no upstream"},
		"stub twice": {func(c *Config) {
			c.Stubs = []Stub{{"a.example", []string{"10.0.0.1"}}, {"A.example.", []string{"10.0.0.1"}}}
		}, "stub domains: a.example is there twice"},
		"stub of a brace":       {func(c *Config) { c.Stubs = []Stub{{"{", []string{"10.0.0.1"}}} }, `stub domains: "{"`},
		"stub's upstream is us": {func(c *Config) { c.Stubs = []Stub{{"a", []string{"127.0.0.1:53"}}} }, "stub domains: a: 127.0.0.1:53 is our own"},
		"upstream is us":        {func(c *Config) { c.Upstreams = []string{"127.0.0.1"} }, "upstreams: 127.0.0.1:53 is our own listener"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := good
			tt.change(&c)
			if _, err := c.Corefile(); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error %v, want %q", err, tt.want)
			}
		})
	}
}
