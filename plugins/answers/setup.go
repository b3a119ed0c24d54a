package answers

import (
	"slices"
	"sync"
	"sync/atomic"

	"github.com/coredns/caddy"
	"github.com/coredns/coredns/core/dnsserver"
	"github.com/coredns/coredns/plugin"
	"github.com/coredns/coredns/plugin/cache"
	"github.com/prometheus/client_golang/prometheus"
)

// provided is set by the program around us; CoreDNS gives a plugin no other way to reach it.
var provided atomic.Pointer[Node]

// The directive stands before everything that changes a question or an answer: what the kernel gives is what the client
// would get for what it asked.
func init() {
	plugin.Register(name, setup)
	before := slices.Index(dnsserver.Directives, "local")
	dnsserver.Directives = slices.Insert(slices.Clone(dnsserver.Directives), before, name)
}

// Provide sets the program around us. Call it before the server starts; without it the plugin passes everything on.
func Provide(n Node) { provided.Store(&n) }

func setup(c *caddy.Controller) error {
	if err := parse(c); err != nil {
		return plugin.Error(name, err)
	}
	a := &Answers{node: provided.Load()}
	server := dnsserver.GetConfig(c)
	if a.node != nil {
		if err := register(prometheus.DefaultRegisterer, a.node.External); err != nil {
			return plugin.Error(name, err)
		}
	}
	var once sync.Once // a chain is made for each address that its server block binds
	server.AddPlugin(func(next plugin.Handler) plugin.Handler {
		a.Next = next
		if a.node != nil {
			once.Do(func() { attach(c, a, server) })
		}
		return a
	})
	return nil
}

func parse(c *caddy.Controller) error {
	seen := false
	for c.Next() {
		if seen {
			return plugin.ErrOnce
		}
		seen = true
		if len(c.RemainingArgs()) > 0 || c.NextBlock() {
			return c.ArgErr()
		}
	}
	return nil
}

// attach lets the kernel's answers be refreshed through the chain as long as the server runs. It is called when the chain is
// made, so that its start comes after those of the other plugins.
func attach(c *caddy.Controller, a *Answers, server *dnsserver.Config) {
	var detach func()
	c.OnStartup(func() error {
		if c, ok := server.Handler("cache").(*cache.Cache); ok {
			a.tap = insert(c)
		}
		detach = a.node.External.Attach([]string{server.Zone}, a)
		return nil
	})
	c.OnShutdown(func() error {
		if detach != nil {
			detach()
		}
		return nil
	})
}
