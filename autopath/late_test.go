package autopath

import (
	"context"
	"fmt"
	"net"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/coredns/coredns/plugin"
	"github.com/coredns/coredns/plugin/metadata"
	"github.com/coredns/coredns/plugin/test"
	"github.com/miekg/dns"
)

// A lateWriter says when it is used after its question was served.
type lateWriter struct {
	test.ResponseWriter
	t      *testing.T
	served atomic.Bool
}

func (w *lateWriter) LocalAddr() net.Addr {
	if w.served.Load() {
		w.t.Error("the writer is used after its question was served")
	}
	return w.ResponseWriter.LocalAddr()
}

// Lookups that do not matter go on, or start, while the answer is written and after it: they touch nothing of the
// question's. The race detector watches the metadata and the message.
func TestLookupsThatDoNotMatter(t *testing.T) {
	t.Parallel()
	h := newHandler(shopScope(t, "corp.test", "corp2.test", "corp3.test"), nil)
	h.Next = plugin.HandlerFunc(func(ctx context.Context, w dns.ResponseWriter, r *dns.Msg) (int, error) {
		for i := range 8 {
			metadata.SetValueFunc(ctx, fmt.Sprintf("forward/%d", i), func() string { return "" })
		}
		code := dns.RcodeNameError
		if strings.HasSuffix(r.Question[0].Name, ".corp.test.") {
			code = dns.RcodeSuccess
		}
		m := new(dns.Msg).SetRcode(r, code)
		if code == dns.RcodeSuccess {
			m.Answer = []dns.RR{test.A(r.Question[0].Name + " 9 IN A 192.0.2.1")}
		}
		return code, w.WriteMsg(m)
	})
	for i := range 300 {
		ctx := metadata.ContextWithMetadata(t.Context())
		for label := range 8 {
			metadata.SetValueFunc(ctx, fmt.Sprintf("test/%d", label), func() string { return "" })
		}
		w := &lateWriter{t: t}
		r := new(dns.Msg).SetQuestion(fmt.Sprintf("x%d.y.shop.svc.cluster.local.", i), dns.TypeA)
		if _, err := h.ServeDNS(ctx, w, r); err != nil {
			t.Fatal(err)
		}
		w.served.Store(true)
		r.Question[0].Name = "reused."
	}
	for range cap(h.spawned) { // no lookup is under way when all places can be had
		h.spawned <- struct{}{}
	}
}
