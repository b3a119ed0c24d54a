package autopath

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"unique"

	"github.com/miekg/dns"
)

const (
	// maxSearch is Kubernetes' limit of search domains (MaxDNSSearchPaths); it bounds the lookups for one question.
	maxSearch = 32
	// maxNdots is where glibc, musl and Go cap the option.
	maxNdots = 15
	// ClusterNdots is what kubelet gives to pods of dnsPolicy ClusterFirst.
	ClusterNdots = 5
)

// A Scope is how a client searches: what resolv.conf(5) calls `search` and `ndots`. It is immutable, small and
// comparable: two Scopes are equal when the same searches come of them. The zero value searches nothing.
type Scope struct{ of unique.Handle[scope] }

// A scope is as comparable as a Scope is to be.
type scope struct {
	list  [maxSearch]element
	count int // of the list
	ndots int
}

func (s *scope) elements() []element { return s.list[:s.count] }

// value is that of a Scope that is not zero.
func (s Scope) value() scope { return s.of.Value() }

func (s Scope) zero() bool { return s == Scope{} }

// An element is a domain of the search list.
type element struct {
	domain string // lower case, with the final dot
	local  bool   // answered by the cluster itself
}

// NewScope returns the Scope of a search list, in its order, with or without final dots. Ndots above 15 is 15, as for
// resolvers. Domain is the cluster's: elements in it are asked before anything leaves the cluster. When it is empty,
// those are the first element and the ones it lies in.
//
// Elements that say the same twice, and empty ones, are dropped. Errors name the element.
func NewScope(search []string, ndots int, domain string) (Scope, error) {
	s := scope{ndots: min(max(ndots, 0), maxNdots)}
	var err error
	if domain != "" {
		if domain, err = canonical(domain); err != nil {
			return Scope{}, fmt.Errorf("domain: %w", err)
		}
	}
	for _, text := range search {
		if text == "" {
			continue
		}
		name, err := canonical(text)
		if err != nil {
			return Scope{}, fmt.Errorf("search: %w", err)
		}
		if !s.add(name, domain) {
			return Scope{}, fmt.Errorf("search: more than %d domains", maxSearch)
		}
	}
	if s.count == 0 {
		return Scope{}, nil
	}
	return Scope{unique.Make(s)}, nil
}

// add returns false if there is no room.

func (s *scope) add(name, domain string) bool {
	if slices.ContainsFunc(s.elements(), func(e element) bool { return e.domain == name }) {
		return true
	}
	if s.count == maxSearch {
		return false
	}
	local := domain != "" && below(name, domain)
	if domain == "" {
		local = name != "." && (s.count == 0 || below(s.list[0].domain, name))
	}
	s.list[s.count] = element{name, local}
	s.count++
	return true
}

// Search returns the domains, in order, in lower case, with final dots.
func (s Scope) Search() []string {
	if s.zero() {
		return nil
	}
	v := s.value()
	domains := make([]string, v.count)
	for i, e := range v.elements() {
		domains[i] = e.domain
	}
	return domains
}

// Ndots returns how many dots make a name be asked as it is first.
func (s Scope) Ndots() int {
	if s.zero() {
		return 0
	}
	return s.value().ndots
}

func (s Scope) String() string {
	if s.zero() {
		return "no search"
	}
	v := s.value()
	var b strings.Builder
	b.WriteString("search")
	for _, e := range v.elements() {
		b.WriteByte(' ')
		b.WriteString(e.domain)
		if e.local {
			b.WriteString("(local)")
		}
	}
	b.WriteString(" ndots ")
	b.WriteString(strconv.Itoa(v.ndots))
	return b.String()
}

// canonical returns a domain name as names of questions are spelled once decoded: through the wire, so that `\097` and
// `a` are one (RFC 1035, 5.1; RFC 4343, 2.1), in lower case, with the final dot. A name that still needs escaping is
// refused: no resolver searches it, and the rest of the package may then take every dot for a separator.
func canonical(name string) (string, error) {
	if name == "" || strings.TrimLeft(name, " ") == "" {
		return "", fmt.Errorf("%q is not a domain name", name)
	}
	var wire [255]byte
	end, err := dns.PackDomainName(dns.Fqdn(name), wire[:], 0, nil, false)
	if err != nil {
		return "", fmt.Errorf("%q is not a domain name: %w", name, err)
	}
	text, _, err := dns.UnpackDomainName(wire[:end], 0)
	if err != nil {
		return "", fmt.Errorf("%q is not a domain name: %w", name, err)
	}
	if strings.ContainsFunc(text, func(r rune) bool { return r == '\\' || r <= ' ' || r > '~' }) {
		return "", fmt.Errorf("%q has characters that no host name has", name)
	}
	return lower(text), nil
}

// below reports whether a canonical name is the domain or lies in it.
func below(name, domain string) bool {
	return domain == "." || name == domain || strings.HasSuffix(name, "."+domain)
}

// lower folds ASCII only: RFC 4343, 3.
func lower(name string) string {
	return strings.Map(func(r rune) rune {
		if 'A' <= r && r <= 'Z' {
			return r + 'a' - 'A'
		}
		return r
	}, name)
}
