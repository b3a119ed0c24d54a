package sim

import (
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/miekg/dns"

	"github.com/nearpath/nearpath/internal/aliyun"
)

// maxChain is how many CNAME records are followed.
const maxChain = 16

// negativeTTL is how long an answer that says no may be kept, in seconds.
const negativeTTL = 60

// A Resolver answers queries of one VPC from the zones bound to it. It is safe for concurrent use.
type Resolver struct {
	zones *PrivateZone
	vpcID string
}

// Resolver returns the resolver of a VPC.
func (p *PrivateZone) Resolver(vpcID string) *Resolver { return &Resolver{zones: p, vpcID: vpcID} }

// Answer answers a query. Names in no zone are refused: nothing here goes to the outside.
func (r *Resolver) Answer(query *dns.Msg) *dns.Msg {
	m := new(dns.Msg).SetReply(query)
	m.RecursionAvailable = true
	switch {
	case query.Opcode != dns.OpcodeQuery, len(query.Question) != 1:
		m.Rcode = dns.RcodeNotImplemented
	case query.Question[0].Qclass != dns.ClassINET:
		m.Rcode = dns.RcodeRefused
	default:
		r.zones.mu.Lock()
		defer r.zones.mu.Unlock()
		r.answer(m, query.Question[0])
	}
	return m
}

// answer follows the name through zones. The caller holds the lock of the zones.
func (r *Resolver) answer(m *dns.Msg, q dns.Question) {
	name := q.Name
	for range maxChain {
		z, host := r.find(name)
		if z == nil {
			if len(m.Answer) == 0 {
				m.Rcode = dns.RcodeRefused
			}
			return // the end of a chain that leads outside is for the client to find
		}
		records, exists := z.lookup(host)
		if !exists && z.recursive {
			m.Rcode = dns.RcodeRefused
			return
		}
		m.Authoritative = true
		set, target := z.answers(name, host, q.Qtype, records)
		m.Answer = append(m.Answer, set...)
		if target != "" {
			name = target
			continue
		}
		if len(set) == 0 {
			m.Ns = []dns.RR{z.soa()}
		}
		if !exists {
			m.Rcode = dns.RcodeNameError
		}
		return
	}
	m.Rcode = dns.RcodeServerFailure
}

// find returns the zone with the longest name that the name is in, and the host there.
func (r *Resolver) find(name string) (best *dnsZone, host string) {
	name = strings.ToLower(strings.TrimSuffix(name, "."))
	for _, z := range r.zones.zones {
		inside := name == z.name || strings.HasSuffix(name, "."+z.name)
		if inside && slices.Contains(z.vpcs, r.vpcID) && (best == nil || len(z.name) > len(best.name)) {
			best = z
		}
	}
	if best == nil {
		return nil, ""
	}
	return best, strings.TrimSuffix(strings.TrimSuffix(name, best.name), ".")
}

// lookup returns the enabled records at the host, or those of the wildcard that covers it (RFC 4592, section 3.3: only the
// wildcard below the closest name that exists), and whether the name exists.
func (z *dnsZone) lookup(host string) (records []*dnsRecord, exists bool) {
	if host == "" || z.enabledAround[host] > 0 {
		return z.enabled(host), true
	}
	for above, ok := parentKey(host); ok; above, ok = parentKey(above) {
		if above != "" && z.enabledAround[above] == 0 {
			continue
		}
		wildcard := strings.TrimSuffix("*."+above, ".")
		return z.enabled(wildcard), z.enabledAround[wildcard] > 0
	}
	return nil, false
}

func (z *dnsZone) enabled(host string) []*dnsRecord {
	var records []*dnsRecord
	for _, r := range z.byHost[host] {
		if r.Enabled {
			records = append(records, r)
		}
	}
	return records
}

// answers are the records of the type, oldest first, with one TTL for all (RFC 2181, section 5.2), or the CNAME record with
// its target.
func (z *dnsZone) answers(name, host string, qtype uint16, records []*dnsRecord) (set []dns.RR, target string) {
	if host == "" && qtype == dns.TypeSOA {
		return []dns.RR{z.soa()}, ""
	}
	ttl := 0
	for _, r := range records {
		rrtype := dns.StringToType[r.Type]
		if rrtype != qtype && rrtype != dns.TypeCNAME && qtype != dns.TypeANY {
			continue
		}
		if ttl == 0 || r.TTL < ttl {
			ttl = r.TTL
		}
		set = append(set, resourceRecord(name, &r.ZoneRecord))
		if rrtype == dns.TypeCNAME && qtype != dns.TypeCNAME && qtype != dns.TypeANY {
			target = dns.Fqdn(r.Value)
		}
	}
	for _, rr := range set {
		rr.Header().Ttl = uint32(ttl)
	}
	return set, target
}

// resourceRecord is what a record says on the wire. The store holds only values that can be.
func resourceRecord(name string, r *aliyun.ZoneRecord) dns.RR {
	hdr := dns.RR_Header{Name: name, Rrtype: dns.StringToType[r.Type], Class: dns.ClassINET}
	switch r.Type {
	case "A":
		return &dns.A{Hdr: hdr, A: netip.MustParseAddr(r.Value).AsSlice()}
	case "AAAA":
		return &dns.AAAA{Hdr: hdr, AAAA: netip.MustParseAddr(r.Value).AsSlice()}
	case "CNAME":
		return &dns.CNAME{Hdr: hdr, Target: dns.Fqdn(r.Value)}
	case "MX":
		return &dns.MX{Hdr: hdr, Preference: uint16(r.Priority), Mx: dns.Fqdn(r.Value)}
	case "PTR":
		return &dns.PTR{Hdr: hdr, Ptr: dns.Fqdn(r.Value)}
	case "SRV":
		f := strings.Split(r.Value, " ")
		return &dns.SRV{Hdr: hdr, Priority: number16(f[0]), Weight: number16(f[1]), Port: number16(f[2]), Target: dns.Fqdn(f[3])}
	}
	return &dns.TXT{Hdr: hdr, Txt: txtStrings(r.Value)}
}

func number16(s string) uint16 {
	n, _ := strconv.ParseUint(s, 10, 16) // checked when it was stored
	return uint16(n)
}

// txtStrings cuts a value into the strings of a TXT record, of 255 bytes at most (RFC 1035, section 3.3), which is less
// than 255 letters of some alphabets. The library wants them as a zone file would have them, where \ escapes.
func txtStrings(value string) []string {
	var parts []string
	for part := range slices.Chunk([]byte(value), 255) {
		parts = append(parts, strings.ReplaceAll(string(part), `\`, `\\`))
	}
	return parts
}

func (z *dnsZone) soa() dns.RR {
	apex := dns.Fqdn(z.name)
	return &dns.SOA{
		Hdr: dns.RR_Header{Name: apex, Rrtype: dns.TypeSOA, Class: dns.ClassINET, Ttl: negativeTTL},
		Ns:  "privatezone." + apex, Mbox: "hostmaster." + apex, Serial: z.serial,
		Refresh: 3600, Retry: 600, Expire: 86400, Minttl: negativeTTL,
	}
}
