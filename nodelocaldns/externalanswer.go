package nodelocaldns

import (
	"strings"
	"time"

	"github.com/miekg/dns"

	"github.com/nearpath/nearpath/bpf"
)

// staleTTL is what a stale answer says: RFC 8767, 4.
const staleTTL = 30 * time.Second

// An ExternalReply is what became of a question in userspace.
type ExternalReply struct {
	Msg *dns.Msg // as the client gets it, before it is cut to what the client takes; it is neither changed nor kept
	// Scope is the one whose pods alone may be given this answer; 0 for every pod.
	Scope uint32
	// Limit bounds how long the answer holds, whatever its TTLs say, unless zero.
	Limit time.Duration
	// Stale is whether it is past its TTL and was given for want of a better one: RFC 8767.
	Stale bool
}

// An Unfit is why an answer is not one for the kernel.
type Unfit uint8

// What keeps answers in userspace.
const (
	Fits          Unfit = iota
	UnfitRcode          // neither NOERROR nor NXDOMAIN
	UnfitCut            // truncated
	UnfitNegative       // a negative one without the SOA that says for how long: RFC 2308, 5
	UnfitTTL            // it may not be kept
	UnfitStale          // a stale negative one
	UnfitFormat         // not an answer to the question, or it cannot be packed
	UnfitSearched       // a negative one for what a pod's search may begin with
	UnfitSize           // too large
	unfits
)

func (u Unfit) String() string {
	return [...]string{"fits", "rcode", "truncated", "negative", "ttl", "stale", "format", "searched", "size"}[u]
}

// ExternalQuestion returns what a query asks for, with scope 0, and whether the kernel may answer one like it: class IN,
// without DO and CD, and without EDNS options that an answer may depend on.
func ExternalQuestion(r *dns.Msg) (bpf.AnswerKey, bool) {
	if r.Response || r.Opcode != dns.OpcodeQuery || r.CheckingDisabled || len(r.Question) != 1 {
		return bpf.AnswerKey{}, false
	}
	q := r.Question[0]
	if q.Qclass != dns.ClassINET || q.Qtype == 0 || q.Qtype == dns.TypeOPT || q.Qtype >= 128 {
		return bpf.AnswerKey{}, false
	}
	if opt := r.IsEdns0(); opt != nil && !plainEDNS(opt) {
		return bpf.AnswerKey{}, false
	}
	name := foldName(q.Name)
	if dns.IsSubDomain("in-addr.arpa.", name) || dns.IsSubDomain("ip6.arpa.", name) {
		return bpf.AnswerKey{}, false // those of the cluster's addresses are the zone's, and which these are changes
	}
	return bpf.AnswerKey{Name: name, Type: q.Qtype}, true
}

func plainEDNS(opt *dns.OPT) bool {
	if opt.Version() != 0 || opt.Do() {
		return false
	}
	for _, o := range opt.Option {
		switch o.Option() {
		case dns.EDNS0COOKIE, dns.EDNS0TCPKEEPALIVE, dns.EDNS0PADDING:
		default:
			return false
		}
	}
	return true
}

// foldName folds ASCII only: RFC 4343, 3.
func foldName(name string) string {
	return strings.Map(func(r rune) rune {
		if 'A' <= r && r <= 'Z' {
			return r + 'a' - 'A'
		}
		return r
	}, dns.Fqdn(name))
}

// An externalAnswer is what the kernel is to give.
type externalAnswer struct {
	msg      *dns.Msg      // what userspace gave
	life     time.Duration // until its smallest TTL ends
	negative bool
	stale    bool
}

// newExternalAnswer makes of a reply what the kernel may give for the key.
func newExternalAnswer(key bpf.AnswerKey, r ExternalReply) (externalAnswer, Unfit) {
	m := r.Msg
	a := externalAnswer{msg: m, stale: r.Stale}
	switch {
	case !m.Response || len(m.Question) != 1 || foldName(m.Question[0].Name) != key.Name || m.Question[0].Qtype != key.Type:
		return a, UnfitFormat
	case m.Rcode != dns.RcodeSuccess && m.Rcode != dns.RcodeNameError:
		return a, UnfitRcode
	case m.Truncated:
		return a, UnfitCut
	}
	if a.negative = !hasType(m, key.Type); a.negative {
		if r.Stale {
			return a, UnfitStale
		}
		if startOfAuthority(m) == nil {
			return a, UnfitNegative
		}
	}
	if a.life = lifeOf(m, a.negative); r.Stale {
		a.life = staleTTL
	}
	if r.Limit > 0 {
		a.life = min(a.life, r.Limit)
	}
	if a.life < time.Second {
		return a, UnfitTTL
	}
	return a, Fits
}

// pack returns what the kernel is to give, and the same without the other sections when it has some and needs none.
func (a externalAnswer) pack(key bpf.AnswerKey) (whole, short []byte, err error) {
	out := a.message(key)
	if whole, err = out.Pack(); err != nil || a.negative || len(out.Ns)+len(out.Extra) == 0 {
		return whole, nil, err
	}
	out.Ns, out.Extra = nil, nil
	short, err = out.Pack()
	return whole, short, err
}

// message repeats the answer with the question's owner folded, which packs it as a pointer, and so the kernel may give it
// in the client's case. AD is for who asks for it.
func (a externalAnswer) message(key bpf.AnswerKey) *dns.Msg {
	out := a.msg.Copy()
	out.Id, out.Compress, out.AuthenticatedData = 0, true, false
	out.Question[0].Name = key.Name
	seconds := uint32(a.life / time.Second)
	for _, section := range []*[]dns.RR{&out.Answer, &out.Ns, &out.Extra} {
		kept := (*section)[:0]
		for _, rr := range *section {
			h := rr.Header()
			if h.Rrtype == dns.TypeOPT {
				continue
			}
			if foldName(h.Name) == key.Name {
				h.Name = key.Name
			}
			if h.Ttl = min(h.Ttl, seconds); a.stale {
				h.Ttl = seconds
			}
			kept = append(kept, rr)
		}
		*section = kept
	}
	return out
}

// hasType is whether the question has an answer, which may follow CNAMEs.
func hasType(m *dns.Msg, qtype uint16) bool {
	for _, rr := range m.Answer {
		if m.Rcode == dns.RcodeSuccess && rr.Header().Rrtype == qtype {
			return true
		}
	}
	return false
}

func startOfAuthority(m *dns.Msg) *dns.SOA {
	for _, rr := range m.Ns {
		if soa, ok := rr.(*dns.SOA); ok {
			return soa
		}
	}
	return nil
}

// lifeOf returns the smallest TTL of what is given, and of a negative answer what the SOA says: RFC 2308, 5.
func lifeOf(m *dns.Msg, negative bool) time.Duration {
	ttl := uint32(1<<31 - 1) // RFC 2181, 8
	for _, section := range [][]dns.RR{m.Answer, m.Ns, m.Extra} {
		for _, rr := range section {
			if rr.Header().Rrtype != dns.TypeOPT {
				ttl = min(ttl, rr.Header().Ttl)
			}
		}
	}
	if negative {
		ttl = min(ttl, startOfAuthority(m).Minttl)
	}
	return time.Duration(ttl) * time.Second
}

// otherNames are the names that the answer leads through.
func otherNames(asked string, m *dns.Msg) []string {
	var names []string
	for _, rr := range m.Answer {
		if cname, ok := rr.(*dns.CNAME); ok {
			if target := foldName(cname.Target); target != asked {
				names = append(names, target)
			}
		}
	}
	return names
}
