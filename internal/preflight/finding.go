package preflight

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// A Severity says what a Finding calls for.
type Severity uint8

// Severities, the mildest first.
const (
	// OK: what was looked at is right.
	OK Severity = iota
	// Unknown: it cannot be said, mostly because the credentials may not read something.
	Unknown
	// Warning: it works, but not for everything or not for long.
	Warning
	// Error: it does not work.
	Error
)

// String is one lower-case word.
func (s Severity) String() string {
	return [...]string{"ok", "unknown", "warning", "error"}[s]
}

// A Finding is the outcome of one check on one object. Check and Object identify it over time.
type Finding struct {
	Check    string // stable, such as service-cidr-overlap
	Object   string // an ID of the cloud, or a range with its kind
	Severity Severity
	Result   string    // a few words, such as "no SNAT entry"; changes only when the meaning does
	Values   [2]string // what was compared; the second may be empty
	Fix      string    // empty when there is nothing to do
}

// String is one line.
func (f Finding) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s: %s %s: %s (%s", f.Severity, f.Check, f.Object, f.Result, f.Values[0])
	if f.Values[1] != "" {
		b.WriteString("; " + f.Values[1])
	}
	b.WriteByte(')')
	if f.Fix != "" {
		b.WriteString(": " + f.Fix)
	}
	return b.String()
}

// problem reports whether somebody should do something about it.
func (f Finding) problem() bool { return f.Severity >= Warning }

type findingKey struct{ check, object string }

func (f Finding) key() findingKey { return findingKey{f.Check, f.Object} }

// sorted puts the worst first and leaves out repetitions. The same findings in any order give the same list.
func sorted(findings []Finding) []Finding {
	slices.SortFunc(findings, func(a, b Finding) int {
		return cmp.Or(cmp.Compare(b.Severity, a.Severity), cmp.Compare(a.Check, b.Check), cmp.Compare(a.Object, b.Object),
			cmp.Compare(a.Values[0], b.Values[0]), cmp.Compare(a.Values[1], b.Values[1]))
	})
	return slices.CompactFunc(findings, func(a, b Finding) bool { return a.key() == b.key() })
}

// A Change is a Finding that is new or means something else than before, or that is no longer true.
type Change struct {
	Finding
	// Resolved: the check found nothing wrong any more. Finding is then the last one that did.
	Resolved bool
}

// Diff returns what changed, in the order of after and then of before. Other values with the same result are no change:
// free addresses come and go.
func Diff(before, after []Finding) []Change {
	was := map[findingKey]Finding{}
	for _, f := range before {
		was[f.key()] = f
	}
	var changes []Change
	for _, f := range after {
		old, known := was[f.key()]
		delete(was, f.key())
		switch {
		case f.Severity != OK && (f.Severity != old.Severity || f.Result != old.Result):
			changes = append(changes, Change{Finding: f})
		case f.Severity == OK && known && old.Severity != OK:
			changes = append(changes, Change{Finding: old, Resolved: true})
		}
	}
	for _, f := range before {
		if _, gone := was[f.key()]; gone && f.Severity != OK {
			changes = append(changes, Change{Finding: f, Resolved: true})
		}
	}
	return changes
}
