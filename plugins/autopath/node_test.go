package autopath

import (
	"context"
	"net/netip"
	"sync/atomic"
	"testing"

	"github.com/miekg/dns"

	"github.com/nearpath/nearpath/autopath"
	"github.com/nearpath/nearpath/internal/cluster"
	"github.com/nearpath/nearpath/plugins/autopath/autopathtest"
	"github.com/nearpath/nearpath/plugins/nearpath"
)

// scopesFunc is who knows the clients.
type scopesFunc func(netip.Addr) (autopath.Scope, bool)

func (f scopesFunc) Scope(_ context.Context, client netip.Addr) (autopath.Scope, bool) {
	return f(client)
}

// A program that knows its clients is asked for each question, needs no API, and has its servers forget what was missing.
// One test after the other: it sets what the whole process has.
func TestNode(t *testing.T) {
	store := cluster.NewStore()
	put := func(services ...*cluster.Service) {
		store.Replace(cluster.Objects{Namespaces: []string{"shop", "team"}, Services: services})
	}
	put()
	nearpath.Provide(store.Snapshot)
	var scope atomic.Pointer[autopath.Scope]
	Provide(Node{Scopes: scopesFunc(func(client netip.Addr) (autopath.Scope, bool) {
		s := scope.Load()
		if s == nil || client != netip.MustParseAddr("127.0.0.1") {
			return autopath.Scope{}, false
		}
		return *s, true
	})})
	t.Cleanup(func() { provided.Store(nil) })
	servers := autopathtest.Serve(t, []string{"autopath @nearpath\n nearpath cluster.local\n cache\n hosts {\n 192.0.2.1 www.example.test web.team\n fallthrough\n}\n"})
	if got := lookup(t, servers[0], external, dns.TypeA); got != "NXDOMAIN" {
		t.Errorf("a client that nobody knows: %s", got)
	}
	known, err := autopath.NewScope([]string{"shop.svc.cluster.local", "svc.cluster.local", "cluster.local"}, 5, "cluster.local")
	if err != nil {
		t.Fatal(err)
	}
	scope.Store(&known)
	if got := lookup(t, servers[0], external, dns.TypeA); got != "www.example.test." {
		t.Errorf("a client that is known: %s", got)
	}
	const team = "web.team.shop.svc.cluster.local."
	if got := lookup(t, servers[0], team, dns.TypeA); got != "web.team." {
		t.Errorf("a name outside: %s", got)
	}
	put(&cluster.Service{Name: cluster.Name{Namespace: "team", Name: "web"}, ClusterIPs: []netip.Addr{netip.MustParseAddr("10.96.0.7")}})
	Forget()
	if got := lookup(t, servers[0], team, dns.TypeA); got != "web.team.svc.cluster.local." {
		t.Errorf("a Service that comes earlier in the search, and is new: %s", got)
	}
}
