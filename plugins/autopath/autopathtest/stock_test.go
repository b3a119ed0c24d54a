package autopathtest_test

import (
	"slices"
	"testing"

	"github.com/coredns/coredns/core/dnsserver"
	_ "github.com/coredns/coredns/plugin/autopath"
	_ "github.com/coredns/coredns/plugin/bind"
	_ "github.com/coredns/coredns/plugin/cache"
	_ "github.com/coredns/coredns/plugin/hosts"
	_ "github.com/coredns/coredns/plugin/kubernetes"
	_ "github.com/coredns/coredns/plugin/template"

	"github.com/nearpath/nearpath/plugins/autopath/autopathtest"
)

// The stock plugin goes wrong in each scenario, so each can tell. That no answer leaks any more it owes to the order of
// plugins alone: this server has the order of the time.
func TestStockPluginGoesWrong(t *testing.T) {
	order := slices.DeleteFunc(slices.Clone(dnsserver.Directives), func(d string) bool { return d == "cache" })
	dnsserver.Directives = slices.Insert(order, slices.Index(order, "autopath"), "cache")
	var bodies []string
	scenarios := autopathtest.Scenarios()
	counts := make([]int, len(scenarios))
	for i, s := range scenarios {
		add := s.Servers(t, func(api *autopathtest.API) string {
			return "\tautopath @kubernetes\n\tkubernetes cluster.local {\n\t\tendpoint " + api.URL + "\n\t\tpods verified\n\t}"
		})
		counts[i], bodies = len(add), append(bodies, add...)
	}
	servers := autopathtest.Serve(t, bodies)
	for i, s := range scenarios {
		t.Run(s.Name, func(t *testing.T) {
			if got := s.Play(t, servers[:counts[i]]); got != s.Stock {
				t.Errorf("%s, want %s", got, s.Stock)
			}
		})
		servers = servers[counts[i]:]
	}
}
