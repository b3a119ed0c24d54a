package autopath

import (
	"strings"
	"time"

	"github.com/miekg/dns"
)

// maxTTL is the longest that anybody may take the end of a search for known: a new name earlier in the list ends it.
const maxTTL = 30 * time.Second

// compose puts the reply to a candidate under the question that was asked. It changes nothing of the reply, which a
// cache may hold on to.
//
// An answer becomes a CNAME from the name asked for and the records; the rest goes, so that the answer fits where
// clients cannot use TCP. Without records of the type there is no answer section at all: a CNAME there would make glibc end
// its search with nothing, when the answer for the other type was lost or came from a server that did not search.
func compose(r *dns.Msg, found *dns.Msg, candidate string, ttl time.Duration) *dns.Msg {
	m := new(dns.Msg)
	m.MsgHdr = found.MsgHdr
	m.Id, m.Response, m.RecursionDesired = r.Id, true, r.RecursionDesired
	m.AuthenticatedData = false // nobody signed what we add
	m.Compress = true
	m.Question = r.Question
	if opt := found.IsEdns0(); opt != nil {
		m.Extra = []dns.RR{opt}
	}
	if !answers(found, r.Question[0].Qtype) {
		m.Ns = found.Ns
		return m
	}
	target := owner(found.Answer, candidate)
	m.Answer = make([]dns.RR, 0, len(found.Answer)+1)
	m.Answer = append(m.Answer, &dns.CNAME{
		Hdr: dns.RR_Header{
			Name:   r.Question[0].Name,
			Rrtype: dns.TypeCNAME,
			Class:  dns.ClassINET,
			Ttl:    uint32(ttl / time.Second),
		},
		Target: target,
	})
	m.Answer = append(m.Answer, found.Answer...)
	return m
}

func answers(m *dns.Msg, qtype uint16) bool {
	return reply{msg: m}.status(qtype) == Data
}

// owner is where the records of an answer begin: at the candidate, unless a plugin behind us has renamed it.
func owner(answer []dns.RR, candidate string) string {
	for _, rr := range answer {
		if strings.EqualFold(rr.Header().Name, candidate) {
			return candidate
		}
	}
	if len(answer) == 0 { // truncated
		return candidate
	}
	return answer[0].Header().Name
}

// lifetime is how long a reply holds: the shortest TTL of its records, or of a negative one what RFC 2308, 5 says; zero
// when it may not be kept.
func lifetime(m *dns.Msg) time.Duration {
	if m == nil {
		return 0
	}
	ttl, known := uint32(maxTTL/time.Second), false
	for _, rr := range m.Answer {
		ttl, known = min(ttl, rr.Header().Ttl), true
	}
	if !known {
		for _, rr := range m.Ns {
			if soa, ok := rr.(*dns.SOA); ok {
				ttl, known = min(ttl, soa.Minttl, soa.Hdr.Ttl), true
			}
		}
	}
	if !known {
		return 0
	}
	return time.Duration(ttl) * time.Second
}
