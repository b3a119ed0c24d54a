package sim

import (
	"cmp"
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode"

	"github.com/nearpath/nearpath/internal/aliyun"
)

// Error codes of PrivateZone. They come with status 400. Those the vendor documents, or that clients are known to look for,
// are marked; the names of the others are a guess by their pattern.
const (
	codeRecordConflict = "Record.Invalid.Conflict" // known
	codeZoneNotExists  = "Zone.NotExists"          // known
	codeZoneID         = "Zone.Invalid.Id"         // known
	codeZoneVPC        = "ZoneVpc.NotExists.VpcId" // known
	codeZoneVPCExists  = "Zone.VpcExists"          // known
	codeZoneRemark     = "Zone.Remark"             // known

	codeRecordNotExists = "Record.NotExists"
	codeRecordHost      = "Record.Invalid.Rr"
	codeRecordType      = "Record.Invalid.Type"
	codeRecordValue     = "Record.Invalid.Value"
	codeRecordTTL       = "Record.Invalid.Ttl"
	codeRecordPriority  = "Record.Invalid.Priority"
	codeRecordLine      = "Record.Invalid.Line"
	codeRecordWeight    = "Record.Invalid.Weight"
	codeRecordStatus    = "Record.Invalid.Status"
	codeZoneName        = "Zone.Invalid.Name"
	codeZoneVPCTaken    = "ZoneVpc.Conflict"
	codeZoneQuota       = "QuotaExceeded.Zone"
	codeRecordQuota     = "QuotaExceeded.Record"
	codeZoneVPCQuota    = "QuotaExceeded.ZoneVpc"
)

const (
	defaultTTL      = 60
	defaultPriority = 10
	defaultLine     = "default"
	maxPriority     = 99
	maxWeight       = 100
	maxRemark       = 50
	maxTXT          = 255
)

var (
	acceptedTTLs = []int{5, 30, 60, 3600, 43200, 86400}
	labelPattern = regexp.MustCompile(`^[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?$`)
	srvPattern   = regexp.MustCompile(`^_[A-Za-z0-9-]+\._[A-Za-z]+(\..+)?$`)
	nibble       = regexp.MustCompile(`^[0-9a-fA-F]$`)
)

// complete fills in what a record may leave out and refuses one the zone cannot have. Self is the record's own ID, 0 for a
// new one.
func (p *PrivateZone) complete(r *aliyun.ZoneRecord, z *dnsZone, self int64) error {
	r.TTL, r.Line, r.Weight = cmp.Or(r.TTL, defaultTTL), cmp.Or(r.Line, defaultLine), cmp.Or(r.Weight, 1)
	if !slices.Contains([]string{"A", "AAAA", "CNAME", "MX", "PTR", "SRV", "TXT"}, r.Type) {
		return refuse(codeRecordType, "The record type %q is invalid.", r.Type)
	}
	if !isHost(r.RR, r.Type, z) {
		return refuse(codeRecordHost, "The host record %q is invalid for the type %s in %s.", r.RR, r.Type, z.name)
	}
	if !p.isValue(r.Type, r.Value) {
		return refuse(codeRecordValue, "The record value %q is invalid for the type %s.", r.Value, r.Type)
	}
	if !slices.Contains(acceptedTTLs, r.TTL) {
		if !p.cfg.RoundTTL {
			return refuse(codeRecordTTL, "The TTL %d is invalid.", r.TTL)
		}
		r.TTL = nearestTTL(r.TTL)
	}
	if r.Type == "MX" {
		r.Priority = cmp.Or(r.Priority, defaultPriority)
	} else {
		r.Priority = 0
	}
	if r.Priority > maxPriority || r.Priority < 0 {
		return refuse(codeRecordPriority, "The priority %d is invalid.", r.Priority)
	}
	if err := checkShare(r, z); err != nil {
		return err
	}
	if err := p.checkRemark(r.Remark); err != nil {
		return err
	}
	return z.conflict(r, self)
}

// checkShare checks line and weight, which accelerated zones have.
func checkShare(r *aliyun.ZoneRecord, z *dnsZone) error {
	if r.Line != defaultLine && !z.accelerated {
		return refuse(codeRecordLine, "The line %q is not supported.", r.Line)
	}
	weighted := z.accelerated && slices.Contains([]string{"A", "AAAA", "CNAME"}, r.Type)
	if r.Weight < 1 || r.Weight > maxWeight || r.Weight != 1 && !weighted {
		return refuse(codeRecordWeight, "The weight %d is not supported.", r.Weight)
	}
	return nil
}

