package nodelocaldns

import (
	"net/netip"
	"strings"

	"github.com/miekg/dns"

	"github.com/nearpath/nearpath/internal/cluster"
)

// SchemaVersion is the version of the Kubernetes DNS specification, served as TXT of dns-version.<zone>.
const SchemaVersion = "1.1.0"

const (
	schemaVersionTTL = 28800 // seconds, as CoreDNS
	maxSOATTL        = 300
	soaRefresh       = 7200
	soaRetry         = 1800
	soaExpire        = 86400
)

// A Zone answers for the names of a cluster and for the reverse names of its addresses. It holds configuration only.
type Zone struct {
	Domain string // "cluster.local", with or without the final dot
	TTL    uint32 // seconds, of every answer, positive or negative; 0 lets nobody cache
	// DNSService is the Service whose cluster IPs are the zone's name server, ns.dns.<zone>. The zero value means
	// kube-system/kube-dns.
	DNSService cluster.Name
}

// A Result is a response to be. Its records are the caller's.
type Result struct {
	// Ours is false for names outside the zone and for reverse names of addresses the cluster does not have: somebody
	// else must be asked, and the other fields are zero.
	Ours              bool
	Rcode             int
	Authoritative     bool
	Answer, Ns, Extra []dns.RR
	// Chase is the target of the CNAME the answer ends with, when the question asked for more than the CNAME.
	Chase string
}

// Answer answers a question from the Snapshot alone. Names compare without case; the owner in the answer is spelled as
// in the question. Until the Snapshot is synced the answer is SERVFAIL: absence would be cached for longer than it lasts.
func (z Zone) Answer(s *cluster.Snapshot, q dns.Question) Result { return z.answerOf(s, q, nil) }

// answerOf is Answer for who knows the ready endpoints of the Service in question already: see lookup.
func (z Zone) answerOf(s *cluster.Snapshot, q dns.Question, ready map[string][]target) Result {
	if q.Qclass != dns.ClassINET {
		return Result{}
	}
	q.Name = dns.Fqdn(q.Name)
	name := dns.CanonicalName(q.Name)
	if addr, ok := reverseAddr(name); ok {
		return z.reverse(s, q, addr)
	}
	domain := dns.CanonicalName(z.Domain)
	if !dns.IsSubDomain(domain, name) {
		return Result{}
	}
	l := lookup{zone: z, snapshot: s, question: q, domain: domain, ready: ready}
	if q.Qtype == dns.TypeAXFR || q.Qtype == dns.TypeIXFR {
		return Result{Ours: true, Rcode: dns.RcodeRefused}
	}
	return l.answer(dns.SplitDomainName(strings.TrimSuffix(name, domain)))
}

// A lookup is one question within the zone.
type lookup struct {
	zone     Zone
	snapshot *cluster.Snapshot
	question dns.Question
	domain   string // canonical
	// ready are the ready endpoints of the one Service that the question is about, by label, all of them under "". With it a
	// question costs what its answer holds and not what the Service has. nil: read them.
	ready map[string][]target
}

// answer takes the labels left of the domain.
func (l lookup) answer(labels []string) Result {
	n := len(labels)
	switch {
	case n == 0:
		return l.apex()
	case n == 1 && labels[0] == "dns-version":
		return l.schemaVersion()
	case !l.snapshot.Synced():
		return servfail()
	case n == 2 && labels[0] == "ns" && labels[1] == "dns":
		return l.addresses(l.nameServers())
	case labels[n-1] != "svc" && labels[n-1] != "pod":
		return l.nxdomain()
	case n == 1:
		return l.nodata()
	case !l.snapshot.HasNamespace(labels[n-2]):
		return l.nxdomain()
	case n == 2:
		return l.nodata()
	case labels[n-1] == "pod":
		return l.pod(labels[n-3], labels[:n-3])
	}
	svc := l.snapshot.Service(cluster.Name{Namespace: labels[n-2], Name: labels[n-3]})
	if svc == nil {
		return l.nxdomain()
	}
	return l.service(svc, labels[:n-3])
}

func (l lookup) apex() Result {
	switch l.question.Qtype {
	case dns.TypeSOA:
		return l.records(l.soa())
	case dns.TypeNS:
		return l.nameServer()
	}
	return l.nodata()
}

