package externaldns

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/nearpath/nearpath/internal/aliyun"
)

// A Scope says which zones are written to. The zero value is every zone that is bound to a VPC.
type Scope struct {
	// ZoneIDs leaves only these zones. They count even while they are bound to nothing, when nothing is written to them.
	ZoneIDs []string
	// VPCID leaves only zones bound to this VPC.
	VPCID string
}

// A Place is where the records of a name are: the zone's ID and the host record, "@" at the apex.
type Place struct{ ZoneID, RR string }

func (p Place) String() string { return p.RR + " in " + p.ZoneID }

// errNoZone: no zone in scope is a suffix of the name.
var errNoZone = errors.New("no zone for the name")

// A zone is a zone in scope.
type zone struct {
	aliyun.Zone
	// barred says why nothing is written to the zone; empty when it may be.
	barred string
}

// Zones are the zones in scope. They are immutable.
type Zones struct {
	byID map[string]zone
	// byName has the zones of a name that are its best ones: more than one means that nobody can tell which to use.
	byName map[string][]string
	// named has all of a name, and order all by ID.
	named map[string][]string
	order []string
	// outside has the zones by name that are out of scope but hide names of it.
	outside map[string][]aliyun.Zone
}

// Reasons why a zone is barred.
const (
	barredGone    = "the zone is gone: restore it, or take it out of the configuration and restart"
	barredUnbound = "the zone is bound to no VPC that counts: bind it"
)

// next takes a new listing of the account's zones. A zone that was in scope and is not any more stays, barred: names
// that were in it do not move to its parent because of a mishap, and nothing of it is deleted. z may be nil.
func (z *Zones) next(list []aliyun.Zone, scope Scope) (*Zones, []Problem) {
	n := &Zones{byID: map[string]zone{}, byName: map[string][]string{}, named: map[string][]string{}, outside: map[string][]aliyun.Zone{}}
	for _, shown := range list {
		shown.Name = canonicalName(shown.Name)
		named := slices.Contains(scope.ZoneIDs, shown.ID)
		bound := scope.binds(shown)
		switch {
		case len(scope.ZoneIDs) > 0 && !named:
			n.outside[shown.Name] = append(n.outside[shown.Name], shown)
		case bound:
			n.byID[shown.ID] = zone{Zone: shown}
		case named || z.has(shown.ID):
			n.byID[shown.ID] = zone{shown, barredUnbound}
		}
	}
	n.keep(z)
	n.choose()
	return n, n.problems(scope)
}

func (s Scope) binds(z aliyun.Zone) bool {
	if s.VPCID == "" {
		return len(z.VPCs) > 0
	}
	return slices.Contains(z.VPCs, s.VPCID)
}

// keep adds the zones that were there before and are not listed.
func (z *Zones) keep(before *Zones) {
	if before == nil {
		return
	}
	for id, old := range before.byID {
		if _, ok := z.byID[id]; !ok {
			old.barred = barredGone
			z.byID[id] = old
		}
	}
}

// choose picks, among zones of one name, those that may be written to.
func (z *Zones) choose() {
	z.order = slices.Sorted(maps.Keys(z.byID))
	for _, id := range z.order {
		name := z.byID[id].Name
		z.named[name] = append(z.named[name], id)
	}
	for name, ids := range z.named {
		z.byName[name] = ids
		open := slices.DeleteFunc(slices.Clone(ids), func(id string) bool { return z.byID[id].barred != "" })
		if len(open) > 0 {
			z.byName[name] = open
		}
	}
}

func (z *Zones) problems(scope Scope) (problems []Problem) {
	report := func(id, reason, format string, args ...any) {
		problems = append(problems, Problem{zoneObject(id), reason, fmt.Sprintf(format, args...)})
	}
	for _, id := range scope.ZoneIDs {
		if _, ok := z.byID[id]; !ok {
			report(id, "ZoneNotFound", "zone %q does not exist or is not visible with these credentials: correct the ID or the permissions", id)
		}
	}
	for _, id := range z.order {
		if zone := z.byID[id]; zone.barred != "" {
			report(id, "ZoneBarred", "nothing is written to zone %s (%s): %s", id, zone.Name, zone.barred)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(z.byName)) {
		if ids := z.byName[name]; len(ids) > 1 {
			report(ids[0], "ZoneAmbiguous", "zones %s are all named %s: name the one to use, or the VPC", strings.Join(ids, ", "), name)
		}
	}
	return problems
}

// zoneObject is a zone as the object of a Problem.
func zoneObject(id string) Object { return Object{Kind: "PrivateZone", Name: id} }

func (z *Zones) has(id string) bool {
	if z == nil {
		return false
	}
	_, ok := z.byID[id]
	return ok
}

// bar returns the zones with one of them barred.
func (z *Zones) bar(id, why string) *Zones {
	zone, ok := z.byID[id]
	if !ok {
		return z
	}
	n := *z
	n.byID = maps.Clone(z.byID)
	zone.barred = why
	n.byID[id] = zone
	return &n
}

// all returns the zones in scope by ID.
func (z *Zones) all() []zone {
	if z == nil {
		return nil
	}
	list := make([]zone, len(z.order))
	for i, id := range z.order {
		list[i] = z.byID[id]
	}
	return list
}

// find returns the place of a name: the most specific zone in scope has it. The error says why there is none.
func (z *Zones) find(name string) (Place, error) {
	for suffix := name; suffix != ""; suffix = parent(suffix) {
		ids := z.byName[suffix]
		switch {
		case len(ids) == 1:
			return Place{ids[0], rrOf(name, suffix)}, nil
		case len(ids) > 1:
			return Place{}, fmt.Errorf("zones %s are all named %s: name the one to use, or the VPC", strings.Join(ids, ", "), suffix)
		}
	}
	return Place{}, errNoZone
}

// places returns every place in scope where records of the name may be, its own one first. The others had it before a
// more specific zone came, or belong to another zone of the same name.
func (z *Zones) places(name string) []Place {
	own, err := z.find(name)
	if err != nil {
		return nil
	}
	places := []Place{own}
	for suffix := name; suffix != ""; suffix = parent(suffix) {
		for _, id := range z.named[suffix] {
			if p := (Place{id, rrOf(name, suffix)}); p != own {
				places = append(places, p)
			}
		}
	}
	return places
}

// hidden names a zone out of scope, bound to a VPC of the name's own zone, that is more specific: resolvers ask it.
func (z *Zones) hidden(name string, own Place) string {
	chosen := z.byID[own.ZoneID]
	for suffix := name; suffix != chosen.Name && suffix != ""; suffix = parent(suffix) {
		for _, other := range z.outside[suffix] {
			if slices.ContainsFunc(other.VPCs, func(vpc string) bool { return slices.Contains(chosen.VPCs, vpc) }) {
				return other.ID
			}
		}
	}
	return ""
}

// name is the full name of a place.
func (z *Zones) name(p Place) string {
	zone := z.byID[p.ZoneID].Name
	if p.RR == "@" {
		return zone
	}
	return p.RR + "." + zone
}

// parent cuts the first label off.
func parent(name string) string {
	_, rest, _ := strings.Cut(name, ".")
	return rest
}

// rrOf is the host record of a name in a zone, empty when the name is not in it.
func rrOf(name, zoneName string) string {
	if name == zoneName {
		return "@"
	}
	rr, ok := strings.CutSuffix(name, "."+zoneName)
	if !ok {
		return ""
	}
	return rr
}
