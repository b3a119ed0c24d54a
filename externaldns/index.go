package externaldns

import (
	"cmp"
	"fmt"
	"iter"
	"slices"
	"strings"
	"time"

	"github.com/nearpath/nearpath/internal/aliyun"
)

// A Record is one record of a zone as it was last seen.
type Record struct {
	Place
	ID          int64
	Type, Value string // the value is canonical
	TTL         int    // s
	Remark      string
	Line        string // empty for the default line, which everybody is asked on
	Enabled     bool
	// Seen is when the cloud last showed the record or confirmed a write to it.
	Seen time.Time
}

// String prints the record as the CLI does.
func (r Record) String() string {
	s := fmt.Sprintf("%d %s %d %s %s", r.ID, r.Place, r.TTL, r.Type, r.Value)
	if !r.Enabled {
		s += " (disabled)"
	}
	return s
}

// serves reports whether the record answers a query for the value.
func (r Record) serves(recordType, value string) bool {
	return r.Type == recordType && r.Value == value && r.changeable()
}

// changeable reports whether a change of its value makes the record serve that.
func (r Record) changeable() bool { return r.Line == "" && r.Enabled }

// recordOf reads a record of the API.
func recordOf(z aliyun.ZoneRecord, seen time.Time) Record {
	line := z.Line
	if line == "default" {
		line = ""
	}
	return Record{
		Place: Place{z.ZoneID, strings.ToLower(z.RR)}, ID: z.ID, Type: z.Type, Value: canonical(z.Type, z.Value), TTL: z.TTL,
		Remark: z.Remark, Line: line, Enabled: z.Enabled, Seen: seen,
	}
}

func recordsOf(list []aliyun.ZoneRecord, seen time.Time) []Record {
	records := make([]Record, len(list))
	for i, z := range list {
		records[i] = recordOf(z, seen)
	}
	return records
}

// An Index is what the zones hold as far as is known. Only accepted listings and answers to EXACT searches take
// anything out of it, besides own deletes. It is not safe for concurrent use.
type Index struct {
	mine  func(remark string) bool
	zones map[string]*zoneIndex
	ids   map[int64]Place
}

type zoneIndex struct {
	names map[string][]Record // by host record, each sorted by ID
	count int
	owned int
}

// NewIndex makes an empty index that counts as owned what mine says.
func NewIndex(mine func(remark string) bool) *Index {
	return &Index{mine: mine, zones: map[string]*zoneIndex{}, ids: map[int64]Place{}}
}

// At returns the records at a place, by ID. The caller must not change them.
func (x *Index) At(p Place) []Record {
	if z := x.zones[p.ZoneID]; z != nil {
		return z.names[p.RR]
	}
	return nil
}

// Place returns where a record is.
func (x *Index) Place(id int64) (Place, bool) {
	p, ok := x.ids[id]
	return p, ok
}

// Listed reports whether a listing of the zone was accepted.
func (x *Index) Listed(zoneID string) bool { return x.zones[zoneID] != nil }

// Count returns how many records a zone has and how many of them are ours.
func (x *Index) Count(zoneID string) (all, owned int) {
	if z := x.zones[zoneID]; z != nil {
		return z.count, z.owned
	}
	return 0, 0
}

// Zone returns the places of a zone with their records, in no order.
func (x *Index) Zone(zoneID string) iter.Seq2[Place, []Record] {
	return func(yield func(Place, []Record) bool) {
		z := x.zones[zoneID]
		if z == nil {
			return
		}
		for rr, records := range z.names {
			if !yield(Place{zoneID, rr}, records) {
				return
			}
		}
	}
}

// SetZone takes an accepted listing of a zone.
func (x *Index) SetZone(zoneID string, records []Record) {
	for _, old := range x.Zone(zoneID) {
		for _, r := range old {
			delete(x.ids, r.ID)
		}
	}
	x.zones[zoneID] = &zoneIndex{names: make(map[string][]Record, len(records))}
	for _, r := range records {
		x.Put(r)
	}
}

// SetPlace takes the answer to an EXACT search: all records at the place.
func (x *Index) SetPlace(p Place, records []Record) {
	for _, r := range slices.Clone(x.At(p)) {
		x.Drop(r.ID)
	}
	for _, r := range records {
		x.Put(r)
	}
}

// Put adds a record or replaces the one of the same ID.
func (x *Index) Put(r Record) {
	x.Drop(r.ID)
	z := x.zones[r.ZoneID]
	if z == nil {
		return // not listed yet: a part would look like the whole
	}
	list := z.names[r.RR]
	at, _ := slices.BinarySearchFunc(list, r, compareIDs)
	z.names[r.RR] = slices.Insert(slices.Clip(list), at, r)
	x.ids[r.ID] = r.Place
	z.count++
	if x.mine(r.Remark) {
		z.owned++
	}
}

// Drop forgets a record.
func (x *Index) Drop(id int64) {
	p, ok := x.ids[id]
	if !ok {
		return
	}
	z := x.zones[p.ZoneID]
	list := z.names[p.RR]
	at := slices.IndexFunc(list, func(r Record) bool { return r.ID == id })
	z.count--
	if x.mine(list[at].Remark) {
		z.owned--
	}
	delete(x.ids, id)
	if len(list) == 1 {
		delete(z.names, p.RR)
		return
	}
	z.names[p.RR] = slices.Concat(list[:at], list[at+1:])
}

func compareIDs(a, b Record) int { return cmp.Compare(a.ID, b.ID) }

// sameRecords reports whether two sets of records at a place, by ID, are equal but for when they were seen.
func sameRecords(a, b []Record) bool {
	return slices.EqualFunc(a, b, func(a, b Record) bool {
		a.Seen, b.Seen = time.Time{}, time.Time{}
		return a == b
	})
}
