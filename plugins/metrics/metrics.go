// Package metrics is the CoreDNS plugin `metrics`: the counters of CoreDNS's `prometheus` without a listener of its own, for a
// program that shows them itself.
package metrics

import (
	"slices"

	"github.com/coredns/caddy"
	"github.com/coredns/coredns/core/dnsserver"
	"github.com/coredns/coredns/plugin"
	"github.com/coredns/coredns/plugin/metrics"
)

const name = "metrics"

func init() {
	plugin.Register(name, setup)
	before := slices.Index(dnsserver.Directives, "prometheus")
	dnsserver.Directives = slices.Insert(slices.Clone(dnsserver.Directives), before, name)
}

func setup(c *caddy.Controller) error {
	m := metrics.New("")
	for i := 0; c.Next(); i++ {
		if i > 0 {
			return plugin.Error(name, plugin.ErrOnce)
		}
		if len(c.RemainingArgs()) > 0 || c.NextBlock() {
			return plugin.Error(name, c.ArgErr())
		}
		for _, zone := range plugin.OriginsFromArgsOrServerBlock(nil, c.ServerBlockKeys) {
			m.AddZone(zone)
		}
	}
	dnsserver.GetConfig(c).AddPlugin(func(next plugin.Handler) plugin.Handler {
		m.Next = next
		return m
	})
	return nil
}
