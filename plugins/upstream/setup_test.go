package upstream

import (
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/coredns/caddy"
	"github.com/coredns/coredns/core/dnsserver"

	"github.com/nearpath/nearpath/internal/cluster"
	"github.com/nearpath/nearpath/nodelocaldns/upstream"
)

func at(s string) upstream.Target { return upstream.Target{Addr: netip.MustParseAddrPort(s)} }

func TestParse(t *testing.T) {
	t.Parallel()
	conf := filepath.Join(t.TempDir(), "resolv.conf")
	if err := os.WriteFile(conf, []byte("nameserver 192.0.2.1\nnameserver 2001:db8::1\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	tcp := at("192.0.2.1:53")
	tcp.Transport = upstream.TCP
	kubeDNS := upstream.Target{Service: cluster.Name{Namespace: "kube-system", Name: "kube-dns"}, Transport: upstream.TCP}
	overUDP := kubeDNS
	overUDP.Transport = upstream.UDPFirst
	for name, tt := range map[string]struct {
		in   string
		want upstream.Config // beside the defaults
	}{
		"address":          {"upstream . 192.0.2.1", upstream.Config{Targets: []upstream.Target{at("192.0.2.1:53")}}},
		"addresses":        {"upstream . 192.0.2.1:5353 dns://[2001:db8::1]:54 2001:db8::2", upstream.Config{Targets: []upstream.Target{at("192.0.2.1:5353"), at("[2001:db8::1]:54"), at("[2001:db8::2]:53")}}},
		"zone":             {"upstream Example.org 192.0.2.1", upstream.Config{Zone: "example.org.", Targets: []upstream.Target{at("192.0.2.1:53")}}},
		"reverse zone":     {"upstream 10.0.0.0/8 192.0.2.1", upstream.Config{Zone: "10.in-addr.arpa.", Targets: []upstream.Target{at("192.0.2.1:53")}}},
		"file":             {"upstream . " + conf, upstream.Config{Targets: []upstream.Target{at("192.0.2.1:53"), at("[2001:db8::1]:53")}}},
		"service":          {"upstream . service kube-system/kube-dns", upstream.Config{Targets: []upstream.Target{kubeDNS}}},
		"service and more": {"upstream . service kube-system/kube-dns 192.0.2.1", upstream.Config{Targets: []upstream.Target{kubeDNS, at("192.0.2.1:53")}}},
		"service over UDP": {"upstream . service kube-system/kube-dns {\n prefer_udp\n}", upstream.Config{Targets: []upstream.Target{overUDP}}},
		"all over TCP":     {"upstream . 192.0.2.1 service kube-system/kube-dns {\n force_tcp\n}", upstream.Config{Targets: []upstream.Target{tcp, kubeDNS}}},
		"numbers": {
			"upstream . 192.0.2.1 {\n connections 2\n max_fails 0\n max_concurrent 10\n expire 9s\n read_timeout 1s\n timeout 3s\n loop 5s\n}",
			upstream.Config{
				Targets: []upstream.Target{at("192.0.2.1:53")}, Connections: 2, MaxFails: -1, MaxConcurrent: 10, Expire: 9 * time.Second,
				ReadTimeout: time.Second, Timeout: 3 * time.Second, Loop: 5 * time.Second,
			},
		},
		"words": {
			"upstream . 192.0.2.1 {\n hedge off\n policy sequential\n source_address 192.0.2.9\n failover NXDOMAIN servfail\n health_check 1s no_rec domain Example.org\n}",
			upstream.Config{
				Targets: []upstream.Target{at("192.0.2.1:53")}, NoHedge: true, Policy: upstream.Sequential, Source: netip.MustParseAddr("192.0.2.9"),
				Failover: []int{3, 2}, HealthCheck: time.Second, NoRecursion: true, HealthName: "example.org.",
			},
		},
		"no failover": {"upstream . 192.0.2.1 {\n failover off\n}", upstream.Config{Targets: []upstream.Target{at("192.0.2.1:53")}, Failover: []int{}}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h, err := parseBlock(caddy.NewTestController("dns", tt.in))
			if err != nil {
				t.Fatal(err)
			}
			if tt.want.Zone == "" {
				tt.want.Zone = "."
			}
			if tt.want.Loop == 0 {
				tt.want.Loop = time.Minute
			}
			switch tt.want.MaxFails {
			case 0:
				tt.want.MaxFails = maxFails
			case -1:
				tt.want.MaxFails = 0
			}
			if got := h.routes[0].config; !reflect.DeepEqual(got, tt.want) {
				t.Errorf("%+v, want %+v", got, tt.want)
			}
		})
	}
}

func TestParseErrors(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"upstream":                                           "argument",
		"upstream .":                                         "argument",
		"upstream 10.0.0.0/9 192.0.2.1":                      "not one zone",
		"upstream . tls://192.0.2.1":                         "only plain DNS",
		"upstream . dns.example":                             "not an IP address or file",
		"upstream . 192.0.2.1:0":                             "not an address",
		"upstream . service":                                 "no NAMESPACE/NAME",
		"upstream . service kube-dns":                        `"kube-dns" is not NAMESPACE/NAME`,
		"upstream . 192.0.2.1\nupstream . 192.0.2.2":         "is for it already",
		"upstream . 192.0.2.1 {\n force_tcp\n prefer_udp\n}": "exclude each other",
		"upstream . 192.0.2.1 {\n force_tcp yes\n}":          "force_tcp: wrong number",
		"upstream . 192.0.2.1 {\n connections 17\n}":         `connections: "17" is not within 1 to 16`,
		"upstream . 192.0.2.1 {\n connections\n}":            "connections: wrong number",
		"upstream . 192.0.2.1 {\n timeout 0s\n}":             `"0s" is not a positive duration`,
		"upstream . 192.0.2.1 {\n loop never\n}":             "not a positive duration",
		"upstream . 192.0.2.1 {\n hedge no\n}":               `"no" is none of on, off`,
		"upstream . 192.0.2.1 {\n policy best\n}":            `"best" is none of`,
		"upstream . 192.0.2.1 {\n failover NOERROR\n}":       "not the code of an error",
		"upstream . 192.0.2.1 {\n health_check 1s fast\n}":   `unknown option "fast"`,
		"upstream . 192.0.2.1 {\n except\n}":                 "except: wrong number",
		"upstream . 192.0.2.1 {\n source_address here\n}":    "unable to parse IP",
		"upstream . 192.0.2.1 {\n max_age 1s\n}":             "max_age: unknown property",
	} {
		_, err := parseBlock(caddy.NewTestController("dns", in))
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: error %v, want %q", in, err, want)
		}
	}
}

func TestDirectiveOrder(t *testing.T) {
	t.Parallel()
	i := slices.Index(dnsserver.Directives, name)
	if i < slices.Index(dnsserver.Directives, "cache") || dnsserver.Directives[i+1] != "forward" {
		t.Errorf("upstream stands at %d of %q", i, dnsserver.Directives)
	}
}

// The longest zone decides, whatever the order; what is excepted is the shorter zone's.
func TestRoute(t *testing.T) {
	t.Parallel()
	h, err := parseBlock(caddy.NewTestController("dns", `upstream . 192.0.2.1 {
  except local
}
upstream b.example 192.0.2.2 {
  except no.b.example
}
upstream example 192.0.2.3
upstream a.b.example 192.0.2.4`))
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{
		"x.test.": ".", "example.": "example.", "x.example.": "example.", "b.example.": "b.example.", "x.b.example.": "b.example.",
		"x.a.b.example.": "a.b.example.", "no.b.example.": "example.", "xb.example.": "example.", "a.local.": "", ".": ".",
	} {
		got := ""
		if to := h.route(name); to != nil {
			got = to.zone[0]
		}
		if got != want {
			t.Errorf("%s is asked of %q, want %q", name, got, want)
		}
	}
}
