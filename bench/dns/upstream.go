package dns

import (
	"errors"
	"io"
	"net"
	"net/netip"
	"strings"
	"sync"

	"github.com/miekg/dns"

	"github.com/nearpath/nearpath/bench/remote"
)

// What an upstream does: it answers every name with one address, over UDP and TCP, and counts who asks for what.
const (
	verbListen = "listen"
	verbAsked  = "asked"
)

// answerTTL outlives a run.
const answerTTL = 3600

type upstream struct {
	mu    sync.Mutex
	asked map[string]int
}

func serveUpstream(in io.Reader, out io.Writer) error {
	u := &upstream{asked: map[string]int{}}
	return remote.Serve(in, out, remote.Verbs{
		verbListen: remote.Verb(func(at netip.AddrPort) (any, error) { return nil, u.listen(at) }),
		verbAsked:  remote.Verb(func(name string) (any, error) { return u.count(name), nil }),
	})
}

// listen returns when the server listens. It ends with the process.
func (u *upstream) listen(at netip.AddrPort) error {
	packets, err := net.ListenPacket("udp", at.String())
	if err != nil {
		return err
	}
	stream, err := net.Listen("tcp", at.String())
	if err != nil {
		return errors.Join(err, packets.Close())
	}
	go func() { _ = (&dns.Server{PacketConn: packets, Handler: dns.HandlerFunc(u.answer)}).ActivateAndServe() }()
	go func() { _ = (&dns.Server{Listener: stream, Handler: dns.HandlerFunc(u.answer)}).ActivateAndServe() }()
	return nil
}

func (u *upstream) answer(w dns.ResponseWriter, q *dns.Msg) {
	m := new(dns.Msg).SetReply(q)
	m.RecursionAvailable = true
	if len(q.Question) == 1 && q.Question[0].Qtype == dns.TypeA {
		name := q.Question[0].Name
		u.mu.Lock()
		u.asked[strings.ToLower(name)]++
		u.mu.Unlock()
		m.Answer = []dns.RR{&dns.A{
			Hdr: dns.RR_Header{Name: name, Rrtype: dns.TypeA, Class: dns.ClassINET, Ttl: answerTTL}, A: net.IPv4(192, 0, 2, 7),
		}}
	}
	if opt := q.IsEdns0(); opt != nil {
		m.SetEdns0(1232, opt.Do())
	}
	_ = w.WriteMsg(m) // the client is gone then
}

// count is how often a name was asked for, all names with "".
func (u *upstream) count(name string) (n int) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if name != "" {
		return u.asked[dns.Fqdn(name)]
	}
	for _, times := range u.asked {
		n += times
	}
	return n
}
