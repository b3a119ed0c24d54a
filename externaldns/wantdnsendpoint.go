package externaldns

import (
	"fmt"
	"strings"

	"github.com/nearpath/nearpath/internal/cluster"
)

// askDNSEndpoint publishes the records as they are written.
func (r *wantRules) askDNSEndpoint(s *cluster.Snapshot, name cluster.Name) *asker {
	endpoint := s.DNSEndpoint(name)
	if endpoint == nil {
		return nil
	}
	a := r.asker(s, cluster.DNSEndpoints, endpoint.Meta)
	if !a.admitted() {
		return nil
	}
	for i, set := range endpoint.Records {
		a.recordSet(fmt.Sprintf("spec.endpoints[%d]", i), set)
	}
	return a
}

func (a *asker) recordSet(where string, set cluster.RecordSet) {
	recordType := strings.ToUpper(strings.TrimSpace(set.Type))
	switch recordType {
	case typeA, typeAAAA, typeCNAME, typeTXT, typeSRV, typePTR:
	default:
		a.problem(reasonType, "%s.recordType: %q is not published: use A, AAAA, CNAME, TXT, SRV or PTR", where, set.Type)
		return
	}
	name := canonicalName(set.Name)
	if err := checkWantName(name); err != nil {
		a.problem(reasonName, "%s.dnsName: %q is not a name that can be published: %v", where, set.Name, err)
		return
	}
	if recordType == typePTR && !isReverse(name) {
		a.problem(reasonName, "%s.dnsName: %q is no place for PTR records: they are below in-addr.arpa or ip6.arpa", where, set.Name)
		return
	}
	if recordType != typePTR && !a.rules.inScope(name) {
		return
	}
	ttl := a.rules.TTL
	if set.TTL > 0 {
		ttl = a.snap(set.TTL, where+".recordTTL")
	}
	for _, target := range set.Targets {
		value, err := wantValue(recordType, target)
		if err != nil {
			a.problem(reasonValue, "%s.targets: %q cannot be published as %s: %v", where, target, recordType, err)
			continue
		}
		a.wantFor(name, recordType, value, ttl)
	}
}
