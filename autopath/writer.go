package autopath

import (
	"context"
	"errors"
	"maps"
	"net"

	"github.com/coredns/coredns/plugin"
	"github.com/coredns/coredns/plugin/metadata"
	"github.com/miekg/dns"
)

// A reply is what the plugins behind us made of one lookup.
type reply struct {
	msg  *dns.Msg // nil when nothing was written
	code int
	err  error
	// metadata is what the plugins set for this lookup.
	metadata map[string]metadata.Func
}

// status reads a reply as a resolver would. A truncated one counts as data: the client asks again over TCP, and there
// the search is made again.
func (r reply) status(qtype uint16) Status {
	switch {
	case r.err != nil || r.msg == nil || !plugin.ClientWrite(r.code):
		return Unknown
	case r.msg.Rcode == dns.RcodeNameError:
		return NoName
	case r.msg.Rcode != dns.RcodeSuccess:
		return Unknown
	case r.msg.Truncated:
		return Data
	}
	for _, rr := range r.msg.Answer {
		if rr.Header().Rrtype == qtype {
			return Data
		}
	}
	if len(r.msg.Answer) > 0 {
		return Alias
	}
	return NoData
}

// A capture is the ResponseWriter of a lookup: it keeps the message. It holds no reference to the client's own writer,
// which may be gone before a lookup that did not matter returns.
type capture struct {
	local, remote net.Addr
	tsig          error
	msg           *dns.Msg
}

var errRaw = errors.New("a lookup of a search takes messages only")

// WriteMsg implements dns.ResponseWriter.
func (c *capture) WriteMsg(m *dns.Msg) error {
	c.msg = m
	return nil
}

// Write implements dns.ResponseWriter for plugins that pass bytes on.
func (c *capture) Write(b []byte) (int, error) {
	m := new(dns.Msg)
	if err := m.Unpack(b); err != nil {
		return 0, errors.Join(errRaw, err)
	}
	c.msg = m
	return len(b), nil
}

// LocalAddr implements dns.ResponseWriter.
func (c *capture) LocalAddr() net.Addr { return c.local }

// RemoteAddr implements dns.ResponseWriter.
func (c *capture) RemoteAddr() net.Addr { return c.remote }

// TsigStatus implements dns.ResponseWriter.
func (c *capture) TsigStatus() error { return c.tsig }

// Close implements dns.ResponseWriter.
func (c *capture) Close() error { return nil }

// TsigTimersOnly implements dns.ResponseWriter.
func (c *capture) TsigTimersOnly(bool) {}

// Hijack implements dns.ResponseWriter.
func (c *capture) Hijack() {}

// asked is all that lookups need of a question, as it was when it came. A lookup that does not matter is not waited for:
// it may start when the question is answered, and its writer, message and metadata belong to others again.
type asked struct {
	msg           *dns.Msg
	local, remote net.Addr
	tsig          error
	metadata      map[string]metadata.Func // nil without the metadata plugin
}

func newAsked(ctx context.Context, w dns.ResponseWriter, r *dns.Msg) asked {
	return asked{
		msg: r.Copy(), local: w.LocalAddr(), remote: w.RemoteAddr(), tsig: w.TsigStatus(),
		metadata: maps.Clone(metadata.ValueFuncs(ctx)),
	}
}

func (a asked) capture() *capture { return &capture{local: a.local, remote: a.remote, tsig: a.tsig} }

// ownMetadata gives a lookup its own copy of the request's metadata: plugins write to it, and lookups run at once.
func (a asked) ownMetadata(ctx context.Context) context.Context {
	if a.metadata == nil {
		return ctx
	}
	own := metadata.ContextWithMetadata(ctx)
	for label, value := range a.metadata {
		metadata.SetValueFunc(own, label, value)
	}
	return own
}
