// Package answers is the CoreDNS plugin `answers`: it has the kernel give to pods what they ask for again, and keeps that
// fresh. What is published, and for how long, is decided in nodelocaldns; here are the ends of the chain.
package answers

import (
	"context"
	"errors"
	"fmt"
	"net"
	"runtime"
	"sync/atomic"

	"github.com/coredns/coredns/core/dnsserver"
	"github.com/coredns/coredns/plugin"
	"github.com/coredns/coredns/plugin/pkg/nonwriter"
	"github.com/miekg/dns"

	"github.com/nearpath/nearpath/autopath"
	"github.com/nearpath/nearpath/bpf"
	"github.com/nearpath/nearpath/nodelocaldns"
)

const name = "answers"

// A Node is the program around us.
type Node struct {
	External *nodelocaldns.External
	// ScopeID returns the number that the kernel knows a search by, or 0 when none of its pods does; ScopeOf the search of
	// a number. Both may be nil where no pod has one.
	ScopeID func(autopath.Scope) uint32
	ScopeOf func(uint32) (autopath.Scope, bool)
	// BeforeReply is called with every answer before a client gets it, or the kernel: who was given an address may use it at
	// once. It may be nil. It must neither change nor keep the message.
	BeforeReply func(*dns.Msg)
}

func (n *Node) beforeReply(m *dns.Msg) {
	if n.BeforeReply != nil {
		n.BeforeReply(m)
	}
}

// An Answers is the plugin in one server block.
type Answers struct {
	Next plugin.Handler

	node *Node // nil in a program that has no kernel's answers: everything is passed on
	tap  *tap  // nil without `cache`
	// server is the one that questions come by, for plugins that ask it.
	server atomic.Pointer[dnsserver.Server]
}

// Name implements plugin.Handler.
func (a *Answers) Name() string { return name }

// ServeDNS implements plugin.Handler.
func (a *Answers) ServeDNS(ctx context.Context, w dns.ResponseWriter, r *dns.Msg) (int, error) {
	if a.node == nil {
		return plugin.NextOrFailure(name, a.Next, ctx, w, r)
	}
	growStack()
	key, ok := nodelocaldns.ExternalQuestion(r)
	if !ok {
		if a.node.BeforeReply != nil {
			w = &herald{ResponseWriter: w, node: a.node}
		}
		return plugin.NextOrFailure(name, a.Next, ctx, w, r)
	}
	if s, ok := ctx.Value(dnsserver.Key{}).(*dnsserver.Server); ok && a.server.Load() != s {
		a.server.Store(s)
	}
	o := &observer{ResponseWriter: w, node: a.node, key: key, era: a.node.External.Era()}
	ctx, o.watch = a.watch(ctx)
	return plugin.NextOrFailure(name, a.Next, ctx, o, r)
}

// growStack has the stack of the goroutine grow while little is on it. A question that goes all the way to an upstream needs more
// than goroutines begin with, and would have it grow where all plugins are on it: copying them takes longer than most of them do.
//
//go:noinline
func growStack() {
	var room [8 << 10]byte
	runtime.KeepAlive(&room)
}

// An observer sees what a client gets.
type observer struct {
	dns.ResponseWriter
	watch
	node *Node
	key  bpf.AnswerKey
	era  uint64
}

// WriteMsg implements dns.ResponseWriter. It looks first, for who writes may cut the message to what the client takes.
func (o *observer) WriteMsg(m *dns.Msg) error {
	o.node.beforeReply(m)
	if reply, ok := o.reply(o.node, m); ok {
		o.node.External.Observe(o.era, o.key, reply)
	}
	return o.ResponseWriter.WriteMsg(m)
}

// A herald tells of answers that are not for the kernel.
type herald struct {
	dns.ResponseWriter
	node *Node
}

// WriteMsg implements dns.ResponseWriter.
func (h *herald) WriteMsg(m *dns.Msg) error {
	h.node.beforeReply(m)
	return h.ResponseWriter.WriteMsg(m)
}

