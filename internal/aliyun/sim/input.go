package sim

import (
	"bytes"
	"io"
	"maps"
	"net/http"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/nearpath/nearpath/internal/aliyun"
)

// maxList bounds the index of a list parameter.
const maxList = 1000

// commonParams may come with every action.
var commonParams = []string{
	"Action", "Version", "Format", "AccessKeyId", "RegionId", "Timestamp", "SignatureMethod", "SignatureVersion",
	"SignatureType", "SignatureNonce", "SecurityToken", "Signature",
	"OwnerId", "OwnerAccount", "ResourceOwnerId", "ResourceOwnerAccount", signatureHeader,
}

// An input is the parameters of a request, from the query and the form.
type input map[string]string

func parseInput(r *http.Request) (input, error) {
	if r.Method != http.MethodGet && r.Method != http.MethodPost {
		return nil, &refusal{status: http.StatusMethodNotAllowed, code: "UnsupportedHTTPMethod", message: "Use GET or POST."}
	}
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return nil, refuse(codeInvalidParameter, "The request cannot be read: %v", err)
	}
	r.Body = io.NopCloser(bytes.NewReader(body))
	if err := r.ParseForm(); err != nil {
		return nil, refuse(codeInvalidParameter, "The request cannot be parsed: %v", err)
	}
	r.Body = io.NopCloser(bytes.NewReader(body)) // again, for the signature
	in := input{}
	for k, values := range r.Form {
		if len(values) != 1 {
			return nil, refuse(codeInvalidParameter, "The parameter %q is given %d times.", k, len(values))
		}
		in[k] = values[0]
	}
	return in, in.addHeader(r.Header)
}

// only refuses parameters the action does not know. The real API ignores most; here they are most likely a mistake.
func (in input) only(accepted []string) error {
	for _, name := range slices.Sorted(maps.Keys(in)) {
		if slices.Contains(commonParams, name) || slices.Contains(accepted, pattern(name)) {
			continue
		}
		return refuse(codeUnsupportedParameter, "The parameter %q is not supported.", name)
	}
	return nil
}

// pattern replaces list indices by N.
func pattern(name string) string {
	parts := strings.Split(name, ".")
	for i, p := range parts {
		if n, err := strconv.Atoi(p); err == nil && n > 0 {
			parts[i] = "N"
		}
	}
	return strings.Join(parts, ".")
}

func (in input) text(name string) string { return in[name] }

// need returns a parameter that must be there.
func (in input) need(name string) (string, error) {
	v := in[name]
	if v == "" {
		return "", missing(name)
	}
	return v, nil
}

// number returns a parameter between 1 and most, or absent when it is not there.
func (in input) number(name string, most, absent int) (int, error) {
	v, ok := in[name]
	if !ok || v == "" {
		return absent, nil
	}
	n, err := strconv.Atoi(v)
	if err != nil || n < 1 || n > most {
		return 0, invalid(name, v)
	}
	return n, nil
}

// list returns name.1, name.2 and so on, in the order of their indices.
func (in input) list(name string) []string {
	type item struct {
		index int
		value string
	}
	var items []item
	for k, v := range in {
		tail, ok := strings.CutPrefix(k, name+".")
		if !ok {
			continue
		}
		if n, err := strconv.Atoi(tail); err == nil && n > 0 && n <= maxList && v != "" {
			items = append(items, item{n, v})
		}
	}
	slices.SortFunc(items, func(a, b item) int { return a.index - b.index })
	values := make([]string, len(items))
	for i, it := range items {
		values[i] = it.value
	}
	return values
}

// tags returns Tag.N.Key with Tag.N.Value.
func (in input) tags() (map[string]string, error) {
	tags := map[string]string{}
	for k, key := range in {
		tail, isTag := strings.CutPrefix(k, "Tag.")
		index, isKey := strings.CutSuffix(tail, ".Key")
		if !isTag || !isKey {
			continue
		}
		if _, twice := tags[key]; twice || key == "" {
			return nil, invalid(k, key)
		}
		tags[key] = in["Tag."+index+".Value"]
	}
	return tags, nil
}

// flag returns a boolean parameter, or absent when it is not there.
func (in input) flag(name string, absent bool) (bool, error) {
	switch v := in.text(name); v {
	case "":
		return absent, nil
	case "true", "false":
		return v == "true", nil
	default:
		return false, invalid(name, v)
	}
}

// addresses returns a list of addresses of one family without repetition.
func (in input) addresses(name string, f aliyun.Family) ([]netip.Addr, error) {
	var addrs []netip.Addr
	for _, s := range in.list(name) {
		a, err := netip.ParseAddr(s)
		if err != nil || aliyun.FamilyOf(a) != f || a.Is4In6() || a.Zone() != "" {
			return nil, refuse(codeIPAddress, "The address %q is not valid.", s)
		}
		if slices.Contains(addrs, a) {
			return nil, refuse(codeIPRepeated, "The address %s is repeated.", a)
		}
		addrs = append(addrs, a)
	}
	return addrs, nil
}

// fingerprint is equal for two requests that ask for the same.
func (in input) fingerprint() string {
	var b strings.Builder
	for _, k := range slices.Sorted(maps.Keys(in)) {
		if !slices.Contains(commonParams, k) {
			b.WriteString(percentEncode(k) + "=" + percentEncode(in[k]) + "&")
		}
	}
	return b.String()
}
