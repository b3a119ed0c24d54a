package main

import (
	"reflect"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/coredns/caddy"
	"github.com/coredns/coredns/core/dnsserver"
)

// Every directive of CoreDNS is built in, but those that main.go leaves out.
func TestDirectives(t *testing.T) {
	t.Parallel()
	var missing []string
	for _, directive := range dnsserver.Directives {
		if _, err := caddy.DirectiveAction("dns", directive); err != nil {
			missing = append(missing, directive)
		}
	}
	want := []string{"azure", "clouddns", "dnssec", "etcd", "geoip", "nomad", "route53", "tls", "trace"}
	if slices.Sort(missing); !slices.Equal(missing, want) {
		t.Errorf("missing %q, want %q", missing, want)
	}
}

func TestAutopathIsOurs(t *testing.T) {
	t.Parallel()
	setup, err := caddy.DirectiveAction("dns", "autopath")
	if err != nil {
		t.Fatal(err)
	}
	if of := runtime.FuncForPC(reflect.ValueOf(setup).Pointer()).Name(); !strings.HasPrefix(of, "github.com/nearpath/nearpath/plugins/autopath.") {
		t.Errorf("the directive autopath is set up by %s", of)
	}
}
