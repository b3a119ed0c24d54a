package externaldns

import (
	"cmp"
	"fmt"
	"slices"
)

// A Mode bounds what is done to records of ours. What external-dns calls the policy.
type Mode string

const (
	// Sync adds, updates and deletes.
	Sync Mode = "sync"
	// UpsertOnly never takes the last value of a type from a name, but for one whose place a CNAME takes or gives up.
	UpsertOnly Mode = "upsert-only"
	// CreateOnly adds names, and values to names of which nothing is stale.
	CreateOnly Mode = "create-only"
)

// A Policy says what is ours and what may be done. The zero Mode is Sync.
type Policy struct {
	Owner Owner
	// Former are owners whose records are taken over: their remarks are rewritten.
	Former []Owner
	Mode   Mode
	// Claim makes foreign records ours whose value is wanted; else they serve as they are.
	Claim bool
	// Join adds values to a name that has foreign records of the type; else such a name is left alone unless it has
	// records of ours. Records of siblings are always joined.
	Join bool
}

// of is Owner.Of, with former owners.
func (p Policy) of(remark string) Ownership {
	whose := p.Owner.Of(remark)
	if mark, _ := ParseRemark(remark); whose == Sibling && slices.Contains(p.Former, mark.Owner) {
		return Ours
	}
	return whose
}

func (p Policy) mine(remark string) bool { return p.of(remark) == Ours }

// A planner is the state of planning one name.
type planner struct {
	Policy
	name   string
	place  Place
	others []Record // at the place, not ours
	spare  []Record // ours that no want has taken
	added  []Want   // wants without a record
	owned  map[string]bool

	first, change, last, marks []Op
	problems                   []Problem
}

// plan computes the way from the records at the name's place to the wants. Elsewhere are records at other places the name
// has been at. It is pure, and what it says depends on no order.
func (p Policy) plan(name string, place Place, wants []Want, have, elsewhere []Record) Plan {
	n := planner{Policy: p, name: name, place: place, owned: map[string]bool{}}
	for _, r := range have {
		if p.mine(r.Remark) {
			n.spare = append(n.spare, r)
			n.owned[r.Type] = true
		} else {
			n.others = append(n.others, r)
		}
	}
	slices.SortFunc(n.spare, compareIDs)
	slices.SortFunc(n.others, compareIDs)
	wants = n.settle(wants)
	for _, w := range wants {
		n.match(w)
	}
	n.added = slices.DeleteFunc(n.added, n.held)
	n.makeRoom(wants)
	n.pair()
	adds := n.adds()
	for _, r := range n.spare {
		if p.Mode == "" || p.Mode == Sync || p.Mode == UpsertOnly && wantsType(wants, r.Type) {
			n.last = append(n.last, n.op(Delete, r))
		}
	}
	for _, r := range elsewhere {
		if p.mine(r.Remark) && (p.Mode == "" || p.Mode == Sync) {
			op := n.op(Delete, r)
			op.Place = r.Place
			n.last = append(n.last, op)
		}
	}
	return Plan{slices.Concat(n.first, n.change, adds, n.last, n.marks), n.problems}
}

func wantsType(wants []Want, recordType string) bool {
	return slices.ContainsFunc(wants, func(w Want) bool { return w.Type == recordType })
}

func (n *planner) op(v Verb, r Record) Op { return Op{Verb: v, Name: n.name, Place: n.place, Have: r} }

func (n *planner) problem(o Object, reason, format string, args ...any) {
	n.problems = append(n.problems, Problem{o, reason, fmt.Sprintf(format, args...)})
}

// settle sorts the wants and leaves one for each value. A CNAME excludes everything else at a name: it gives way to other
// types, and among several the first by value stays.
func (n *planner) settle(wants []Want) []Want {
	wants = slices.Clone(wants)
	for i, w := range wants {
		wants[i].Value = canonical(w.Type, w.Value)
	}
	slices.SortFunc(wants, func(a, b Want) int {
		return cmp.Or(cmp.Compare(a.Type, b.Type), cmp.Compare(a.Value, b.Value), cmp.Compare(a.Object.String(), b.Object.String()), cmp.Compare(a.TTL, b.TTL))
	})
	wants = slices.CompactFunc(wants, func(a, b Want) bool { return a.Type == b.Type && a.Value == b.Value })
	others := slices.ContainsFunc(wants, func(w Want) bool { return w.Type != typeCNAME })
	one := false
	return slices.DeleteFunc(wants, func(w Want) bool {
		if w.Type != typeCNAME {
			return false
		}
		if others || one {
			n.problem(w.Object, "CNAMEConflict", "%s cannot be a CNAME to %s: it is wanted with other records too; give one of them another name", n.name, w.Value)
			return true
		}
		one = true
		return false
	})
}

