package externaldns

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// A Report is what an audit finds. Everything but OK and the counts of others wants a look.
type Report struct {
	Zones []ZoneReport
	// Orphans are records of ours that nothing wants; Missing is wanted and not there.
	Orphans []Row
	Missing []Want
	// Disabled are records of ours that somebody has switched off; Unlike have another TTL or remark than they should.
	Disabled, Unlike []Row
	Problems         []Problem
}

// A ZoneReport counts the records of a zone.
type ZoneReport struct {
	ID, Name, Barred string
	// OK are records of ours that are as they should be.
	Records, Owned, OK int
	// By counts the others by who owns them: an owner id, "cloud provider", "external-dns OWNER", "nobody known".
	By map[string]int
}

// Audit compares what is wanted with what there is.
func (v *View) Audit(desired Desired) Report {
	r := Report{Problems: slices.Clone(v.Problems)}
	changed := r.compare(v, desired)
	zones := map[string]*ZoneReport{}
	for _, z := range v.zones.all() {
		all, owned := v.index.Count(z.ID)
		zones[z.ID] = &ZoneReport{ID: z.ID, Name: z.Name, Barred: z.barred, Records: all, Owned: owned, By: map[string]int{}}
	}
	for _, row := range v.Records(desired) {
		z := zones[row.Record.ZoneID]
		if row.Owner != Ours {
			z.By[whose(row)]++
		} else if op, planned := changed[row.Record.ID]; planned || !row.Record.Enabled {
			r.sort(row, op)
		} else {
			z.OK++
		}
	}
	for _, z := range v.zones.all() {
		r.Zones = append(r.Zones, *zones[z.ID])
	}
	return r
}

// compare notes what is missing, and returns what is to be done with records there are, by ID.
func (r *Report) compare(v *View, desired Desired) map[int64]Op {
	changed := map[int64]Op{}
	for _, name := range v.names(desired) {
		_, plan := v.plan(name, desired)
		r.Problems = append(r.Problems, plan.Problems...)
		for _, op := range plan.Ops {
			if op.Verb != Add {
				changed[op.Have.ID] = op
			}
			if op.Verb == Add || op.Verb == Update && op.Value != op.Have.Value {
				r.Missing = append(r.Missing, Want{Name: name, Type: op.Type, Value: op.Value, TTL: op.TTL, Object: op.Object})
			}
		}
	}
	return changed
}

// sort puts a record that is not as it should be where it belongs.
func (r *Report) sort(row Row, op Op) {
	switch {
	case !row.Record.Enabled:
		r.Disabled = append(r.Disabled, row)
	case op.Verb == Delete || op.Verb == Update && op.Value != op.Have.Value:
		r.Orphans = append(r.Orphans, row)
	default:
		r.Unlike = append(r.Unlike, row)
	}
}

// whose names the owner of a record that is not ours.
func whose(row Row) string {
	if h, ok := ParseHeritage(row.Record.Value); ok && row.Record.Type == typeTXT {
		return "external-dns " + h.Owner
	}
	if row.Owner == Foreign && row.By != "cloud provider" {
		return "nobody known"
	}
	return row.By
}

// Clean reports whether there is nothing to look at.
func (r Report) Clean() bool {
	return len(r.Orphans)+len(r.Missing)+len(r.Disabled)+len(r.Unlike)+len(r.Problems) == 0
}

// String prints the report.
func (r Report) String() string {
	var b strings.Builder
	for _, z := range r.Zones {
		fmt.Fprintf(&b, "zone %s (%s): %d records, %d ours, %d of them as wanted", z.ID, z.Name, z.Records, z.Owned, z.OK)
		for _, owner := range slices.Sorted(maps.Keys(z.By)) {
			fmt.Fprintf(&b, ", %d of %s", z.By[owner], owner)
		}
		if z.Barred != "" {
			fmt.Fprint(&b, "; ", z.Barred)
		}
		fmt.Fprintln(&b)
	}
	for _, w := range r.Missing {
		fmt.Fprintf(&b, "missing: %s for %s\n", w, w.Object)
	}
	for _, group := range []struct {
		what string
		rows []Row
	}{{"orphan", r.Orphans}, {"disabled", r.Disabled}, {"unlike", r.Unlike}} {
		for _, row := range group.rows {
			fmt.Fprintf(&b, "%s: %s %d %s %s (record %d)\n", group.what, row.Name, row.Record.TTL, row.Record.Type, row.Record.Value, row.Record.ID)
		}
	}
	for _, p := range r.Problems {
		fmt.Fprintln(&b, "problem:", p)
	}
	return b.String()
}
