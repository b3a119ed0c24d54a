package externaldns

import (
	"crypto/sha256"
	"encoding/base32"
	"fmt"
	"strings"
)

const (
	// remarkPrefix begins every remark of this program; the number is the version of the form.
	remarkPrefix = "np1."
	// maxOwner and hashLen keep a remark at 45 of the 50 characters that PrivateZone takes.
	maxOwner = 16
	hashLen  = 24
	// maxRemark is PrivateZone's limit for a remark, in characters (error Zone.Remark).
	maxRemark = 50
)

// An Owner names one instance: the replicas that run for one cluster. Records carry it in their remark.
type Owner string

// ParseOwner checks an owner id: 1 to 16 of a-z, 0-9, "-" and "_", starting and ending with a letter or digit. A dot
// would end the id inside a remark.
func ParseOwner(s string) (Owner, error) {
	if s == "" || len(s) > maxOwner {
		return "", fmt.Errorf("owner %q has %d characters: use 1 to %d", s, len(s), maxOwner)
	}
	for i, c := range []byte(s) {
		inner := i > 0 && i < len(s)-1
		if !isLowerOrDigit(c) && (!inner || c != '-' && c != '_') {
			return "", fmt.Errorf("owner %q has %q at %d: use a-z and 0-9, between them also - and _", s, c, i)
		}
	}
	return Owner(s), nil
}

func isLowerOrDigit(c byte) bool { return 'a' <= c && c <= 'z' || '0' <= c && c <= '9' }

// Remark is what a record of the owner for the object carries.
func (o Owner) Remark(object Object) string {
	return remarkPrefix + string(o) + "." + HashObject(object)
}

// HashObject is the short form of an object in a remark: 24 characters, 120 bits, of the base32 of SHA-256 over the
// object without its UID. It only helps to find the object; ownership is by owner.
func HashObject(object Object) string {
	sum := sha256.Sum256([]byte(object.String()))
	return strings.ToLower(base32.StdEncoding.EncodeToString(sum[:15]))
}

// A Mark is what a remark of this program says.
type Mark struct {
	Owner Owner
	Hash  string // of the object; empty when somebody cut it off
}

// ParseRemark reads a remark. Remarks of others, and those that only look like one of ours, give false.
func ParseRemark(s string) (Mark, bool) {
	rest, ok := strings.CutPrefix(s, remarkPrefix)
	if !ok || len(s) > maxRemark {
		return Mark{}, false
	}
	id, hash, _ := strings.Cut(rest, ".")
	owner, err := ParseOwner(id)
	if err != nil || len(hash) > hashLen || strings.ContainsFunc(hash, notBase32) {
		return Mark{}, false
	}
	return Mark{owner, hash}, true
}

func notBase32(c rune) bool { return (c < 'a' || c > 'z') && (c < '2' || c > '7') }

// An Ownership says whose a record is.
type Ownership uint8

// Whose a record may be.
const (
	// Foreign records were made by people or other programs: they are never changed.
	Foreign Ownership = iota
	// Sibling records are of this program for another owner: they are never changed, but share names with ours.
	Sibling
	// Ours may be changed.
	Ours
)

func (o Ownership) String() string { return [...]string{"foreign", "sibling", "ours"}[o] }

// Of says whose a record with the remark is.
func (o Owner) Of(remark string) Ownership {
	switch mark, ok := ParseRemark(remark); {
	case !ok:
		return Foreign
	case mark.Owner == o:
		return Ours
	default:
		return Sibling
	}
}

// CCMRemark is what the cloud provider's controller writes on all its records, whatever the cluster.
const CCMRemark = "record.managed.by.ack.ccm"

// A Heritage is what a TXT record of external-dns says: its registry keeps ownership in such records.
type Heritage struct {
	Owner    string
	Resource string // kind/namespace/name; empty when the record has none
}

// ParseHeritage reads the value of a TXT record. Quotes around it and ";" for "," are read too: providers for clouds
// that take neither quotes nor commas write them so.
func ParseHeritage(value string) (Heritage, bool) {
	value = strings.ReplaceAll(strings.Trim(value, `"`), ";", ",")
	var h Heritage
	ours := false
	for pair := range strings.SplitSeq(value, ",") {
		key, v, _ := strings.Cut(strings.TrimSpace(pair), "=")
		switch key {
		case "heritage":
			ours = v == "external-dns"
		case "external-dns/owner":
			h.Owner = v
		case "external-dns/resource":
			h.Resource = v
		}
	}
	return h, ours && h.Owner != ""
}

// An Affix is how external-dns was told to name its TXT records: --txt-prefix or --txt-suffix.
type Affix struct{ Prefix, Suffix string }

// recordTypeToken stands for the type in an affix.
const recordTypeToken = "%{record_type}"

// Owned says which record sets a TXT record of external-dns at txtName stands for: of one type at name, or, with an
// empty type, of any at name (records of before version 0.12). Without an affix of the type, its first label starts with
// "a-" and so on.
func (a Affix) Owned(txtName string) (name, recordType string) {
	for _, t := range []string{"A", "AAAA", "CNAME", "SRV", "MX", "PTR"} {
		lower := strings.ToLower(t)
		if strings.Contains(a.Prefix+a.Suffix, recordTypeToken) {
			b := Affix{strings.ReplaceAll(a.Prefix, recordTypeToken, lower), strings.ReplaceAll(a.Suffix, recordTypeToken, lower)}
			if name, ok := b.strip(txtName); ok {
				return name, t
			}
		} else if name, ok := (Affix{a.Prefix + lower + "-", a.Suffix}).strip(txtName); ok {
			return name, t
		}
	}
	b := Affix{strings.ReplaceAll(a.Prefix, recordTypeToken, ""), strings.ReplaceAll(a.Suffix, recordTypeToken, "")}
	name, _ = b.strip(txtName)
	return name, ""
}

// strip takes the prefix from the name and the suffix from its first label.
func (a Affix) strip(name string) (string, bool) {
	rest, ok := strings.CutPrefix(name, a.Prefix)
	if !ok || rest == "" {
		return "", false
	}
	label, parent, _ := strings.Cut(rest, ".")
	label, ok = strings.CutSuffix(label, a.Suffix)
	if !ok || label == "" {
		return "", false
	}
	if parent == "" {
		return label, true
	}
	return label + "." + parent, true
}
