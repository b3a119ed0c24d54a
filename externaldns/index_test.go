package externaldns

import (
	"context"
	"errors"
	"maps"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/nearpath/nearpath/internal/aliyun"
)

func TestCanonical(t *testing.T) {
	t.Parallel()
	for _, c := range [][3]string{
		{"A", "10.0.0.1", "10.0.0.1"}, {"AAAA", "FD00:0::1", "fd00::1"}, {"CNAME", "Web.Corp.", "web.corp"}, {"PTR", "web.corp.", "web.corp"},
		{"SRV", "0  50 80 Web.Corp.", "0 50 80 web.corp"}, {"TXT", "As It.", "As It."}, {"A", "Not an address.", "Not an address."},
	} {
		if got := canonical(c[0], c[1]); got != c[2] {
			t.Errorf("%s %q is %q, want %q", c[0], c[1], got, c[2])
		}
	}
}

// TestIndexAgainstModel holds the index against a plain list.
func TestIndexAgainstModel(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		x, model := NewIndex(func(remark string) bool { return remark == "mine" }), map[int64]Record{}
		record := rapid.Custom(func(t *rapid.T) Record {
			return Record{
				Place: Place{rapid.SampledFrom([]string{"z-1", "z-2"}).Draw(t, "zone"), rapid.SampledFrom([]string{"@", "a", "b"}).Draw(t, "rr")},
				ID:    rapid.Int64Range(1, 12).Draw(t, "id"), Type: "A", Value: rapid.SampledFrom([]string{"10.0.0.1", "10.0.0.2"}).Draw(t, "value"),
				Remark: rapid.SampledFrom([]string{"mine", ""}).Draw(t, "remark"),
			}
		})
		listed := map[string]bool{}
		t.Repeat(map[string]func(*rapid.T){
			"put": func(t *rapid.T) {
				r := record.Draw(t, "record")
				x.Put(r)
				delete(model, r.ID)
				if listed[r.ZoneID] {
					model[r.ID] = r
				}
			},
			"drop": func(t *rapid.T) {
				id := rapid.Int64Range(1, 12).Draw(t, "id")
				x.Drop(id)
				delete(model, id)
			},
			"set": func(t *rapid.T) {
				r := record.Draw(t, "record")
				whole := rapid.Bool().Draw(t, "whole")
				maps.DeleteFunc(model, func(id int64, m Record) bool { return id == r.ID || m.ZoneID == r.ZoneID && (whole || m.RR == r.RR) })
				if whole {
					x.Drop(r.ID)
					x.SetZone(r.ZoneID, []Record{r})
					listed[r.ZoneID] = true
				} else {
					x.SetPlace(r.Place, []Record{r})
				}
				if listed[r.ZoneID] {
					model[r.ID] = r
				}
			},
			"": func(t *rapid.T) { checkIndex(t, x, model) },
		})
	})
}

func checkIndex(t *rapid.T, x *Index, model map[int64]Record) {
	for _, zone := range []string{"z-1", "z-2"} {
		all, owned, found := 0, 0, map[int64]Record{}
		for p, records := range x.Zone(zone) {
			if !slices.Equal(records, x.At(p)) || !slices.IsSortedFunc(records, compareIDs) {
				t.Fatalf("%v holds %v, but shows %v", p, x.At(p), records)
			}
			for _, r := range records {
				all++
				if r.Remark == "mine" {
					owned++
				}
				found[r.ID] = r
				if at, ok := x.Place(r.ID); !ok || at != r.Place {
					t.Fatalf("record %d is at %v, not %v", r.ID, r.Place, at)
				}
			}
		}
		want := maps.Clone(model)
		maps.DeleteFunc(want, func(_ int64, r Record) bool { return r.ZoneID != zone })
		if !maps.Equal(found, want) {
			t.Fatalf("%s holds %v, want %v", zone, found, want)
		}
		if a, o := x.Count(zone); a != all || o != owned {
			t.Fatalf("%s counts %d and %d, want %d and %d", zone, a, o, all, owned)
		}
	}
}

// pages is a zone whose pages are as the test says.
type pages struct {
	Reader
	rows  [][]int64
	total []int
}

func (p pages) DescribeRecords(_ context.Context, _ string, page, _ int) (records []aliyun.ZoneRecord, total int, err error) {
	if page > len(p.rows) {
		return nil, p.total[len(p.total)-1], nil
	}
	for _, id := range p.rows[page-1] {
		records = append(records, aliyun.ZoneRecord{ID: id, RR: "a", Type: "A"})
	}
	return records, p.total[page-1], nil
}

func TestListingIsAcceptedWholeOrNotAtAll(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		pages    pages
		accepted bool
	}{
		"two pages":            {pages{rows: [][]int64{{1, 2}, {3}}, total: []int{3, 3}}, true},
		"empty":                {pages{rows: [][]int64{{}}, total: []int{0}}, true},
		"grew":                 {pages{rows: [][]int64{{1, 2}, {3, 4}}, total: []int{3, 4}}, false},
		"shrank":               {pages{rows: [][]int64{{1, 2}, {3}}, total: []int{4, 3}}, false},
		"a record twice":       {pages{rows: [][]int64{{1, 2}, {2, 3}}, total: []int{4, 4}}, false},
		"a page cut short":     {pages{rows: [][]int64{{1, 2}, {3}}, total: []int{4, 4}}, false},
		"an empty page":        {pages{rows: [][]int64{{}, {1}}, total: []int{1, 1}}, false},
		"more than it tells":   {pages{rows: [][]int64{{1, 2}}, total: []int{1}}, false},
		"no records, it tells": {pages{rows: [][]int64{{}}, total: []int{5}}, false},
	} {
		for _, whole := range []bool{true, false} {
			records, err := list(t.Context(), c.pages, "z-1", whole)
			if accepted := err == nil; accepted != c.accepted || !accepted && !errors.Is(err, errDrift) {
				t.Errorf("%s: %v", name, err)
			}
			if c.accepted && len(records) != c.pages.total[0] {
				t.Errorf("%s: %d records", name, len(records))
			}
		}
	}
}

func TestRecordOf(t *testing.T) {
	t.Parallel()
	seen := time.Unix(1, 0)
	got := recordOf(aliyun.ZoneRecord{ID: 1, ZoneID: "z", RR: "Web", Type: "CNAME", Value: "A.B.", TTL: 60, Line: "default", Enabled: true}, seen)
	if want := (Record{Place: Place{"z", "web"}, ID: 1, Type: "CNAME", Value: "a.b", TTL: 60, Enabled: true, Seen: seen}); got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
}
