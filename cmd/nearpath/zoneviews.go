package main

import (
	"fmt"
	"time"

	"github.com/nearpath/nearpath/externaldns"
)

// What the verbs of "nearpath zone" show, as the syncer sends it.

// A zoneStatusView is what the syncer knows and does.
type zoneStatusView struct {
	Leading  bool           `json:"leading"`
	Synced   bool           `json:"synced"`
	DryRun   bool           `json:"dryRun"`
	Zones    []zoneView     `json:"zones"`
	Pending  map[string]int `json:"pending"` // names, by lane
	Holds    []holdView     `json:"holds"`
	Failing  []string       `json:"failing"` // kinds of calls
	Problems []problemView  `json:"problems"`
}

// A zoneView is a zone in scope.
type zoneView struct {
	ID      string `json:"id"`
	Name    string `json:"name"`
	Records int    `json:"records"`
	Owned   int    `json:"owned"`
	// Barred says why nothing is written to the zone; empty: it is.
	Barred string `json:"barred,omitempty"`
	Listed bool   `json:"listed"`
}

// A holdView is a zone in which deletes are held.
type holdView struct {
	Zone    string    `json:"zone"`
	Reason  string    `json:"reason"`
	Since   time.Time `json:"since"`
	Pending int       `json:"pending"`
}

// A problemView is something that is not published as asked.
type problemView struct {
	Object  string `json:"object"`
	Reason  string `json:"reason"`
	Message string `json:"message"`
}

// A writeView is a write to a zone.
type writeView struct {
	Verb     string `json:"verb"`
	Name     string `json:"name"`
	Type     string `json:"type"`
	Value    string `json:"value"`
	TTL      int    `json:"ttl"`
	Remark   string `json:"remark,omitempty"` // the new one
	Zone     string `json:"zone"`
	RecordID int64  `json:"recordID,string,omitempty"`
	Was      string `json:"was,omitempty"` // the value, TTL or remark that is replaced
	Object   string `json:"object,omitempty"`
	Error    string `json:"error,omitempty"` // of one that was tried
}

// A planView is everything that would be written.
type planView struct {
	Writes   []writeView   `json:"writes"`
	Problems []problemView `json:"problems"`
	Holds    []holdView    `json:"holds"`
}

// A recordView is a record of a zone in scope.
type recordView struct {
	Name     string `json:"name"`
	Type     string `json:"type"`
	Value    string `json:"value"`
	TTL      int    `json:"ttl"`
	Zone     string `json:"zone"`
	RecordID int64  `json:"recordID,string"`
	Disabled bool   `json:"disabled,omitempty"`
	Remark   string `json:"remark,omitempty"`
	Owner    string `json:"owner"` // ours, sibling or foreign
	By       string `json:"by,omitempty"`
	Object   string `json:"object,omitempty"`
}

// A wantView is a record as an object asks for it.
type wantView struct {
	Name   string `json:"name"`
	Type   string `json:"type"`
	Value  string `json:"value"`
	TTL    int    `json:"ttl"`
	Object string `json:"object"`
}

// An explainView is why a name is as it is.
type explainView struct {
	Name     string        `json:"name"`
	Zone     string        `json:"zone,omitempty"`
	ZoneName string        `json:"zoneName,omitempty"`
	RR       string        `json:"rr,omitempty"`
	NoZone   string        `json:"noZone,omitempty"` // why it is in none
	Barred   string        `json:"barred,omitempty"`
	Wants    []wantView    `json:"wants"`
	Records  []recordView  `json:"records"`
	Writes   []writeView   `json:"writes"`
	Problems []problemView `json:"problems"`
	State    string        `json:"state"`
}

// An auditView is what the zones hold against what is wanted.
type auditView struct {
	Clean    bool            `json:"clean"`
	Zones    []auditZoneView `json:"zones"`
	Missing  []wantView      `json:"missing"`
	Orphans  []recordView    `json:"orphans"`
	Disabled []recordView    `json:"disabled"`
	Unlike   []recordView    `json:"unlike"`
	Problems []problemView   `json:"problems"`
}

// An auditZoneView counts the records of a zone.
type auditZoneView struct {
	ID      string         `json:"id"`
	Name    string         `json:"name"`
	Records int            `json:"records"`
	Owned   int            `json:"owned"`
	OK      int            `json:"ok"`
	By      map[string]int `json:"by"` // those of others, by who owns them
	Barred  string         `json:"barred,omitempty"`
}

