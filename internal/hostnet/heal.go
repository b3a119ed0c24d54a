package hostnet

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
)

// Reasons of reports.
const (
	// ReasonUndone says that a change by others was undone.
	ReasonUndone = "HostNetworkRestored"
	// ReasonNotUndone says that one cannot be undone.
	ReasonNotUndone = "HostNetworkBroken"
)

const (
	// reportAgain is how long the same change is not reported again: two programs that disagree would else report for
	// ever.
	reportAgain = time.Minute
	reportAfter = time.Second
	// reportLimit is what of an event's note, 1024 bytes, is for the changes.
	reportLimit = 950
)

type report struct{ reason, message string }

// A scope is what becomes as wanted by itself.
type scope struct {
	part Part
	mac  string
}

// A memory tells changes by others from what is being set up: what was as wanted once, and is so no more while the same
// is wanted on the same links, somebody has changed. The zero value remembers nothing.
type memory struct {
	settled  map[scope]string     // what was wanted when there was nothing to do
	reported map[string]time.Time // by Op
	// What is to be reported when there is nothing more to do, or after reportAfter: one change by others may be seen in
	// parts.
	undone []string
	failed map[string]string // by Op
	since  time.Time
	fights map[string]fight // by Op
}

// judge says what is to be reported after steps were made with the outcome o. In a further round of a comparison the
// steps are for what the round before has made.
func (m *memory) judge(wanted Wanted, found Found, steps []Step, o outcome, further bool, now time.Time) (reports []report) {
	if m.settled == nil {
		m.settled, m.reported, m.failed = map[scope]string{}, map[string]time.Time{}, map[string]string{}
	}
	maps.DeleteFunc(m.reported, func(_ string, at time.Time) bool { return now.Sub(at) >= reportAgain })
	maps.DeleteFunc(m.failed, func(op, _ string) bool {
		return !slices.ContainsFunc(o.failed, func(f failure) bool { return f.Op != nil && f.String() == op })
	})
	bases := found.bases(wanted)
	for _, s := range steps {
		if further || !m.tells(s, bases, now) {
			continue
		}
		if err := o.ofStep(s); err != nil {
			m.failed[s.String()] = fmt.Sprintf("%s: %v", found.was(s.Op), err)
		} else {
			m.undone = append(m.undone, fmt.Sprintf("%s: %s", found.was(s.Op), s))
		}
	}
	m.settle(bases, steps)
	return m.due(len(steps) == 0, now)
}

// due are the reports that need not wait.
func (m *memory) due(quiet bool, now time.Time) (reports []report) {
	switch {
	case len(m.undone)+len(m.failed) == 0:
		m.since = time.Time{}
		return nil
	case m.since.IsZero():
		m.since = now
	}
	if !quiet && now.Sub(m.since) < reportAfter {
		return nil
	}
	if len(m.undone) > 0 {
		reports = append(reports, report{ReasonUndone, "changed by others and put back: " + joined(m.undone)})
	}
	if len(m.failed) > 0 {
		failed := slices.Sorted(maps.Values(m.failed))
		reports = append(reports, report{ReasonNotUndone, "changed by others and cannot be put back: " + joined(failed)})
	}
	m.undone, m.since = nil, time.Time{}
	clear(m.failed)
	return reports
}

// tells says whether the step undoes what somebody has changed and is not reported yet.
func (m *memory) tells(s Step, bases map[scope]string, now time.Time) bool {
	if _, recent := m.reported[s.String()]; recent || !m.undoes(s, bases) {
		return false
	}
	m.reported[s.String()] = now
	return true
}

// undoes says whether the step undoes what somebody has changed. Neighbours that are asked for again, and programs that
// are taken off in case, are nobody's doing.
func (m *memory) undoes(s Step, bases map[scope]string) bool {
	switch s.Op.(type) {
	case DeleteNeighbour, Detach:
		return false
	}
	basis, ok := bases[scope{s.Part, s.MAC}]
	return ok && m.settled[scope{s.Part, s.MAC}] == basis
}

