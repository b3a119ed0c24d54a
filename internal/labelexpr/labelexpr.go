// Package labelexpr reads the selector expressions of Calico's policies, as Calico's own parser does
// (libcalico-go/lib/selector at release 3.32): what one of the two takes, the other one takes, with the same meaning.
//
//	label == "value"   label != 'value'    != also holds when the label is missing
//	label in {"a", "b"}   label not in {"a"}   likewise, not in also holds for a missing label
//	label contains "x"   label starts with "x"   label ends with "x"
//	has(label)   all()   global()
//	!expr   expr && expr   expr || expr   (expr)
//
// && binds closer than ||. Strings have no escapes; one of either quote may hold the other one.
package labelexpr

import (
	"errors"
	"slices"
	"strings"
)

// maxDepth bounds nested parentheses, and thereby the stack.
const maxDepth = 200

// An Expr is a parsed expression. It is immutable. The nil Expr, of an empty text, is all().
type Expr struct {
	op   op
	name string   // of the label, for the operators that have one
	text []string // the values: one, or any number for in and notIn
	args []*Expr  // of not, and, or
}

type op uint8

const (
	all op = iota
	global
	has
	equal
	notEqual
	in
	notIn
	contains
	startsWith
	endsWith
	not
	and
	or
)

// Labels returns a label's value, and whether there is one.
type Labels func(name string) (string, bool)

// A Place is where an expression is evaluated.
type Place struct {
	Labels Labels
	// All and Global are the values of all() and global().
	All, Global bool
}

// Holds evaluates the expression.
func (e *Expr) Holds(at Place) bool {
	if e == nil {
		return at.All
	}
	switch e.op {
	case all:
		return at.All
	case global:
		return at.Global
	case not:
		return !e.args[0].Holds(at)
	case and:
		return !slices.ContainsFunc(e.args, func(arg *Expr) bool { return !arg.Holds(at) })
	case or:
		return slices.ContainsFunc(e.args, func(arg *Expr) bool { return arg.Holds(at) })
	}
	value, ok := at.Labels(e.name)
	switch e.op {
	case notEqual, notIn:
		return !ok || !slices.Contains(e.text, value)
	case has:
		return ok
	}
	return ok && e.is(value)
}

func (e *Expr) is(value string) bool {
	switch e.op {
	case contains:
		return strings.Contains(value, e.text[0])
	case startsWith:
		return strings.HasPrefix(value, e.text[0])
	case endsWith:
		return strings.HasSuffix(value, e.text[0])
	}
	return slices.Contains(e.text, value) // equal, in
}

// Names returns the labels that are looked at, sorted, each once.
func (e *Expr) Names() []string {
	var names []string
	e.walk(func(x *Expr) {
		if x.name != "" {
			names = append(names, x.name)
		}
	})
	slices.Sort(names)
	return slices.Compact(names)
}

// IsGlobal is whether the expression is global() and nothing else, UsesGlobal whether it occurs.
func (e *Expr) IsGlobal() bool { return e != nil && e.op == global }

// UsesGlobal is whether global() occurs.
func (e *Expr) UsesGlobal() bool {
	found := false
	e.walk(func(x *Expr) { found = found || x.op == global })
	return found
}

func (e *Expr) walk(visit func(*Expr)) {
	if e == nil {
		return
	}
	visit(e)
	for _, arg := range e.args {
		arg.walk(visit)
	}
}

// String returns the expression in one way of writing it. Parse gives an equal one for it.
func (e *Expr) String() string {
	var b strings.Builder
	e.write(&b)
	return b.String()
}

func (e *Expr) write(b *strings.Builder) {
	if e == nil {
		b.WriteString("all()")
		return
	}
	switch e.op {
	case all, global, has:
		b.WriteString(callNames[e.op] + "(" + e.name + ")")
	case not:
		b.WriteByte('!')
		e.args[0].write(b)
	case and, or:
		b.WriteByte('(')
		for i, arg := range e.args {
			if i > 0 {
				b.WriteString(" " + symbols[e.op] + " ")
			}
			arg.write(b)
		}
		b.WriteByte(')')
	case in, notIn:
		quoted := make([]string, len(e.text))
		for i, text := range e.text {
			quoted[i] = quote(text)
		}
		b.WriteString(e.name + " " + symbols[e.op] + " {" + strings.Join(quoted, ", ") + "}")
	default:
		b.WriteString(e.name + " " + symbols[e.op] + " " + quote(e.text[0]))
	}
}

var symbols = map[op]string{
	equal: "==", notEqual: "!=", in: "in", notIn: "not in",
	contains: "contains", startsWith: "starts with", endsWith: "ends with", and: "&&", or: "||",
}

func quote(text string) string {
	if strings.Contains(text, `"`) {
		return "'" + text + "'"
	}
	return `"` + text + `"`
}

// Parse reads an expression. An empty text is all(), and gives the nil Expr.
func Parse(text string) (*Expr, error) {
	p := &parser{rest: text}
	if err := p.next(); err != nil {
		return nil, err
	}
	if p.token.kind == end {
		return nil, nil
	}
	e, err := p.or(0)
	if err != nil {
		return nil, err
	}
	if p.token.kind != end {
		return nil, p.fault("the end")
	}
	return e, nil
}

var errDepth = errors.New("too many parentheses in each other")
