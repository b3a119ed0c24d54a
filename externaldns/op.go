package externaldns

import (
	"fmt"
	"strings"
)

// A Verb is a kind of write. Each is one call.
type Verb uint8

// The writes there are.
const (
	Add Verb = iota
	Update
	Remark
	Delete
	verbs // how many there are
)

func (v Verb) String() string { return [...]string{"add", "update", "remark", "delete"}[v] }

// An Op is one write to a zone.
type Op struct {
	Verb Verb
	Name string // in full
	Place
	// Have is the record that is changed, as it was last seen; the zero value when one is added.
	Have Record
	// What Add and Update write; Remark only writes the remark.
	Type, Value string
	TTL         int
	Remark      string
	// Object is what the value is published for; of a Delete the zero value.
	Object Object
	// Flip says that a Delete makes room for what is added next: a CNAME and other records exclude each other.
	Flip bool
}

// String prints the Op as a line of a plan.
func (o Op) String() string {
	switch o.Verb {
	case Add:
		return fmt.Sprintf("add %s %d %s %s", o.Name, o.TTL, o.Type, o.Value)
	case Update:
		return fmt.Sprintf("update %s %s %s: %s", o.Name, o.Have.Type, o.Have.Value, o.difference())
	case Remark:
		return fmt.Sprintf("remark %s %s %s: %q -> %q", o.Name, o.Have.Type, o.Have.Value, o.Have.Remark, o.Remark)
	default:
		return fmt.Sprintf("delete %s %d %s %s", o.Name, o.Have.TTL, o.Have.Type, o.Have.Value)
	}
}

func (o Op) difference() string {
	var parts []string
	if o.Value != o.Have.Value {
		parts = append(parts, "value "+o.Value)
	}
	if o.TTL != o.Have.TTL {
		parts = append(parts, fmt.Sprintf("TTL %d -> %d", o.Have.TTL, o.TTL))
	}
	return strings.Join(parts, ", ")
}

// after is the record once an Add, an Update or a Remark is done; the ID of an added one is for the cloud to say.
func (o Op) after() Record {
	r := o.Have
	switch o.Verb {
	case Remark:
		r.Remark = o.Remark
	case Update:
		r.Type, r.Value, r.TTL = o.Type, o.Value, o.TTL
	case Add:
		r = Record{Place: o.Place, Type: o.Type, Value: o.Value, TTL: o.TTL, Remark: o.Remark, Enabled: true}
	}
	return r
}

// takesAddress reports whether an address stops being served: somebody else may get it.
func (o Op) takesAddress() bool {
	return isAddress(o.Have.Type) && (o.Verb == Delete || o.Verb == Update && o.Value != o.Have.Value)
}

// A Plan is the way of one name to what is wanted. Ops are done in order; each leaves the name no worse than it was.
type Plan struct {
	Ops      []Op
	Problems []Problem
}

// removals counts the records that the plan takes away without putting others in their place.
func (p Plan) removals() (n int) {
	for _, op := range p.Ops {
		if op.Verb == Delete && !op.Flip {
			n++
		}
	}
	return n
}

// additions counts the records that the plan makes.
func (p Plan) additions() (n int) {
	for _, op := range p.Ops {
		if op.Verb == Add {
			n++
		}
	}
	return n
}
