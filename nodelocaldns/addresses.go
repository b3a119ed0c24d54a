package nodelocaldns

import (
	"net/netip"
	"time"

	"github.com/miekg/dns"
)

// maxChain bounds the CNAMEs of an answer that are followed.
const maxChain = 16

// NameAddrs are addresses that an answer gives for a name.
type NameAddrs struct {
	Name  string // folded, with the dot at the end
	Addrs []netip.Addr
	TTL   time.Duration // the shortest on the way from the name to the addresses
}

// Addresses returns the addresses that an answer gives for the name that was asked for, and for every name that its CNAMEs
// lead through. Records of other names say nothing.
func Addresses(m *dns.Msg) []NameAddrs {
	if !m.Response || m.Rcode != dns.RcodeSuccess || len(m.Question) != 1 || m.Question[0].Qclass != dns.ClassINET {
		return nil
	}
	chain := chainOf(m)
	for _, rr := range m.Answer {
		if addr, ok := addressIn(rr); ok {
			enter(chain, addr, rr.Header())
		}
	}
	if len(chain[0].Addrs) == 0 {
		return nil
	}
	for at := range chain { // those behind the addresses have none
		if len(chain[at].Addrs) == 0 {
			return chain[:at]
		}
	}
	return chain
}

// chainOf returns the name that was asked for, and those that its CNAMEs lead through.
func chainOf(m *dns.Msg) []NameAddrs {
	chain := []NameAddrs{{Name: foldName(m.Question[0].Name), TTL: longestTTL}}
	for len(chain) <= maxChain {
		next, ok := targetOf(m, chain[len(chain)-1].Name)
		if !ok {
			break
		}
		chain = append(chain, NameAddrs{Name: foldName(next.Target), TTL: longestTTL})
		shorten(chain[:len(chain)-1], next.Hdr.Ttl)
	}
	return chain
}

// enter gives an address to the name that its record is of, and to those that lead there.
func enter(chain []NameAddrs, addr netip.Addr, h *dns.RR_Header) {
	for at := range chain {
		if chain[at].Name != foldName(h.Name) {
			continue
		}
		shorten(chain[:at+1], h.Ttl)
		for before := range chain[:at+1] {
			chain[before].Addrs = append(chain[before].Addrs, addr)
		}
	}
}

// longestTTL is the longest there is: RFC 2181, 8.
const longestTTL = (1<<31 - 1) * time.Second

func shorten(names []NameAddrs, seconds uint32) {
	for i := range names {
		names[i].TTL = min(names[i].TTL, time.Duration(seconds)*time.Second)
	}
}

func targetOf(m *dns.Msg, name string) (*dns.CNAME, bool) {
	for _, rr := range m.Answer {
		if cname, ok := rr.(*dns.CNAME); ok && foldName(cname.Hdr.Name) == name {
			return cname, true
		}
	}
	return nil, false
}

func addressIn(rr dns.RR) (netip.Addr, bool) {
	var addr netip.Addr
	var ok bool
	switch rr := rr.(type) {
	case *dns.A:
		addr, ok = netip.AddrFromSlice(rr.A)
	case *dns.AAAA:
		addr, ok = netip.AddrFromSlice(rr.AAAA)
	}
	return addr.Unmap(), ok
}