// settle remembers the scopes that had no steps, and forgets those that are to be otherwise now.
func (m *memory) settle(bases map[scope]string, steps []Step) {
	maps.DeleteFunc(m.settled, func(sc scope, basis string) bool { return bases[sc] != basis })
	for sc, basis := range bases {
		if !slices.ContainsFunc(steps, func(s Step) bool { return sc == scope{s.Part, s.MAC} }) {
			m.settled[sc] = basis
		}
	}
}

// joined leaves out what does not fit into one event.
func joined(texts []string) string {
	var b strings.Builder
	for i, t := range texts {
		if b.Len()+len(t) > reportLimit && i > 0 {
			fmt.Fprintf(&b, "; and %d more", len(texts)-i)
			break
		}
		if i > 0 {
			b.WriteString("; ")
		}
		b.WriteString(t)
	}
	return b.String()
}

// bases say of each scope for what it is to be as wanted: while that is the same, nothing but others can change the scope.
func (f Found) bases(wanted Wanted) map[scope]string {
	node := fmt.Sprint(wanted.ENIs, wanted.Parents, wanted.NodeDNS, wanted.Egress, wanted.HostNetworks, f.Families, f.Uplinks, f.nodeAddrs())
	rest := node + fmt.Sprint(wanted.ServiceNetworks, wanted.Spared, f.local(wanted), f.outsideLinks(wanted))
	bases := map[scope]string{{part: PartNode}: node, {part: PartEgress}: node, {part: PartRest}: rest}
	for _, mac := range wanted.Known {
		if link, ok := f.link(func(l Link) bool { return l.has(mac) }); ok {
			bases[scope{PartENI, mac}] = fmt.Sprint("not wanted ", link.Index) // or else, see below
		}
	}
	for _, e := range wanted.ENIs {
		link, ok := f.eniLink(e)
		if !ok {
			continue
		}
		companion, _ := f.companion(e, link)
		eni := fmt.Sprint(e, link.Index, f.mtu(), f.Families, f.nodeAddrs())
		bases[scope{PartENI, e.MAC}] = eni + companion.Name
		if wanted.isParent(e, f) {
			bases[scope{PartIPVlan, e.MAC}] = eni
		}
	}
	return bases
}

// was says how what an Op changes was found.
func (f Found) was(op Op) string {
	switch o := op.(type) {
	case SetSysctl:
		return o.Key + " was " + f.Sysctls[o.Key]
	case SetGroup:
		return fmt.Sprintf("%s was in group %d", o.Link.Name, o.Link.Group)
	case SetMTU:
		return fmt.Sprintf("%s had MTU %d", o.Link.Name, o.Link.MTU)
	case SetUp:
		return o.Link.Name + " was down"
	case SetNoARP:
		return o.Link.Name + " asked for neighbours"
	case SetIPVlanPort:
		return fmt.Sprintf("the ipvlan links of %s were in %s", f.nameOf(o.Link.Parent), o.Link.IPVlan)
	case SetRoute:
		return f.wasRoute(o)
	case DeleteMainRoute:
		return fmt.Sprintf("%s had a default route in the main table", o.Dev)
	case SetNAT:
		if f.NAT == nil {
			return "nftables table inet " + natTable + " was missing"
		}
		return "nftables table inet " + natTable + " was another"
	case AddRule:
		return "a rule was missing"
	case AddLoopback, AddAddr:
		return "an address was missing"
	case AddCompanion:
		return o.Name + " was missing"
	case Attach:
		return fmt.Sprintf("%s was without its program", o.Dev)
	default:
		return "there was something else"
	}
}

func (f Found) wasRoute(o SetRoute) string {
	family := familyOf(o.Route.Gateway)
	i := slices.IndexFunc(f.Routes, func(r Route) bool { return r.Table == o.Route.Table && familyOf(r.Gateway) == family })
	if i < 0 || f.Routes[i] == o.Route {
		return fmt.Sprintf("table %d had no IPv%d default route", o.Route.Table, family)
	}
	return fmt.Sprintf("table %d had its IPv%d default route via %s dev %s", o.Route.Table, family, f.Routes[i].Gateway, f.nameOf(f.Routes[i].Link))
}

func (f Found) nameOf(index int) string {
	if l, ok := f.link(func(l Link) bool { return l.Index == index }); ok {
		return l.Name
	}
	return fmt.Sprint("link ", index)
}
