package externaldns

import (
	"fmt"
	"math"
	"net/netip"
	"strconv"
	"strings"
	"time"
)

const (
	maxNameLength  = 253 // RFC 1035 3.1, as text without the final dot
	maxLabelLength = 63
	// maxTXT is what PrivateZone's API takes for a value of type TXT.
	maxTXT = 255
)

// checkWantName checks a name in lower case without the final dot. Besides letters and digits it may have "-" and "_", and
// its first label may be "*".
func checkWantName(name string) error {
	if name == "" {
		return fmt.Errorf("it is empty")
	}
	if len(name) > maxNameLength {
		return fmt.Errorf("it has %d characters: %d are the most", len(name), maxNameLength)
	}
	for label := range strings.SplitSeq(strings.TrimPrefix(name, "*."), ".") {
		if err := checkLabel(label); err != nil {
			return err
		}
	}
	return nil
}

func checkLabel(label string) error {
	switch {
	case label == "":
		return fmt.Errorf("a label between dots is empty")
	case len(label) > maxLabelLength:
		return fmt.Errorf("label %q has %d characters: %d are the most", label, len(label), maxLabelLength)
	case strings.HasPrefix(label, "-") || strings.HasSuffix(label, "-"):
		return fmt.Errorf("label %q starts or ends with a hyphen", label)
	}
	for _, c := range label {
		if c >= 0x80 {
			return fmt.Errorf("label %q has %q: write international names in their xn-- form", label, c)
		}
		if !isLowerOrDigit(byte(c)) && c != '-' && c != '_' {
			return fmt.Errorf("label %q has %q: use letters, digits, - and _", label, c)
		}
	}
	return nil
}

// checkHost checks a name that an address is to be found under: a value of CNAME, SRV or PTR.
func checkHost(name string) error {
	if _, err := netip.ParseAddr(name); err == nil {
		return fmt.Errorf("it is an address, not a name")
	}
	if strings.HasPrefix(name, "*") {
		return fmt.Errorf("it is a wildcard")
	}
	return checkWantName(name)
}

// addressValue returns the type and the value for an address.
func addressValue(addr netip.Addr) (recordType, value string, _ error) {
	if !addr.IsValid() || addr.Zone() != "" || addr.IsUnspecified() || addr.IsMulticast() {
		return "", "", fmt.Errorf("it is not the address of a host")
	}
	if addr = addr.Unmap(); addr.Is4() {
		return typeA, addr.String(), nil
	}
	return typeAAAA, addr.String(), nil
}

// targetValue tells what a target is by its looks: an address, or a name for a CNAME.
func targetValue(target string) (recordType, value string, _ error) {
	if addr, err := netip.ParseAddr(target); err == nil {
		return addressValue(addr)
	}
	name := canonicalName(target)
	return typeCNAME, name, checkHost(name)
}

// wantValue checks a value that was asked for with its type, and writes it as PrivateZone does.
func wantValue(recordType, value string) (string, error) {
	switch recordType {
	case typeA, typeAAAA:
		addr, err := netip.ParseAddr(strings.TrimSpace(value))
		if err != nil {
			return "", fmt.Errorf("it is not an address")
		}
		family, value, err := addressValue(addr)
		if err == nil && family != recordType {
			err = fmt.Errorf("it is an address for type %s", family)
		}
		return value, err
	case typeCNAME, typePTR:
		name := canonicalName(strings.TrimSpace(value))
		return name, checkHost(name)
	case typeSRV:
		return srvValue(value)
	default:
		return txtValue(value)
	}
}

// srvValue reads "priority weight port target": RFC 2782.
func srvValue(value string) (string, error) {
	fields := strings.Fields(value)
	if len(fields) != 4 {
		return "", fmt.Errorf("write it as priority weight port target")
	}
	for i, number := range fields[:3] {
		n, err := strconv.ParseUint(number, 10, 16)
		if err != nil {
			return "", fmt.Errorf("%q is not within 0 to 65535", number)
		}
		fields[i] = strconv.FormatUint(n, 10)
	}
	fields[3] = canonicalName(fields[3])
	return strings.Join(fields, " "), checkHost(fields[3])
}

// txtValue takes away the quotes that a zone file would have.
func txtValue(value string) (string, error) {
	if inner, ok := strings.CutPrefix(value, `"`); ok && strings.HasSuffix(inner, `"`) {
		value = strings.TrimSuffix(inner, `"`)
	}
	if value == "" || len(value) > maxTXT {
		return "", fmt.Errorf("it has %d characters: use 1 to %d", len(value), maxTXT)
	}
	for _, c := range value {
		if c < ' ' || c == 0x7f || c == '\uFFFD' {
			return "", fmt.Errorf("it has the unprintable %q", c)
		}
	}
	return value, nil
}

// reverseName is where the PTR record of an address is: RFC 1035 3.5, RFC 3596 2.5.
func reverseName(addr netip.Addr) string {
	var b strings.Builder
	if addr.Is4() {
		a := addr.As4()
		fmt.Fprintf(&b, "%d.%d.%d.%d.in-addr.arpa", a[3], a[2], a[1], a[0])
		return b.String()
	}
	const digits = "0123456789abcdef"
	a := addr.As16()
	for i := len(a) - 1; i >= 0; i-- {
		b.Write([]byte{digits[a[i]&15], '.', digits[a[i]>>4], '.'})
	}
	b.WriteString("ip6.arpa")
	return b.String()
}

func isReverse(name string) bool {
	return strings.HasSuffix(name, ".in-addr.arpa") || strings.HasSuffix(name, ".ip6.arpa")
}

const defaultWantTTL = 60

// acceptedTTLs are those PrivateZone takes, in seconds.
func acceptedTTLs() []int { return []int{5, 30, 60, 3600, 43200, 86400} }

// snapTTL returns the longest accepted TTL that is not longer than the one asked for: nobody then serves a record longer
// than was allowed. Below all of them it is the shortest.
func snapTTL(seconds int64) (ttl int, exact bool) {
	ttl = acceptedTTLs()[0]
	for _, accepted := range acceptedTTLs() {
		if int64(accepted) <= seconds {
			ttl = accepted
		}
	}
	return ttl, int64(ttl) == seconds
}

// parseTTL reads seconds, or a duration as Go writes it, of which a part of a second is cut off.
func parseTTL(text string) (seconds int64, _ error) {
	text = strings.TrimSpace(text)
	if d, err := time.ParseDuration(text); err == nil {
		seconds = int64(d / time.Second)
	} else if seconds, err = strconv.ParseInt(text, 10, 64); err != nil {
		return 0, fmt.Errorf("%q is neither seconds nor a duration such as 1m", text)
	}
	if seconds < 1 || seconds > math.MaxInt32 {
		return 0, fmt.Errorf("%q is not within 1 s to %d s", text, math.MaxInt32)
	}
	return seconds, nil
}
