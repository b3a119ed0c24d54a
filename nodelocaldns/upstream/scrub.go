package upstream

import (
	"slices"

	"github.com/miekg/dns"
)

// maxAliases is how many CNAMEs of one reply are followed.
const maxAliases = 16

// scrub removes what does not belong to the question, whatever it is for: a server may answer for the name it was asked,
// for the names its aliases lead to, and name the zones above them. It returns how many records are gone.
func scrub(m *dns.Msg, q *query) int {
	before := len(m.Answer) + len(m.Ns) + len(m.Extra)
	if len(m.Question) == 0 || q.qtype == dns.TypeANY {
		m.Answer, m.Ns = keepClass(m.Answer, q.qclass), keepClass(m.Ns, q.qclass)
	} else {
		names := aliases(m.Answer, dns.CanonicalName(m.Question[0].Name))
		m.Answer = keep(m.Answer, q.qclass, func(h *dns.RR_Header) bool {
			return slices.Contains(names, dns.CanonicalName(h.Name)) || isDNAME(h, names)
		})
		m.Ns = keep(m.Ns, q.qclass, func(h *dns.RR_Header) bool { return isAuthority(h, names) })
	}
	opt, named := m.IsEdns0(), targets(m)
	m.Extra = keep(m.Extra, q.qclass, func(h *dns.RR_Header) bool {
		return (h.Rrtype == dns.TypeA || h.Rrtype == dns.TypeAAAA || h.Rrtype == dns.TypeRRSIG) && named[dns.CanonicalName(h.Name)]
	})
	if opt != nil {
		m.Extra = append(m.Extra, opt)
	}
	return before - len(m.Answer) - len(m.Ns) - len(m.Extra)
}

// aliases are the names a question leads to, itself the first, in whatever order the records are.
func aliases(answer []dns.RR, name string) []string {
	names := []string{name}
	for len(names) <= maxAliases {
		next := ""
		for _, record := range answer {
			if alias, ok := record.(*dns.CNAME); ok && dns.CanonicalName(alias.Hdr.Name) == names[len(names)-1] {
				next = dns.CanonicalName(alias.Target)
			}
		}
		if next == "" || slices.Contains(names, next) {
			break
		}
		names = append(names, next)
	}
	return names
}

// isDNAME is whether a record renames a tree that one of the names is in, or signs one that does.
func isDNAME(h *dns.RR_Header, names []string) bool {
	return (h.Rrtype == dns.TypeDNAME || h.Rrtype == dns.TypeRRSIG) && isAbove(h.Name, names)
}

// isAuthority is whether a record is of a zone that one of the names is in. Proofs of absence have names beside them.
func isAuthority(h *dns.RR_Header, names []string) bool {
	switch h.Rrtype {
	case dns.TypeNSEC, dns.TypeNSEC3, dns.TypeRRSIG:
		return true
	case dns.TypeSOA, dns.TypeNS, dns.TypeDS:
		return isAbove(h.Name, names)
	}
	return false
}

func isAbove(zone string, names []string) bool {
	return slices.ContainsFunc(names, func(name string) bool { return dns.IsSubDomain(zone, name) })
}

// targets are the names whose addresses a reply may add.
func targets(m *dns.Msg) map[string]bool {
	named := make(map[string]bool)
	for _, section := range [][]dns.RR{m.Answer, m.Ns} {
		for _, record := range section {
			switch r := record.(type) {
			case *dns.SRV:
				named[dns.CanonicalName(r.Target)] = true
			case *dns.MX:
				named[dns.CanonicalName(r.Mx)] = true
			case *dns.NS:
				named[dns.CanonicalName(r.Ns)] = true
			case *dns.SVCB:
				named[dns.CanonicalName(r.Target)] = true
			case *dns.HTTPS:
				named[dns.CanonicalName(r.Target)] = true
			case *dns.NAPTR:
				named[dns.CanonicalName(r.Replacement)] = true
			}
		}
	}
	return named
}

func keepClass(records []dns.RR, class uint16) []dns.RR {
	return keep(records, class, func(*dns.RR_Header) bool { return true })
}

func keep(records []dns.RR, class uint16, belongs func(*dns.RR_Header) bool) []dns.RR {
	return slices.DeleteFunc(records, func(r dns.RR) bool {
		h := r.Header()
		return h.Rrtype == dns.TypeOPT || h.Class != class && class != dns.ClassANY || !belongs(h)
	})
}

// replyTo makes a client's own reply of a shared one. What an upstream says about errors (RFC 8914) goes on to clients that
// know EDNS; the rest of its OPT was for us.
func replyTo(m, shared *dns.Msg) *dns.Msg {
	reply := shared.Copy()
	reply.Id, reply.Question = m.Id, slices.Clone(m.Question[:1])
	reply.Response, reply.Opcode, reply.RecursionDesired, reply.CheckingDisabled = true, dns.OpcodeQuery, m.RecursionDesired, m.CheckingDisabled
	opt := reply.IsEdns0()
	reply.Extra = slices.DeleteFunc(reply.Extra, func(r dns.RR) bool { return r.Header().Rrtype == dns.TypeOPT })
	if reply.Rcode > 15 { // such codes are between two hops, too
		reply.Rcode, reply.Answer, reply.Ns, reply.Extra = dns.RcodeServerFailure, nil, nil, nil
	}
	if opt == nil || m.IsEdns0() == nil {
		return reply
	}
	said := slices.DeleteFunc(slices.Clone(opt.Option), func(o dns.EDNS0) bool { return o.Option() != dns.EDNS0EDE })
	if len(said) > 0 {
		reply.Extra = append(reply.Extra, &dns.OPT{Hdr: dns.RR_Header{Name: ".", Rrtype: dns.TypeOPT, Class: udpSize}, Option: said})
	}
	return reply
}
