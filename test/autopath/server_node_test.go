//go:build node

package autopath

import (
	"errors"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"

	"github.com/miekg/dns"

	"github.com/nearpath/nearpath/test/netlab"
)

// A server answers for the names it has, by UDP and TCP, and counts what it is asked.
type server struct {
	names []string // with final dot; each has an A and an AAAA record

	mu    sync.Mutex // guards asked
	asked []string
}

// serve starts it at an address of the machine until the test ends.
func (s *server) serve(t *testing.T, at *netlab.NetNS, addr netip.AddrPort) {
	t.Helper()
	var packets net.PacketConn
	var streams net.Listener
	ok(t, at.Do(func() (err error) {
		if packets, err = net.ListenPacket("udp", addr.String()); err != nil {
			return err
		}
		streams, err = net.Listen("tcp", addr.String())
		return err
	}))
	for _, d := range []*dns.Server{{PacketConn: packets, Handler: s}, {Listener: streams, Handler: s}} {
		ended := make(chan error, 1)
		started := make(chan struct{})
		d.NotifyStartedFunc = func() { close(started) }
		go func() { ended <- d.ActivateAndServe() }()
		<-started
		t.Cleanup(func() {
			if err := errors.Join(d.Shutdown(), <-ended); err != nil {
				t.Error(err)
			}
		})
	}
}

// ServeDNS implements dns.Handler.
func (s *server) ServeDNS(w dns.ResponseWriter, r *dns.Msg) {
	q := r.Question[0]
	name := strings.ToLower(q.Name)
	m := new(dns.Msg).SetReply(r)
	m.RecursionAvailable = true
	has := false
	for _, n := range s.names {
		has = has || n == name
	}
	h := dns.RR_Header{Name: q.Name, Rrtype: q.Qtype, Class: dns.ClassINET, Ttl: 300}
	switch {
	case !has:
		m.Rcode = dns.RcodeNameError
		m.Ns = []dns.RR{&dns.SOA{
			Hdr: dns.RR_Header{Name: ".", Rrtype: dns.TypeSOA, Class: dns.ClassINET, Ttl: 60}, Ns: "ns.", Mbox: "hostmaster.", Minttl: 60,
		}}
	case q.Qtype == dns.TypeA:
		m.Answer = []dns.RR{&dns.A{Hdr: h, A: outside4.AsSlice()}}
	case q.Qtype == dns.TypeAAAA:
		m.Answer = []dns.RR{&dns.AAAA{Hdr: h, AAAA: outside6.AsSlice()}}
	}
	if q.Qtype == dns.TypeA || q.Qtype == dns.TypeAAAA { // others are the agent's own probes
		s.mu.Lock()
		s.asked = append(s.asked, dns.TypeToString[q.Qtype]+" "+name)
		s.mu.Unlock()
	}
	_ = w.WriteMsg(m) // whoever asks again counts again
}

// take returns what was asked since the last call.
func (s *server) take() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	asked := s.asked
	s.asked = nil
	return asked
}

// outside4 and outside6 are what names outside the cluster lead to.
var outside4, outside6 = netip.MustParseAddr("203.0.113.10"), netip.MustParseAddr("2001:db8:ffff::10")
