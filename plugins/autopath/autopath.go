// Package autopath is the CoreDNS plugin `autopath`: the search of clients made on the server, as a replacement of the
// stock plugin of that name. The search itself is package github.com/nearpath/nearpath/autopath; here are the Corefile
// and the index of pods.
package autopath

import (
	"context"
	"strings"
	"sync"

	"github.com/coredns/coredns/plugin"
	"github.com/coredns/coredns/request"
	"github.com/miekg/dns"

	"github.com/nearpath/nearpath/autopath"
)

const name = "autopath"

// An Autopath is the plugin in one server block.
type Autopath struct {
	Next  plugin.Handler
	Zones plugin.Zones // the questions it looks at

	search *autopath.Handler
	// ask returns the search list of the client of a question; nil when the Handler's Scopes know it.
	ask   func(request.Request) []string
	lists lists
	ready <-chan struct{} // nil when there is nothing to wait for
}

// Name implements plugin.Handler.
func (a *Autopath) Name() string { return name }

// Ready implements the interface of the plugin `ready`.
func (a *Autopath) Ready() bool {
	if a.ready == nil {
		return true
	}
	select {
	case <-a.ready:
		return true
	default:
		return false
	}
}

// ServeDNS implements plugin.Handler.
func (a *Autopath) ServeDNS(ctx context.Context, w dns.ResponseWriter, r *dns.Msg) (int, error) {
	state := request.Request{W: w, Req: r}
	if a.Zones.Matches(state.Name()) == "" {
		return plugin.NextOrFailure(a.Name(), a.Next, ctx, w, r)
	}
	if a.ask == nil {
		return a.search.ServeDNS(ctx, w, r)
	}
	var scope autopath.Scope
	if autopath.Searchable(r) == autopath.NoReason {
		scope = a.lists.scope(a.ask(state))
	}
	return a.search.ServeScope(ctx, w, r, scope)
}

// lists are the Scopes of search lists that other plugins return for each question.
type lists struct {
	ndots int

	mu    sync.Mutex // guards known
	known map[string]autopath.Scope
}

// maxLists bounds what is kept: there is one list per namespace.
const maxLists = 4096

// scope returns the Scope of a list, which may end with the empty string for the name as it is. A list that is none is
// the zero Scope.
func (l *lists) scope(search []string) autopath.Scope {
	if len(search) == 0 {
		return autopath.Scope{}
	}
	key := strings.Join(search, " ")
	l.mu.Lock()
	defer l.mu.Unlock()
	if scope, ok := l.known[key]; ok {
		return scope
	}
	scope, err := autopath.NewScope(search, l.ndots, "")
	if err != nil {
		return autopath.Scope{}
	}
	if l.known == nil || len(l.known) >= maxLists {
		l.known = make(map[string]autopath.Scope)
	}
	l.known[key] = scope
	return scope
}