// A watch is what the plugins behind say of an answer.
type watch struct {
	search *autopath.Note
	stale  *staleNote
}

func (a *Answers) watch(ctx context.Context) (context.Context, watch) {
	var w watch
	ctx, w.search = autopath.WithNote(ctx)
	ctx, w.stale = withStaleNote(ctx)
	return ctx, w
}

// reply says for whom and for how long an answer is, or false when it is for nobody else.
func (w watch) reply(n *Node, m *dns.Msg) (nodelocaldns.ExternalReply, bool) {
	r := nodelocaldns.ExternalReply{Msg: m, Stale: w.stale.stale.Load()}
	switch w.search.Keep {
	case autopath.KeepForAll:
		return r, true
	case autopath.KeepForScope:
		if n.ScopeID != nil {
			r.Scope, r.Limit = n.ScopeID(w.search.Scope), w.search.TTL
		}
		return r, r.Scope != 0
	}
	return r, false
}

var (
	errNoScope  = errors.New("no pod has this scope")
	errNoAnswer = errors.New("no answer")
)

// Ask implements nodelocaldns.ExternalChain.
func (a *Answers) Ask(ctx context.Context, key bpf.AnswerKey) (nodelocaldns.ExternalReply, error) {
	var none nodelocaldns.ExternalReply
	if key.Scope != 0 {
		if a.node.ScopeOf == nil {
			return none, errNoScope
		}
		scope, ok := a.node.ScopeOf(key.Scope)
		if !ok {
			return none, errNoScope
		}
		ctx = autopath.WithScope(ctx, scope)
	}
	if s := a.server.Load(); s != nil {
		ctx = context.WithValue(ctx, dnsserver.Key{}, s)
		ctx = context.WithValue(ctx, dnsserver.LoopKey{}, 0)
	}
	got := make(chan asked, 1)
	// The cache goes on with this context when it prefetches, as it does with a client's, which never ends.
	go func() { got <- a.ask(context.WithoutCancel(ctx), key) }()
	select {
	case r := <-got:
		return r.reply, r.err
	case <-ctx.Done():
		return none, ctx.Err()
	}
}

type asked struct {
	reply nodelocaldns.ExternalReply
	err   error
}

func (a *Answers) ask(ctx context.Context, key bpf.AnswerKey) asked {
	ctx, watched := a.watch(ctx)
	w := nonwriter.New(refresher{})
	code, err := plugin.NextOrFailure(name, a.Next, ctx, w, new(dns.Msg).SetQuestion(key.Name, key.Type))
	if err != nil {
		return asked{err: fmt.Errorf("ask for %s: %w", key.Name, err)}
	}
	if w.Msg == nil || !plugin.ClientWrite(code) {
		return asked{err: errNoAnswer}
	}
	reply, ok := watched.reply(a.node, w.Msg)
	if !ok {
		return asked{err: errNoAnswer}
	}
	a.node.beforeReply(w.Msg)
	return asked{reply: reply}
}

// Forget implements nodelocaldns.ExternalChain.
func (a *Answers) Forget(name string) {
	if a.tap != nil {
		a.tap.forget(name)
	}
}

// A refresher is the client of questions that nobody asks. As with prefetches of `cache`, it seems to come by TCP, so that
// no answer is cut. Its address is no pod's.
type refresher struct{ dns.ResponseWriter }

var nobody = &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)}

// LocalAddr implements dns.ResponseWriter.
func (refresher) LocalAddr() net.Addr { return nobody }

// RemoteAddr implements dns.ResponseWriter.
func (refresher) RemoteAddr() net.Addr { return nobody }

// TsigStatus implements dns.ResponseWriter.
func (refresher) TsigStatus() error { return nil }

// TsigTimersOnly implements dns.ResponseWriter.
func (refresher) TsigTimersOnly(bool) {}

// Close implements dns.ResponseWriter.
func (refresher) Close() error { return nil }

// Hijack implements dns.ResponseWriter.
func (refresher) Hijack() {}
