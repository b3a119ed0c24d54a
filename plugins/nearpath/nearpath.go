// Package nearpath is the CoreDNS plugin `nearpath`: the cluster zone from a Snapshot. It stands before `cache`, so that
// cluster names are never cached and everything else is.
package nearpath

import (
	"context"

	"github.com/coredns/coredns/plugin"
	"github.com/coredns/coredns/plugin/pkg/upstream"
	"github.com/coredns/coredns/request"
	"github.com/miekg/dns"

	"github.com/nearpath/nearpath/internal/cluster"
	"github.com/nearpath/nearpath/nodelocaldns"
)

const (
	name = "nearpath"
	// maxChain is how many CNAMEs of the zone are followed for one question, as in the kubernetes plugin.
	maxChain = 10
)

// A Nearpath is the plugin in one server block.
type Nearpath struct {
	Next  plugin.Handler
	Zones plugin.Zones // what the plugin looks at, reverse zones included
	// Domains are the cluster zones; the first one is in the answers to reverse questions.
	Domains  []nodelocaldns.Zone
	Snapshot func() *cluster.Snapshot
}

// Name implements plugin.Handler.
func (n *Nearpath) Name() string { return name }

// Ready implements the interface of the plugin `ready`.
func (n *Nearpath) Ready() bool { return n.Snapshot().Synced() }

// Cluster returns the newest Snapshot: other plugins of the server block, such as upstream, read it here.
func (n *Nearpath) Cluster() *cluster.Snapshot { return n.Snapshot() }

// ServeDNS implements plugin.Handler. Names the zone does not answer for are the next plugin's.
func (n *Nearpath) ServeDNS(ctx context.Context, w dns.ResponseWriter, r *dns.Msg) (int, error) {
	state := request.Request{W: w, Req: r}
	if n.Zones.Matches(state.Name()) == "" {
		return plugin.NextOrFailure(n.Name(), n.Next, ctx, w, r)
	}
	snapshot := n.Snapshot()
	result := n.answer(snapshot, r.Question[0])
	if !result.Ours {
		return plugin.NextOrFailure(n.Name(), n.Next, ctx, w, r)
	}
	m := new(dns.Msg)
	m.SetRcode(r, result.Rcode)
	m.Authoritative = result.Authoritative
	m.Answer, m.Ns, m.Extra = result.Answer, result.Ns, result.Extra
	if result.Chase != "" {
		n.chase(ctx, state, snapshot, m, result.Chase)
	}
	// What was written is not to be written again: see plugin.ClientWrite.
	return dns.RcodeSuccess, w.WriteMsg(m)
}

func (n *Nearpath) answer(s *cluster.Snapshot, q dns.Question) nodelocaldns.Result {
	for _, zone := range n.Domains {
		if r := zone.Answer(s, q); r.Ours {
			return r
		}
	}
	return nodelocaldns.Result{}
}

// chase adds what the CNAME's target has, whatever its status: the CNAME itself is an answer. Targets in the zone are
// looked up here; the first one outside goes through the whole server, once.
func (n *Nearpath) chase(ctx context.Context, state request.Request, s *cluster.Snapshot, m *dns.Msg, target string) {
	q := state.Req.Question[0]
	seen := map[string]bool{dns.CanonicalName(q.Name): true}
	for range maxChain {
		if seen[dns.CanonicalName(target)] {
			return
		}
		seen[dns.CanonicalName(target)] = true
		q.Name = target
		r := n.answer(s, q)
		if !r.Ours {
			n.ask(ctx, state, m, target)
			return
		}
		m.Answer = append(m.Answer, r.Answer...)
		m.Extra = append(m.Extra, r.Extra...)
		if r.Chase == "" {
			return
		}
		target = r.Chase
	}
}

// asked marks the context of a question this plugin asks of its own server.
type asked struct{}

func (n *Nearpath) ask(ctx context.Context, state request.Request, m *dns.Msg, target string) {
	if ctx.Value(asked{}) != nil {
		return // a rewrite has led the target back to us
	}
	found, err := upstream.New().Lookup(context.WithValue(ctx, asked{}, true), state, target, state.QType())
	if err != nil || found == nil {
		return
	}
	m.Answer = append(m.Answer, found.Answer...)
	m.Truncated = m.Truncated || found.Truncated
}
