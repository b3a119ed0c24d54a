package externaldns

import (
	"net/netip"
	"strings"
)

// The record types of PrivateZone that have rules here.
const (
	typeA     = "A"
	typeAAAA  = "AAAA"
	typeCNAME = "CNAME"
	typePTR   = "PTR"
	typeSRV   = "SRV"
	typeTXT   = "TXT"
)

// canonical writes a value the one way it is compared in: addresses as netip prints them, names in lower case without
// the final dot. What cannot be read stays as it is: it is somebody else's.
func canonical(recordType, value string) string {
	switch recordType {
	case typeA, typeAAAA:
		if addr, err := netip.ParseAddr(value); err == nil {
			return addr.String()
		}
	case typeCNAME, typePTR:
		return canonicalName(value)
	case typeSRV:
		if fields := strings.Fields(value); len(fields) == 4 {
			fields[3] = canonicalName(fields[3])
			return strings.Join(fields, " ")
		}
	}
	return value
}

func canonicalName(name string) string { return strings.ToLower(strings.TrimSuffix(name, ".")) }

// isAddress reports whether records of the type lead to an address that somebody else may get.
func isAddress(recordType string) bool { return recordType == typeA || recordType == typeAAAA }
