package main

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"time"
)

// someRows prints a header and a row for each of a list, and nothing for an empty one.
func someRows[T any](out io.Writer, header string, list []T, row func(T) []any) error {
	if len(list) == 0 {
		return nil
	}
	return printRows(out, header, list, row)
}

func recordRow(r recordView) []any {
	owner := r.Owner
	if r.Disabled {
		owner += ", disabled"
	}
	return []any{r.Name, r.TTL, r.Type, r.Value, owner, cmp.Or(r.By, "-"), cmp.Or(r.Object, "-"), r.Zone}
}

func writeRow(w writeView) []any {
	value := w.Value
	if w.Was != "" && w.Verb == "update" {
		value = w.Was + " -> " + value
	}
	return []any{w.Verb, w.Name, w.TTL, w.Type, value, cmp.Or(w.Object, "-"), w.Zone}
}

const writeHeader = "WRITE\tNAME\tTTL\tTYPE\tVALUE\tOBJECT\tZONE"

func printProblems(out io.Writer, list []problemView) {
	for _, p := range list {
		fmt.Fprintf(out, "problem: %s: %s: %s\n", cmp.Or(p.Object, "-"), p.Reason, p.Message)
	}
}

func printHolds(out io.Writer, list []holdView) {
	for _, h := range list {
		fmt.Fprintf(out, "hold: zone %s: %d deletes are held: %s\n", h.Zone, h.Pending, h.Reason)
	}
}

func printZoneStatus(out io.Writer, v zoneStatusView) error {
	err := someRows(out, "ZONE\tNAME\tRECORDS\tOURS\tSTATE", v.Zones, func(z zoneView) []any {
		state := "listed"
		if !z.Listed {
			state = "not listed"
		}
		return []any{z.ID, z.Name, z.Records, z.Owned, cmp.Or(z.Barred, state)}
	})
	switch {
	case !v.Leading:
		fmt.Fprintln(out, "another replica leads")
	case !v.Synced:
		fmt.Fprintln(out, "objects are not known yet")
	}
	if v.DryRun {
		fmt.Fprintln(out, "dry run: nothing is written")
	}
	for _, lane := range slices.Sorted(maps.Keys(v.Pending)) {
		if n := v.Pending[lane]; n > 0 {
			fmt.Fprintf(out, "pending: %d names, lane %s\n", n, lane)
		}
	}
	for _, f := range v.Failing {
		fmt.Fprintln(out, "failing:", f)
	}
	for _, h := range v.Holds {
		fmt.Fprintf(out, "hold: zone %s since %s: %d deletes are held: %s\n", h.Zone, h.Since.Format(time.RFC3339), h.Pending, h.Reason)
	}
	printProblems(out, v.Problems)
	return err
}

func printPlan(out io.Writer, v planView) error {
	if len(v.Writes) == 0 {
		fmt.Fprintln(out, "nothing to write")
	}
	err := someRows(out, writeHeader, v.Writes, writeRow)
	printHolds(out, v.Holds)
	printProblems(out, v.Problems)
	return err
}

func printExplanation(out io.Writer, v explainView) error {
	switch {
	case v.NoZone != "":
		fmt.Fprintf(out, "%s: %s\n", v.Name, v.NoZone)
	default:
		fmt.Fprintf(out, "%s: host record %s in zone %s (%s)\n", v.Name, v.RR, v.Zone, v.ZoneName)
	}
	if v.Barred != "" {
		fmt.Fprintln(out, "barred:", v.Barred)
	}
	for _, w := range v.Wants {
		fmt.Fprintf(out, "wanted: %d %s %s for %s\n", w.TTL, w.Type, w.Value, w.Object)
	}
	if len(v.Wants) == 0 {
		fmt.Fprintln(out, "wanted: nothing")
	}
	for _, r := range v.Records {
		off := ""
		if r.Disabled {
			off = ", disabled"
		}
		fmt.Fprintf(out, "there: %d %s %s (record %d, %s%s, remark %q)\n", r.TTL, r.Type, r.Value, r.RecordID, r.Owner, off, r.Remark)
	}
	for _, w := range v.Writes {
		row := writeRow(w)
		fmt.Fprintf(out, "to do: %v %v %v %v\n", row[0], row[2], row[3], row[4])
	}
	printProblems(out, v.Problems)
	if v.State != "" {
		fmt.Fprintln(out, "now:", v.State)
	}
	return nil
}

// errAudit is what "audit" ends with when somebody should look.
var errAudit = errors.New("the zones are not as they should be")

func printAudit(out io.Writer, v auditView) error {
	err := someRows(out, "ZONE\tNAME\tRECORDS\tOURS\tAS WANTED\tOTHERS\tSTATE", v.Zones, func(z auditZoneView) []any {
		others := ""
		for _, by := range slices.Sorted(maps.Keys(z.By)) {
			others += fmt.Sprintf(", %d of %s", z.By[by], by)
		}
		if others == "" {
			others = ", -"
		}
		return []any{z.ID, z.Name, z.Records, z.Owned, z.OK, others[len(", "):], cmp.Or(z.Barred, "-")}
	})
	for _, w := range v.Missing {
		fmt.Fprintf(out, "missing: %s %d %s %s for %s\n", w.Name, w.TTL, w.Type, w.Value, w.Object)
	}
	for _, group := range []struct {
		what    string
		records []recordView
	}{{"orphan", v.Orphans}, {"disabled", v.Disabled}, {"unlike", v.Unlike}} {
		for _, r := range group.records {
			fmt.Fprintf(out, "%s: %s %d %s %s (record %d)\n", group.what, r.Name, r.TTL, r.Type, r.Value, r.RecordID)
		}
	}
	printProblems(out, v.Problems)
	if err == nil && !v.Clean {
		err = errAudit
	}
	return err
}

func printAdoption(out io.Writer, v adoptView) error {
	if len(v.Writes) == 0 {
		fmt.Fprintln(out, "nothing to adopt")
	}
	failed := 0
	err := someRows(out, writeHeader+"\tRESULT", v.Writes, func(w writeView) []any {
		result := "planned"
		switch {
		case w.Error != "":
			result = w.Error
			failed++
		case v.Applied:
			result = "done"
		}
		return append(writeRow(w), result)
	})
	for _, r := range v.Left {
		fmt.Fprintf(out, "leave: %s %s %s: nothing wants it\n", r.Name, r.Type, r.Value)
	}
	if !v.Applied && len(v.Writes) > 0 {
		fmt.Fprintln(out, "nothing was written: --apply writes it")
	}
	if err == nil && failed > 0 {
		err = fmt.Errorf("%d of %d writes were not done", failed, len(v.Writes))
	}
	return err
}