// An adoptView is a plan to make records ours, or what became of it.
type adoptView struct {
	Applied bool         `json:"applied"`
	Writes  []writeView  `json:"writes"`
	Left    []recordView `json:"left"` // as nothing wants them
}

// viewAll views each of a list; the result is never nil, so that JSON has a list.
func viewAll[T, V any](list []T, view func(T) V) []V {
	out := make([]V, len(list))
	for i, v := range list {
		out[i] = view(v)
	}
	return out
}

func objectText(o externaldns.Object) string {
	if o == (externaldns.Object{}) {
		return ""
	}
	return o.String()
}

func viewProblem(p externaldns.Problem) problemView {
	return problemView{objectText(p.Object), p.Reason, p.Message}
}

func viewHold(h externaldns.Hold) holdView {
	return holdView{h.ZoneID, h.Reason, h.Since, h.Pending}
}

func viewWant(w externaldns.Want) wantView {
	return wantView{w.Name, w.Type, w.Value, w.TTL, objectText(w.Object)}
}

func viewRow(r externaldns.Row) recordView {
	return recordView{
		Name: r.Name, Type: r.Record.Type, Value: r.Record.Value, TTL: r.Record.TTL, Zone: r.Record.ZoneID, RecordID: r.Record.ID,
		Disabled: !r.Record.Enabled, Remark: r.Record.Remark, Owner: r.Owner.String(), By: r.By, Object: objectText(r.Object),
	}
}

func viewOp(o externaldns.Op) writeView {
	v := writeView{
		Verb: o.Verb.String(), Name: o.Name, Type: o.Type, Value: o.Value, TTL: o.TTL, Remark: o.Remark, Zone: o.ZoneID,
		RecordID: o.Have.ID, Object: objectText(o.Object),
	}
	switch o.Verb {
	case externaldns.Add:
	case externaldns.Update:
		v.Was = o.Have.Value
		if o.Value == o.Have.Value {
			v.Was = fmt.Sprintf("%d s", o.Have.TTL)
		}
	case externaldns.Remark:
		v.Type, v.Value, v.TTL, v.Was = o.Have.Type, o.Have.Value, o.Have.TTL, o.Have.Remark
	case externaldns.Delete:
		v.Type, v.Value, v.TTL, v.Remark = o.Have.Type, o.Have.Value, o.Have.TTL, ""
	}
	return v
}

func viewPreview(p externaldns.Preview) planView {
	return planView{viewAll(p.Ops, viewOp), viewAll(p.Problems, viewProblem), viewAll(p.Holds, viewHold)}
}

func viewExplanation(e externaldns.Explanation) explainView {
	return explainView{
		Name: e.Name, Zone: e.Place.ZoneID, ZoneName: e.ZoneName, RR: e.Place.RR, NoZone: e.NoPlace, Barred: e.Barred,
		Wants: viewAll(e.Wants, viewWant), Records: viewAll(e.Rows, viewRow), Writes: viewAll(e.Ops, viewOp),
		Problems: viewAll(e.Problems, viewProblem), State: e.State,
	}
}

func viewReport(r externaldns.Report) auditView {
	return auditView{
		Clean: r.Clean(), Missing: viewAll(r.Missing, viewWant), Orphans: viewAll(r.Orphans, viewRow),
		Disabled: viewAll(r.Disabled, viewRow), Unlike: viewAll(r.Unlike, viewRow), Problems: viewAll(r.Problems, viewProblem),
		Zones: viewAll(r.Zones, func(z externaldns.ZoneReport) auditZoneView {
			return auditZoneView{z.ID, z.Name, z.Records, z.Owned, z.OK, z.By, z.Barred}
		}),
	}
}

func viewStatus(st externaldns.Status) zoneStatusView {
	v := zoneStatusView{
		Leading: st.Leading, Synced: st.Synced, Holds: viewAll(st.Holds, viewHold), Problems: viewAll(st.Problems, viewProblem),
		Failing: viewAll(st.Failing, func(s string) string { return s }), Pending: map[string]int{},
		Zones: viewAll(st.Zones, func(z externaldns.ZoneStatus) zoneView {
			return zoneView{z.ID, z.Name, z.Records, z.Owned, z.Barred, z.Listed}
		}),
	}
	for i, lane := range []string{"dead", "fresh", "backlog", "audit"} {
		v.Pending[lane] = st.Pending[i]
	}
	return v
}
