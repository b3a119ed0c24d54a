package dnslab

import (
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync"

	"github.com/miekg/dns"

	"github.com/nearpath/nearpath/bench/remote"
)

// What an upstream does: it answers every name with one address of each family, over UDP and TCP, and counts the questions for
// IPv4 addresses, of one name or, with "", of all.
const (
	VerbAsked  = "asked"
	verbListen = "listen"
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
		VerbPin:    remote.Verb(func(cpu int) (any, error) { return nil, Pin(os.Getpid(), cpu) }),
		VerbAsked:  remote.Verb(func(name string) (any, error) { return u.count(name), nil }),
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
	if len(q.Question) == 1 {
		m.Answer = u.records(q.Question[0])
	}
	if opt := q.IsEdns0(); opt != nil {
		m.SetEdns0(1232, opt.Do())
	}
	_ = w.WriteMsg(m) // the client is gone then
}

func (u *upstream) records(q dns.Question) []dns.RR {
	header := dns.RR_Header{Name: q.Name, Rrtype: q.Qtype, Class: dns.ClassINET, Ttl: answerTTL}
	switch q.Qtype {
	case dns.TypeA:
		u.mu.Lock()
		u.asked[strings.ToLower(q.Name)]++
		u.mu.Unlock()
		return []dns.RR{&dns.A{Hdr: header, A: net.IPv4(192, 0, 2, 7)}}
	case dns.TypeAAAA:
		return []dns.RR{&dns.AAAA{Hdr: header, AAAA: net.ParseIP("2001:db8::7")}}
	}
	return nil
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
