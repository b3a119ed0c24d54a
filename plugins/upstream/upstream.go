// Package upstream is the CoreDNS plugin `upstream`: it asks other servers, over connections that stay open, and finds
// others when some fail. How that is done is package github.com/nearpath/nearpath/nodelocaldns/upstream; here is the
// Corefile.
package upstream

import (
	"context"
	"errors"

	"github.com/coredns/coredns/plugin"
	"github.com/coredns/coredns/plugin/metadata"
	"github.com/coredns/coredns/request"
	"github.com/miekg/dns"

	"github.com/nearpath/nearpath/nodelocaldns/upstream"
)

const name = "upstream"

// A route is one line of the Corefile.
type route struct {
	zone   plugin.Zones // one
	except plugin.Zones
	config upstream.Config
	asked  *upstream.Upstream // while the server runs
}

// A Handler is the plugin in one server block: all its lines, the ones with the longest zones first.
type Handler struct {
	Next   plugin.Handler
	routes []*route
}

// Name implements plugin.Handler.
func (h *Handler) Name() string { return name }

// ServeDNS implements plugin.Handler. Names that no line is for are the next plugin's.
func (h *Handler) ServeDNS(ctx context.Context, w dns.ResponseWriter, r *dns.Msg) (int, error) {
	state := request.Request{W: w, Req: r}
	if pool.IsLoopProbe(r.Question[0]) {
		return dns.RcodeServerFailure, errors.New("a question of our own has come back: an upstream leads here")
	}
	to := h.route(state.Name())
	if to == nil {
		return plugin.NextOrFailure(h.Name(), h.Next, ctx, w, r)
	}
	if r.Opcode != dns.OpcodeQuery || state.QType() == dns.TypeAXFR || state.QType() == dns.TypeIXFR {
		return dns.RcodeNotImplemented, nil
	}
	metadata.SetValueFunc(ctx, name+"/zone", func() string { return to.zone[0] })
	reply, err := to.asked.Exchange(ctx, r)
	switch {
	case errors.Is(err, upstream.ErrDropped):
		return dns.RcodeSuccess, err // no answer: see plugin.ClientWrite
	case err != nil:
		return fail(w, r, err)
	}
	return dns.RcodeSuccess, w.WriteMsg(reply)
}

// route is the line with the longest zone that the name is in.
func (h *Handler) route(name string) *route {
	for _, to := range h.routes {
		if to.zone.Matches(name) != "" && (to.except.Matches(name) == "" || name == to.zone[0]) {
			return to
		}
	}
	return nil
}

// fail says why to clients that can read it (RFC 8914). Others get what the server makes of the code, and the plugin `cache`
// keeps either for a moment.
func fail(w dns.ResponseWriter, r *dns.Msg, err error) (int, error) {
	if r.IsEdns0() == nil {
		return dns.RcodeServerFailure, err
	}
	m := new(dns.Msg).SetRcode(r, dns.RcodeServerFailure)
	m.RecursionAvailable = true
	code := dns.ExtendedErrorCodeNetworkError
	if errors.Is(err, upstream.ErrLooped) || errors.Is(err, upstream.ErrNoEndpoint) {
		code = dns.ExtendedErrorCodeNoReachableAuthority
	}
	m.Extra = []dns.RR{&dns.OPT{
		Hdr:    dns.RR_Header{Name: ".", Rrtype: dns.TypeOPT},
		Option: []dns.EDNS0{&dns.EDNS0_EDE{InfoCode: code, ExtraText: err.Error()}},
	}}
	if writeErr := w.WriteMsg(m); writeErr != nil {
		return dns.RcodeServerFailure, writeErr
	}
	return dns.RcodeSuccess, err
}
