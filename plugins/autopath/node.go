package autopath

import (
	"sync"
	"sync/atomic"

	"github.com/coredns/caddy"

	"github.com/nearpath/nearpath/autopath"
)

// A Node is a program around us that knows how the clients of its node search, such as the agent that gave them their
// network.
type Node struct {
	Scopes autopath.Scopes
	// Left is as in autopath.Config.
	Left func(autopath.Scope, []string)
}

// CoreDNS gives a program around us and a plugin no other way to reach each other.
var (
	provided atomic.Pointer[Node]
	live     handlers
)

// Provide sets who knows the clients where the Corefile names a plugin and no index. Call it before the server starts, and
// [Forget] whenever names of the cluster come into being or go.
func Provide(n Node) { provided.Store(&n) }

// Forget has every server of this process forget what it remembers of searches, once it answers as things are now.
func Forget() { live.each((*autopath.Handler).Forget) }

// handlers are those of the servers that run.
type handlers struct {
	mu  sync.Mutex // guards all
	all map[*autopath.Handler]bool
}

func (h *handlers) each(do func(*autopath.Handler)) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for handler := range h.all {
		do(handler)
	}
}

func (h *handlers) set(handler *autopath.Handler, runs bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if !runs {
		delete(h.all, handler)
		return
	}
	if h.all == nil {
		h.all = make(map[*autopath.Handler]bool)
	}
	h.all[handler] = true
}

// follow has the handler told of what Forget is called for, as long as the server runs.
func (h *handlers) follow(c *caddy.Controller, handler *autopath.Handler) {
	c.OnStartup(func() error { h.set(handler, true); return nil })
	c.OnShutdown(func() error { h.set(handler, false); return nil })
}