// conflict refuses a record that is there already, and a CNAME record beside any other.
func (z *dnsZone) conflict(r *aliyun.ZoneRecord, self int64) error {
	for _, o := range z.byHost[hostKey(r.RR)] {
		if o.ID == self {
			continue
		}
		same := o.Type == r.Type && o.Line == r.Line && canonical(o.Type, o.Value) == canonical(r.Type, r.Value)
		if same || o.Type == "CNAME" || r.Type == "CNAME" {
			return refuse(codeRecordConflict, "The record conflicts with %s %s %s.", o.RR, o.Type, o.Value)
		}
	}
	return nil
}

// canonical is equal for two values that mean the same.
func canonical(rrtype, value string) string {
	switch rrtype {
	case "A", "AAAA":
		if a, err := netip.ParseAddr(value); err == nil {
			return a.String()
		}
	case "CNAME", "MX", "PTR", "SRV":
		return strings.ToLower(strings.TrimSuffix(value, "."))
	}
	return value
}

func nearestTTL(ttl int) int {
	return slices.MinFunc(acceptedTTLs, func(a, b int) int { return cmp.Compare(max(a-ttl, ttl-a), max(b-ttl, ttl-b)) })
}

// isHost reports whether a record of the type may be at the host.
func isHost(rr, rrtype string, z *dnsZone) bool {
	if len(rr)+1+len(z.name) > 253 || rrtype == "PTR" && !z.reverse() {
		return false
	}
	if rr == "@" {
		return rrtype != "SRV"
	}
	labels := strings.Split(rr, ".")
	for i, l := range labels {
		if !labelPattern.MatchString(l) && (i != 0 || l != "*") {
			return false
		}
	}
	switch rrtype {
	case "SRV":
		return srvPattern.MatchString(rr)
	case "PTR":
		return isReverseHost(labels, z.name)
	}
	return true
}

// isReverseHost reports whether the labels continue the reverse zone towards one address.
func isReverseHost(labels []string, zone string) bool {
	most, ok := 4, func(l string) bool {
		n, err := strconv.ParseUint(l, 10, 8)
		return l == "*" || err == nil && strconv.FormatUint(n, 10) == l
	}
	if strings.HasSuffix(zone, "ip6.arpa") {
		most, ok = 32, func(l string) bool { return l == "*" || nibble.MatchString(l) }
	}
	have := strings.Count(zone, ".") - 1
	return len(labels)+have <= most && !slices.ContainsFunc(labels, func(l string) bool { return !ok(l) })
}

// isValue reports whether a record of the type may have the value.
func (p *PrivateZone) isValue(rrtype, value string) bool {
	addr, err := netip.ParseAddr(value)
	switch rrtype {
	case "A":
		return err == nil && addr.Is4()
	case "AAAA":
		return err == nil && addr.Is6() && addr.Zone() == ""
	case "SRV":
		return isSRV(value)
	case "TXT":
		return value != "" && len([]rune(value)) <= maxTXT && (p.cfg.CommaInTXT || !strings.Contains(value, ","))
	}
	return err != nil && isName(value)
}

// isSRV reports whether the value is priority, weight, port and target.
func isSRV(value string) bool {
	fields := strings.Split(value, " ")
	if len(fields) != 4 {
		return false
	}
	for _, f := range fields[:3] {
		if _, err := strconv.ParseUint(f, 10, 16); err != nil {
			return false
		}
	}
	return isName(fields[3])
}

// isName reports whether the text is a domain name, with or without the final dot.
func isName(s string) bool {
	s = strings.TrimSuffix(s, ".")
	return s != "" && len(s) <= 253 && !slices.ContainsFunc(strings.Split(s, "."), func(l string) bool { return !labelPattern.MatchString(l) })
}

// isZoneName reports whether a zone may have the name. One label is allowed: "local" is what many use.
func isZoneName(s string) bool { return isName(s) && !strings.HasSuffix(s, ".") }

func (p *PrivateZone) checkRemark(remark string) error {
	allowed := func(r rune) bool {
		return r < unicode.MaxASCII && (unicode.IsLetter(r) || unicode.IsDigit(r)) || unicode.Is(unicode.Han, r) || strings.ContainsRune("_-,.", r)
	}
	odd := func(r rune) bool { return !p.cfg.AnyRemark && !allowed(r) }
	if len([]rune(remark)) > maxRemark || strings.ContainsFunc(remark, odd) {
		return refuse(codeZoneRemark, "The remark %q is invalid.", remark)
	}
	return nil
}
