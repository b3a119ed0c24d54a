package labelexpr

import (
	"fmt"
	"slices"
	"strings"
)

// maxName is the longest name of a label that Calico takes.
const maxName = 512

type kind uint8

const (
	end     kind = iota
	mark         // punctuation, in token.text
	literal      // a string
	name         // of a label
	call         // has, all, global; has has the label
	infix        // contains, starts with, ends with, in, not in
)

type token struct {
	kind kind
	text string
	op   op
}

// A parser has read one token ahead.
type parser struct {
	rest  string // behind the token
	token token
}

func (p *parser) or(depth int) (*Expr, error)  { return p.list(or, "||", depth, p.and) }
func (p *parser) and(depth int) (*Expr, error) { return p.list(and, "&&", depth, p.operation) }

// list reads one or more operands with an operator between them.
func (p *parser) list(o op, symbol string, depth int, operand func(int) (*Expr, error)) (*Expr, error) {
	var args []*Expr
	for {
		arg, err := operand(depth)
		if err != nil {
			return nil, err
		}
		args = append(args, arg)
		if !p.at(symbol) {
			break
		}
		if err := p.next(); err != nil {
			return nil, err
		}
	}
	if len(args) == 1 {
		return args[0], nil
	}
	return &Expr{op: o, args: args}, nil
}

func (p *parser) operation(depth int) (*Expr, error) {
	negated := false
	for p.at("!") {
		negated = !negated
		if err := p.next(); err != nil {
			return nil, err
		}
	}
	e, err := p.primary(depth)
	switch {
	case err != nil || !negated:
		return e, err
	case e.op == not:
		return e.args[0], nil
	}
	return &Expr{op: not, args: []*Expr{e}}, nil
}

func (p *parser) primary(depth int) (*Expr, error) {
	switch {
	case p.token.kind == call:
		e := &Expr{op: p.token.op, name: p.token.text}
		return e, p.next()
	case p.token.kind == name:
		return p.comparison()
	case !p.at("("):
		return nil, p.fault("a label, has(), all(), global() or (")
	case depth >= maxDepth:
		return nil, errDepth
	}
	if err := p.next(); err != nil {
		return nil, err
	}
	e, err := p.or(depth + 1)
	if err != nil {
		return nil, err
	}
	return e, p.take(")")
}

// comparison reads a label, an operator and what the label is compared with.
func (p *parser) comparison() (*Expr, error) {
	e := &Expr{name: p.token.text}
	if err := p.next(); err != nil {
		return nil, err
	}
	switch {
	case p.at("=="):
		e.op = equal
	case p.at("!="):
		e.op = notEqual
	case p.token.kind == infix:
		e.op = p.token.op
	default:
		return nil, p.fault("an operator after " + e.name)
	}
	if err := p.next(); err != nil {
		return nil, err
	}
	if e.op == in || e.op == notIn {
		return e, p.set(e)
	}
	if p.token.kind != literal {
		return nil, p.fault("a quoted string")
	}
	e.text = []string{p.token.text}
	return e, p.next()
}

// set reads {"a", "b"}. As in Calico, it may be empty, and a comma may stand before the }.
func (p *parser) set(e *Expr) error {
	if err := p.take("{"); err != nil {
		return err
	}
	for p.token.kind == literal {
		e.text = append(e.text, p.token.text)
		if err := p.next(); err != nil {
			return err
		}
		if !p.at(",") {
			break
		}
		if err := p.next(); err != nil {
			return err
		}
	}
	slices.Sort(e.text)
	e.text = slices.Compact(e.text)
	return p.take("}")
}

func (p *parser) at(symbol string) bool { return p.token.kind == mark && p.token.text == symbol }

func (p *parser) take(symbol string) error {
	if !p.at(symbol) {
		return p.fault(symbol)
	}
	return p.next()
}

func (p *parser) fault(expected string) error {
	if p.token.kind == end {
		return fmt.Errorf("ends where %s is expected", expected)
	}
	return fmt.Errorf("%q stands where %s is expected", p.token.text, expected)
}

// next reads the next token.
func (p *parser) next() error {
	after := p.token.kind
	p.rest = skip(p.rest)
	p.token = token{}
	if p.rest == "" {
		return nil
	}
	switch c := p.rest[0]; c {
	case '(', ')', '{', '}', ',':
		p.cut(mark, p.rest[:1])
		return nil
	case '"', '\'':
		return p.quoted(c)
	case '=', '&', '|':
		double := string([]byte{c, c})
		if !strings.HasPrefix(p.rest, double) {
			return fmt.Errorf("%q stands where %s is expected", string(c), double)
		}
		p.cut(mark, double)
		return nil
	case '!':
		if strings.HasPrefix(p.rest, "!=") {
			p.cut(mark, "!=")
		} else {
			p.cut(mark, "!")
		}
		return nil
	}
	if after == name {
		return p.operator()
	}
	return p.word()
}

func (p *parser) cut(k kind, text string) {
	p.token = token{kind: k, text: text}
	p.rest = p.rest[len(text):]
}

func (p *parser) quoted(quote byte) error {
	length := strings.IndexByte(p.rest[1:], quote)
	if length < 0 {
		return fmt.Errorf("the string %s has no end", p.rest)
	}
	p.token = token{kind: literal, text: p.rest[1 : 1+length]}
	p.rest = p.rest[length+2:]
	return nil
}

// operator reads an operator in letters, which only stands behind a label: labels may have the same names.
func (p *parser) operator() error {
	for _, o := range [...]op{contains, startsWith, endsWith, notIn, in} {
		if rest, ok := cutWords(p.rest, strings.Fields(symbols[o])); ok {
			p.rest = rest
			p.token = token{kind: infix, text: symbols[o], op: o}
			return nil
		}
	}
	return fmt.Errorf("%q stands where an operator is expected", p.rest)
}

// cutWords cuts words off, between which there may be space: "not in" and "notin" are the same.
func cutWords(text string, words []string) (string, bool) {
	for _, word := range words {
		rest, ok := strings.CutPrefix(skip(text), word)
		if !ok {
			return "", false
		}
		text = rest
	}
	return text, text == "" || !isNameByte(text[0])
}

// word reads a label or a call.
func (p *parser) word() error {
	for _, o := range [...]op{has, all, global} {
		rest, ok := strings.CutPrefix(p.rest, callNames[o]+"(")
		if !ok {
			continue
		}
		p.rest = skip(rest)
		p.token = token{kind: call, op: o}
		if o == has {
			if err := p.label(call); err != nil {
				return err
			}
			p.token.op = has
		}
		if p.rest, ok = strings.CutPrefix(skip(p.rest), ")"); !ok {
			return fmt.Errorf("%s( has no )", callNames[o])
		}
		return nil
	}
	return p.label(name)
}

var callNames = map[op]string{has: "has", all: "all", global: "global"}

func (p *parser) label(k kind) error {
	length := 0
	for length < len(p.rest) && isNameByte(p.rest[length]) {
		length++
	}
	switch {
	case length == 0:
		return fmt.Errorf("%q stands where the name of a label is expected", p.rest)
	case length > maxName:
		return fmt.Errorf("the name of a label has %d characters: %d is the most", length, maxName)
	}
	p.cut(k, p.rest[:length])
	return nil
}

func isNameByte(c byte) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || strings.IndexByte("_./-", c) >= 0
}

func skip(text string) string { return strings.TrimLeft(text, " \t") }
