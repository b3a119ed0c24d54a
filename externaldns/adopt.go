package externaldns

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// Adoption says which records of others become ours. Nothing is adopted but what it names.
type Adoption struct {
	// ExternalDNS is the owner id (--txt-owner-id) of an external-dns whose record sets are taken over; empty: none. Affix
	// is how it names its TXT records.
	ExternalDNS string
	Affix       Affix
	// RemoveTXT deletes the TXT records of external-dns whose record sets are ours after the adoption.
	RemoveTXT bool
	// CloudProvider takes over what the cloud provider's controller wrote. Its remark is the same in every cluster: only
	// where one cluster writes to the zone are the records surely this cluster's.
	CloudProvider bool
	// Owner takes over the records of another instance of this program; empty: none.
	Owner Owner
	// Names takes over whatever there is at these names.
	Names []string
	// Unwanted takes over records too that nothing wants: the next thing that happens to them is that they are deleted.
	Unwanted bool
}

// AdoptionPlan is what an Adoption does.
type AdoptionPlan struct {
	Ops []Op
	// Left are records that the Adoption names and leaves, as nothing wants them.
	Left []Row
}

// String prints the plan line by line.
func (p AdoptionPlan) String() string {
	var b strings.Builder
	for _, op := range p.Ops {
		fmt.Fprintln(&b, op)
	}
	for _, r := range p.Left {
		fmt.Fprintf(&b, "leave %s %s %s: nothing wants it\n", r.Name, r.Record.Type, r.Record.Value)
	}
	if b.Len() == 0 {
		return "nothing to adopt\n"
	}
	return b.String()
}

// A setKey is a record set, or with an empty type all of a name.
type setKey struct{ name, recordType string }

// Adopt plans an Adoption.
func (v *View) Adopt(desired Desired, a Adoption) (p AdoptionPlan) {
	rows := v.Records(nil)
	heritage := v.heritage(rows, a)
	ours := map[setKey]bool{} // sets of which nothing is left
	for _, row := range rows {
		if !a.names(row, heritage) || row.Owner == Ours {
			continue
		}
		key := setKey{row.Name, row.Record.Type}
		if _, seen := ours[key]; !seen {
			ours[key] = true
		}
		object, wanted := objectOf(row, desired, heritage)
		if !wanted && !a.Unwanted {
			p.Left = append(p.Left, row)
			ours[key] = false
			continue
		}
		op := Op{Verb: Remark, Name: row.Name, Place: row.Record.Place, Have: row.Record, Object: object, Remark: v.Policy.Owner.Remark(object)}
		op.Type, op.Value, op.TTL = row.Record.Type, row.Record.Value, row.Record.TTL
		p.Ops = append(p.Ops, op)
	}
	if a.RemoveTXT {
		p.Ops = append(p.Ops, v.staleTXT(rows, a, ours)...)
	}
	return p
}

// heritage returns the record sets that TXT records of the external-dns say are its own.
func (v *View) heritage(rows []Row, a Adoption) map[setKey]Heritage {
	sets := map[setKey]Heritage{}
	for _, row := range rows {
		if name, recordType, h, ok := a.owns(row); ok {
			sets[setKey{name, recordType}] = h
		}
	}
	return sets
}

// owns reads a TXT record of the external-dns.
func (a Adoption) owns(row Row) (name, recordType string, h Heritage, ok bool) {
	if a.ExternalDNS == "" || row.Record.Type != typeTXT {
		return "", "", Heritage{}, false
	}
	h, ok = ParseHeritage(row.Record.Value)
	if !ok || h.Owner != a.ExternalDNS {
		return "", "", Heritage{}, false
	}
	name, recordType = a.Affix.Owned(row.Name)
	return name, recordType, h, name != ""
}

// names reports whether the Adoption is about a record.
func (a Adoption) names(row Row, heritage map[setKey]Heritage) bool {
	if _, txt := ParseHeritage(row.Record.Value); txt && row.Record.Type == typeTXT {
		return false
	}
	mark, ours := ParseRemark(row.Record.Remark)
	switch {
	case ours:
		return a.Owner != "" && mark.Owner == a.Owner
	case slices.Contains(a.Names, row.Name):
		return true
	case row.Record.Remark == CCMRemark:
		return a.CloudProvider
	}
	_, set := heritage[setKey{row.Name, row.Record.Type}]
	_, whole := heritage[setKey{row.Name, ""}]
	return set || whole && row.Record.Type != typeTXT
}

// objectOf finds what a record is for: what wants it, or what its owner says.
func objectOf(row Row, desired Desired, heritage map[setKey]Heritage) (object Object, wanted bool) {
	for _, w := range desired.For(row.Name) {
		if row.Record.serves(w.Type, canonical(w.Type, w.Value)) {
			return w.Object, true
		}
	}
	for _, key := range []setKey{{row.Name, row.Record.Type}, {row.Name, ""}} {
		if parts := strings.Split(heritage[key].Resource, "/"); len(parts) == 3 {
			return Object{Kind: parts[0], Namespace: parts[1], Name: parts[2]}, false
		}
	}
	return Object{Kind: "Adopted", Name: row.Name}, false
}

// staleTXT deletes ownership records of external-dns for what is ours now.
func (v *View) staleTXT(rows []Row, a Adoption, ours map[setKey]bool) (ops []Op) {
	for _, row := range rows {
		name, recordType, _, ok := a.owns(row)
		if !ok || row.Owner != Foreign {
			continue
		}
		left := false
		for key, all := range ours {
			left = left || key.name == name && (recordType == "" || key.recordType == recordType) && !all
		}
		if !left {
			ops = append(ops, Op{Verb: Delete, Name: row.Name, Place: row.Record.Place, Have: row.Record})
		}
	}
	return ops
}

// Execute does what a person has confirmed: the Ops of an AdoptionPlan, in order. Each record is looked at before: one that
// is not as it was planned is left, which is an error, as is whatever the cloud refuses; the others are done. Done is called
// after each and may be nil.
func Execute(ctx context.Context, cloud Cloud, ops []Op, done func(Op, error)) error {
	var errs []error
	for _, op := range ops {
		err := executeOne(ctx, cloud, op)
		if done != nil {
			done(op, err)
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", op, err))
		}
		if ctx.Err() != nil {
			break
		}
	}
	return errors.Join(errs...)
}

// errChanged: the record is not what it was when the plan was made.
var errChanged = errors.New("the record has changed since: plan again")

func executeOne(ctx context.Context, cloud Cloud, op Op) error {
	shown, err := cloud.FindRecords(ctx, op.ZoneID, op.RR)
	if err != nil {
		return err
	}
	now := recordsOf(shown, op.Have.Seen)
	if op.Verb != Add && !slices.Contains(now, op.Have) {
		return errChanged
	}
	_, err = apply(ctx, cloud, op, newToken())
	return err
}
