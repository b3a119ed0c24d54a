package externaldns

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
)

// A View is what the zones in scope held at one time, for the questions and plans of people. It makes no calls.
type View struct {
	Policy Policy
	Limits Limits
	// Problems are those of the zones: not found, not bound, of one name.
	Problems []Problem
	zones    *Zones
	index    *Index
	at       time.Time
}

// listTries is how often a zone is listed that changes meanwhile, before a View gives up.
const listTries = 5

// Load reads the zones in scope. Pages that do not fit together are read again; the error matches none in particular when
// they never do.
func Load(ctx context.Context, cloud Reader, scope Scope, policy Policy) (*View, error) {
	v := &View{Policy: policy, index: NewIndex(policy.mine), at: time.Now()}
	shown, err := cloud.DescribeZones(ctx)
	if err != nil {
		return nil, fmt.Errorf("list zones: %w", err)
	}
	v.zones, v.Problems = v.zones.next(shown, scope)
	for _, zone := range v.zones.all() {
		records, err := list(ctx, cloud, zone.ID, false)
		for try := 1; errors.Is(err, errDrift) && try < listTries; try++ {
			records, err = list(ctx, cloud, zone.ID, false)
		}
		if err != nil {
			return nil, err
		}
		v.index.SetZone(zone.ID, recordsOf(records, v.at))
	}
	return v, nil
}

// View returns what the Syncer knows now.
func (s *Syncer) View() *View {
	s.mu.Lock()
	defer s.mu.Unlock()
	v := &View{Policy: s.cfg.Policy, Limits: s.cfg.Limits, zones: s.zones, index: NewIndex(s.cfg.Policy.mine), at: time.Now()}
	if v.zones == nil {
		v.zones, _ = v.zones.next(nil, Scope{})
	}
	for _, zone := range v.zones.all() {
		var records []Record
		for _, list := range s.index.Zone(zone.ID) {
			records = append(records, list...)
		}
		if s.index.Listed(zone.ID) {
			v.index.SetZone(zone.ID, records)
		}
	}
	return v
}

// names returns the names that are wanted or have records, sorted.
func (v *View) names(desired Desired) []string {
	names := map[string]struct{}{}
	for name := range desired.All() {
		names[name] = struct{}{}
	}
	for _, zone := range v.zones.all() {
		for place := range v.index.Zone(zone.ID) {
			names[v.zones.name(place)] = struct{}{}
		}
	}
	return slices.Sorted(maps.Keys(names))
}

// plan plans one name.
func (v *View) plan(name string, desired Desired) (Place, Plan) {
	wants := desired.For(name)
	place, err := v.zones.find(name)
	if err != nil {
		return Place{}, Plan{Problems: homeless(name, wants, err)}
	}
	var elsewhere []Record
	for _, other := range v.zones.places(name)[1:] {
		elsewhere = append(elsewhere, v.index.At(other)...)
	}
	return place, v.Policy.plan(name, place, wants, v.index.At(place), elsewhere)
}

// A Preview is everything that would be done.
type Preview struct {
	Ops      []Op
	Problems []Problem
	// Holds are the zones in which the mass-delete guard would hold the deletes.
	Holds []Hold
}

// Plan returns what would be done for all names.
func (v *View) Plan(desired Desired) Preview {
	var p Preview
	p.Problems = append(p.Problems, v.Problems...)
	loads := map[string]*load{}
	for _, name := range v.names(desired) {
		place, plan := v.plan(name, desired)
		p.Ops = append(p.Ops, plan.Ops...)
		p.Problems = append(p.Problems, plan.Problems...)
		if l := loads[place.ZoneID]; l == nil {
			loads[place.ZoneID] = &load{}
		}
		l := loads[place.ZoneID]
		l.removals, l.adds = l.removals+plan.removals(), l.adds+plan.additions()
	}
	g := newGuard(v.Limits)
	for _, zone := range v.zones.all() {
		if l := loads[zone.ID]; l != nil {
			_, l.owned = v.index.Count(zone.ID)
			l.batch = l.removals
			g.judge(zone.ID, *l, v.at)
		}
	}
	p.Holds = g.holds()
	return p
}

// String prints the Preview line by line.
func (p Preview) String() string {
	var b strings.Builder
	for _, op := range p.Ops {
		fmt.Fprintln(&b, op)
	}
	for _, problem := range p.Problems {
		fmt.Fprintln(&b, "problem:", problem)
	}
	for _, h := range p.Holds {
		fmt.Fprintln(&b, "hold:", h)
	}
	if b.Len() == 0 {
		return "nothing to do\n"
	}
	return b.String()
}

// A Row is a record as `zone records` shows it.
type Row struct {
	Name   string
	Record Record
	Owner  Ownership
	// By is who owns it, as far as the remark tells: an owner id, "cloud provider", or the remark itself.
	By string
	// Object is what it is published for, when something is wanted whose hash the remark has.
	Object Object
}

// Records returns the records in scope by name and ID. Desired may be nil: then no objects are known.
func (v *View) Records(desired Desired) (rows []Row) {
	objects := map[string]Object{}
	if desired != nil {
		for _, wants := range desired.All() {
			for _, w := range wants {
				objects[HashObject(w.Object)] = w.Object
			}
		}
	}
	for _, zone := range v.zones.all() {
		for place, records := range v.index.Zone(zone.ID) {
			for _, r := range records {
				mark, _ := ParseRemark(r.Remark)
				rows = append(rows, Row{v.zones.name(place), r, v.Policy.of(r.Remark), by(r.Remark), objects[mark.Hash]})
			}
		}
	}
	slices.SortFunc(rows, func(a, b Row) int {
		if c := strings.Compare(a.Name, b.Name); c != 0 {
			return c
		}
		return compareIDs(a.Record, b.Record)
	})
	return rows
}

func by(remark string) string {
	switch mark, ok := ParseRemark(remark); {
	case ok:
		return string(mark.Owner)
	case remark == CCMRemark:
		return "cloud provider"
	}
	return remark
}
