package nodelocaldns

import (
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/miekg/dns"

	"github.com/nearpath/nearpath/internal/cluster"
)

const (
	reverseZone4 = ".in-addr.arpa."
	reverseZone6 = ".ip6.arpa."
)

// reverse answers PTR questions for addresses of the cluster: a cluster IP leads to its Service, an endpoint's address to
// the endpoint's name in each of its Services. Every other question is somebody else's.
func (z Zone) reverse(s *cluster.Snapshot, q dns.Question, addr netip.Addr) Result {
	if q.Qtype != dns.TypePTR {
		return Result{}
	}
	if !s.Synced() {
		return servfail() // whether the address is ours is not known yet
	}
	r := Result{Ours: true, Authoritative: true}
	for _, host := range z.hosts(s, addr) {
		r.Answer = append(r.Answer, &dns.PTR{
			Hdr: dns.RR_Header{Name: q.Name, Rrtype: dns.TypePTR, Class: dns.ClassINET, Ttl: z.TTL},
			Ptr: host,
		})
	}
	if len(r.Answer) == 0 {
		return Result{}
	}
	return r
}

// hosts returns the names that lead to an address.
func (z Zone) hosts(s *cluster.Snapshot, addr netip.Addr) []string {
	domain := dns.CanonicalName(z.Domain)
	if svc := s.ServiceByIP(addr); svc != nil {
		return []string{serviceHost(svc.Name, domain)}
	}
	var hosts []string
	for _, found := range s.EndpointsByIP(addr) {
		svc := s.Service(found.Service)
		if svc == nil || svc.ExternalName != "" || !isReady(svc, found.Endpoint) {
			continue
		}
		host := endpointLabel(found.Endpoint) + "." + serviceHost(svc.Name, domain)
		if !slices.Contains(hosts, host) {
			hosts = append(hosts, host)
		}
	}
	return hosts
}

// reverseAddr reads the reverse name of one whole address: RFC 1035, 3.5 and RFC 3596, 2.5. The name is canonical.
func reverseAddr(name string) (netip.Addr, bool) {
	if digits, ok := strings.CutSuffix(name, reverseZone4); ok {
		return reverseAddr4(strings.Split(digits, "."))
	}
	if digits, ok := strings.CutSuffix(name, reverseZone6); ok {
		return reverseAddr6(strings.Split(digits, "."))
	}
	return netip.Addr{}, false
}

func reverseAddr4(labels []string) (netip.Addr, bool) {
	if len(labels) != 4 {
		return netip.Addr{}, false
	}
	slices.Reverse(labels)
	addr, err := netip.ParseAddr(strings.Join(labels, "."))
	return addr, err == nil
}

func reverseAddr6(labels []string) (netip.Addr, bool) {
	var b [16]byte
	if len(labels) != 2*len(b) {
		return netip.Addr{}, false
	}
	for i, label := range labels {
		nibble, err := strconv.ParseUint(label, 16, 4)
		if err != nil || len(label) != 1 {
			return netip.Addr{}, false
		}
		at := len(b) - 1 - i/2
		b[at] |= byte(nibble) << (4 * (i % 2))
	}
	return netip.AddrFrom16(b).Unmap(), true
}