// match finds the record for a want, or notes that one has to be added.
func (n *planner) match(w Want) {
	i := slices.IndexFunc(n.spare, func(r Record) bool { return r.serves(w.Type, w.Value) })
	if i >= 0 {
		n.keep(n.spare[i], w)
		n.spare = slices.Delete(n.spare, i, i+1)
		return
	}
	i = slices.IndexFunc(n.others, func(r Record) bool { return r.serves(w.Type, w.Value) })
	switch {
	case i < 0:
		n.added = append(n.added, w)
	case n.Claim && n.Owner.Of(n.others[i].Remark) == Foreign:
		n.mark(n.others[i], w)
	}
}

// keep corrects the TTL and the remark of a record whose value is wanted.
func (n *planner) keep(r Record, w Want) {
	if n.Mode == CreateOnly {
		return
	}
	if r.TTL != w.TTL {
		n.update(r, w)
		return
	}
	n.mark(r, w)
}

// update gives a record the value and the TTL of a want, and then its remark.
func (n *planner) update(r Record, w Want) {
	op := n.op(Update, r)
	op.Type, op.Value, op.TTL, op.Object = w.Type, w.Value, w.TTL, w.Object
	n.change = append(n.change, op)
	n.mark(op.after(), w)
}

// mark writes the want's remark if the record has another one.
func (n *planner) mark(r Record, w Want) {
	remark := n.Owner.Remark(w.Object)
	if r.Remark == remark {
		return
	}
	op := n.op(Remark, r)
	op.Type, op.Value, op.TTL, op.Object, op.Remark = r.Type, r.Value, r.TTL, w.Object, remark
	n.marks = append(n.marks, op)
}

// held reports whether records of others keep a want from being added.
func (n *planner) held(w Want) bool {
	for _, r := range n.others {
		switch {
		case w.Type == typeCNAME || r.Type == typeCNAME:
			n.problem(w.Object, "NameTaken", "%s cannot have %s %s: it has %s %s of somebody else (record %d), and a CNAME excludes other records; remove one of them",
				n.name, w.Type, w.Value, r.Type, r.Value, r.ID)
		case r.Type == w.Type && r.Value == w.Value && r.Line == "" && !r.Enabled:
			n.problem(w.Object, "NameTaken", "%s has %s %s from somebody else, but disabled (record %d): enable or remove it", n.name, r.Type, r.Value, r.ID)
		case r.Type == w.Type && !n.owned[w.Type] && !n.Join && n.Owner.Of(r.Remark) == Foreign:
			n.problem(w.Object, "NameTaken", "%s has %s %s from somebody else (record %d): remove it, adopt it, or allow names to be joined", n.name, r.Type, r.Value, r.ID)
		default:
			continue
		}
		return true
	}
	return false
}

// makeRoom deletes first what excludes a record to be added: on the way between a CNAME and other types, and a disabled
// record of the same value. Without leave to delete, what is wanted is held.
func (n *planner) makeRoom(wants []Want) {
	if len(n.added) == 0 {
		return
	}
	toCNAME := wantsType(wants, typeCNAME)
	excludes := func(r Record) bool {
		same := func(w Want) bool { return w.Type == r.Type && w.Value == r.Value }
		switch {
		case toCNAME:
			return r.Type != typeCNAME || !r.changeable()
		case r.Type == typeCNAME:
			return true
		}
		return !r.Enabled && r.Line == "" && slices.ContainsFunc(n.added, same)
	}
	if n.Mode == CreateOnly {
		if slices.ContainsFunc(n.spare, excludes) {
			for _, w := range n.added {
				n.problem(w.Object, "PolicyForbids", "%s cannot have %s %s: the policy create-only keeps what excludes it", n.name, w.Type, w.Value)
			}
			n.added = nil
		}
		return
	}
	n.spare = slices.DeleteFunc(n.spare, func(r Record) bool {
		if !excludes(r) {
			return false
		}
		op := n.op(Delete, r)
		op.Flip = true
		n.first = append(n.first, op)
		return true
	})
}

// pair turns an addition and a deletion of one type into an update: one call, and the name is never without. Values of
// the same object go together first, as their remark stays right.
func (n *planner) pair() {
	if n.Mode == CreateOnly {
		return
	}
	for _, same := range []bool{true, false} {
		n.added = slices.DeleteFunc(n.added, func(w Want) bool {
			i := slices.IndexFunc(n.spare, func(r Record) bool {
				mark, _ := ParseRemark(r.Remark)
				return r.Type == w.Type && r.changeable() && (!same || mark.Hash == HashObject(w.Object))
			})
			if i < 0 {
				return false
			}
			n.update(n.spare[i], w)
			n.spare = slices.Delete(n.spare, i, i+1)
			return true
		})
	}
}

// adds are the additions that are left.
func (n *planner) adds() (ops []Op) {
	for _, w := range n.added {
		stale := func(r Record) bool { return r.Type == w.Type }
		if n.Mode == CreateOnly && slices.ContainsFunc(n.spare, stale) {
			continue
		}
		op := n.op(Add, Record{})
		op.Type, op.Value, op.TTL, op.Object, op.Remark = w.Type, w.Value, w.TTL, w.Object, n.Owner.Remark(w.Object)
		ops = append(ops, op)
	}
	return ops
}