func (l lookup) nameServer() Result {
	if !l.snapshot.Synced() {
		return servfail()
	}
	host := "ns.dns." + l.domain
	r := l.records(&dns.NS{Hdr: l.header(dns.TypeNS), Ns: host})
	for _, addr := range l.nameServers() {
		r.Extra = append(r.Extra, addressRecord(host, addr, l.zone.TTL))
	}
	return r
}

func (l lookup) nameServers() []netip.Addr {
	if svc := l.snapshot.Service(l.zone.dnsService()); svc != nil {
		return svc.ClusterIPs
	}
	return nil
}

func (z Zone) dnsService() cluster.Name {
	if z.DNSService == (cluster.Name{}) {
		return cluster.Name{Namespace: "kube-system", Name: "kube-dns"}
	}
	return z.DNSService
}

func (l lookup) schemaVersion() Result {
	if l.question.Qtype != dns.TypeTXT {
		return l.nodata()
	}
	txt := &dns.TXT{Hdr: l.header(dns.TypeTXT), Txt: []string{SchemaVersion}}
	txt.Hdr.Ttl = schemaVersionTTL
	return l.records(txt)
}

// pod answers for an address spelled with dashes, without looking whether a pod has it: the `insecure` mode of CoreDNS,
// which is what clusters run.
func (l lookup) pod(label string, left []string) Result {
	addr, ok := dashedAddr(label)
	if !ok || len(left) > 0 {
		return l.nxdomain()
	}
	return l.addresses([]netip.Addr{addr})
}

// addresses answers with those of the family asked for.
func (l lookup) addresses(addrs []netip.Addr) Result {
	var found []dns.RR
	seen := make(map[netip.Addr]struct{}, len(addrs))
	for _, addr := range addrs {
		if _, again := seen[addr]; again || addressType(addr) != l.question.Qtype {
			continue
		}
		seen[addr] = struct{}{}
		found = append(found, addressRecord(l.question.Name, addr, l.zone.TTL))
	}
	return l.records(found...)
}

// records makes a positive answer, or NODATA of none.
func (l lookup) records(rrs ...dns.RR) Result {
	if len(rrs) == 0 {
		return l.nodata()
	}
	return Result{Ours: true, Authoritative: true, Answer: rrs}
}

// nodata and nxdomain are negative answers with the SOA they are cached by: RFC 2308, 3.
func (l lookup) nodata() Result {
	return Result{Ours: true, Authoritative: true, Ns: []dns.RR{l.soa()}}
}

func (l lookup) nxdomain() Result {
	r := l.nodata()
	r.Rcode = dns.RcodeNameError
	return r
}

func servfail() Result { return Result{Ours: true, Rcode: dns.RcodeServerFailure} }

func (l lookup) soa() dns.RR {
	name := l.question.Name
	return &dns.SOA{
		Hdr: dns.RR_Header{
			Name:   name[len(name)-len(l.domain):],
			Rrtype: dns.TypeSOA,
			Class:  dns.ClassINET,
			Ttl:    min(l.zone.TTL, maxSOATTL),
		},
		Ns:      "ns.dns." + l.domain,
		Mbox:    "hostmaster." + l.domain,
		Serial:  uint32(l.snapshot.Changed().Unix()),
		Refresh: soaRefresh,
		Retry:   soaRetry,
		Expire:  soaExpire,
		Minttl:  l.zone.TTL,
	}
}

func (l lookup) header(rrtype uint16) dns.RR_Header {
	return dns.RR_Header{Name: l.question.Name, Rrtype: rrtype, Class: dns.ClassINET, Ttl: l.zone.TTL}
}

func addressType(addr netip.Addr) uint16 {
	if addr.Is4() {
		return dns.TypeA
	}
	return dns.TypeAAAA
}

func addressRecord(owner string, addr netip.Addr, ttl uint32) dns.RR {
	h := dns.RR_Header{Name: owner, Rrtype: addressType(addr), Class: dns.ClassINET, Ttl: ttl}
	if addr.Is4() {
		return &dns.A{Hdr: h, A: addr.AsSlice()}
	}
	return &dns.AAAA{Hdr: h, AAAA: addr.AsSlice()}
}
