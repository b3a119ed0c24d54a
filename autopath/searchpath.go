package autopath

import (
	"strings"

	"github.com/miekg/dns"
)

// maxName is the longest name a message can carry, in the text form with the final dot: 255 bytes on the wire
// (RFC 1035, 3.1) are one more than the text of a name without escapes.
const maxName = 254

// A Reason says why a question is answered as it was asked. The zero value is none: the search goes on here.
type Reason uint8

// The reasons, in the order they are looked at.
const (
	NoReason     Reason = iota
	NotQuery            // the message is not one plain query of class IN, or sets CD
	NotAddress          // the type is neither A nor AAAA: other types are seldom searched for
	NoScope             // nobody knows how the client searches
	NotSearched         // the name does not lie in the first element
	Ambiguous           // another element of the search could have made the same name
	EnoughDots          // what is left of the element has ndots dots: the resolver has asked for it as it is
	NotHost             // what is left of it has a label that begins with an underscore, or needs escaping
	Continued           // the client goes on with a search that has failed here
	reasonsCount = iota
)

// Reasons returns every Reason but NoReason.
func Reasons() []Reason {
	var all []Reason
	for r := NotQuery; r < reasonsCount; r++ {
		all = append(all, r)
	}
	return all
}

func (r Reason) String() string {
	return [...]string{
		"none", "not_query", "not_address", "no_scope", "not_searched", "ambiguous", "enough_dots", "not_host", "continued",
	}[r]
}

// A Plan is a client's search: what it would ask for, in order. The first candidate is the name it did ask for.
type Plan struct {
	Base       string // what the client's program gave to its resolver, in its spelling, without final dot
	Type       uint16 // dns.TypeA or dns.TypeAAAA
	Candidates []Candidate
}

// A Candidate is one name of a search.
type Candidate struct {
	Name string // with the final dot, spelled as in the question
	// Local is whether the cluster itself answers for it.
	Local bool
	// Disputed is set where resolvers disagree whether they ask for it, and what follows: for a name that no message can
	// carry, and for the root within the list.
	Disputed bool
}

// Plan returns the search of which name is the first question, or the Reason why it is taken for none, and with
// EnoughDots the Base alone. The name is in the text form of a decoded message, with the final dot.
//
// The search for a single label ends before the first domain outside the cluster: asking the root for it would tell the
// world and bring nothing, and with further domains a name that was typed in full, "db.shop.svc.cluster.local", could not
// be told from a search for "db". The client does the rest.
func (s Scope) Plan(name string, qtype uint16) (Plan, Reason) {
	if qtype != dns.TypeA && qtype != dns.TypeAAAA {
		return Plan{}, NotAddress
	}
	if s.zero() {
		return Plan{}, NoScope
	}
	v := s.value()
	base, reason := v.base(name)
	if reason == EnoughDots {
		return Plan{Base: base}, reason
	}
	if reason != NoReason {
		return Plan{}, reason
	}
	p := Plan{Base: base, Type: qtype, Candidates: make([]Candidate, 0, v.count+1)}
	dotted := strings.Contains(base, ".")
	p.Candidates = append(p.Candidates, Candidate{Name: name, Local: v.list[0].local})
	for i, e := range v.elements()[1:] {
		if !dotted && !e.local {
			return p, NoReason
		}
		if last := i == v.count-2; e.domain != "." || !last { // the root is at the end of every search
			p.add(e, e.domain == ".")
		}
	}
	if dotted {
		p.add(element{domain: "."}, false)
	}
	return p, NoReason
}

// Searches reports whether a question may be the first of a search: whether Plan has one for it.
func (s Scope) Searches(name string, qtype uint16) bool {
	if s.zero() || qtype != dns.TypeA && qtype != dns.TypeAAAA {
		return false
	}
	v := s.value()
	_, reason := v.base(name)
	return reason == NoReason
}

// Passes returns the names on which the answer to a question of a client depends: those of its search, folded, or the
// name alone.
func (s Scope) Passes(name string) []string {
	p, reason := s.Plan(name, dns.TypeA)
	if reason != NoReason {
		return []string{lower(name)}
	}
	names := make([]string, len(p.Candidates))
	for i, c := range p.Candidates {
		names[i] = lower(c.Name)
	}
	return names
}

func (p *Plan) add(e element, disputed bool) {
	name := p.Base + "."
	if e.domain != "." {
		name += e.domain
	}
	p.Candidates = append(p.Candidates, Candidate{Name: name, Local: e.local, Disputed: disputed || len(name) > maxName})
}

// continuations returns the names of a search for base, after the first one, that look like the beginning of another.
func (s *scope) continuations(base string) []string {
	var names []string
	for _, e := range s.elements()[1:] {
		name := base + "."
		if e.domain != "." {
			name += e.domain
		}
		if _, reason := s.base(name); reason == NoReason {
			names = append(names, lower(name))
		}
	}
	if _, reason := s.base(base + "."); reason == NoReason {
		names = append(names, lower(base+"."))
	}
	return names
}

// base returns what is left of the first element.
func (s *scope) base(name string) (string, Reason) {
	folded, first := lower(name), s.list[0].domain
	if first == "." || folded == first || !below(folded, first) {
		return "", NotSearched
	}
	for _, e := range s.elements()[1:] {
		if below(e.domain, first) && below(folded, e.domain) {
			return "", Ambiguous
		}
	}
	base := name[:len(name)-len(first)-1]
	switch {
	case strings.Contains(base, `\`): // a dot in a label, too: the boundary of the element may be none
		return "", NotHost
	case strings.HasPrefix(base, "_") || strings.Contains(base, "._"):
		return "", NotHost
	case strings.Count(base, ".") >= s.ndots:
		return base, EnoughDots
	}
	return base, NoReason
}
