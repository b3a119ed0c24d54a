package externaldns

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/nearpath/nearpath/internal/cluster"
)

// A wantOwner is who has put a claim on a name: an object, or a name whose addresses lead back to it.
type wantOwner struct {
	wantKey
	forward string // empty for an object
}

// A claim is one value that somebody asks for at a name.
type claim struct {
	Want
	owner   wantOwner
	created time.Time
	ptr     bool
}

// wantName is a name that somebody asks for.
type wantName struct {
	claims   []claim
	wants    []Want  // what comes of them
	back     []claim // PTR records for the addresses among wants
	problems []Problem
}

// compareClaims puts first who goes first: the older object, then the one with the smaller name; of one object addresses
// before a CNAME.
func compareClaims(a, b claim) int {
	isCNAME := func(c claim) int {
		if c.Type == typeCNAME {
			return 1
		}
		return 0
	}
	return cmp.Or(
		a.created.Compare(b.created), cmp.Compare(a.Object.String(), b.Object.String()), cmp.Compare(isCNAME(a), isCNAME(b)),
		cmp.Compare(a.Type, b.Type), cmp.Compare(a.Value, b.Value), cmp.Compare(a.TTL, b.TTL), cmp.Compare(a.Object.UID, b.Object.UID),
		cmp.Compare(a.owner.forward, b.owner.forward),
	)
}

// resolve says what of the claims is wanted. A CNAME excludes all else at its name (RFC 1034 3.6.2): the first claim decides
// whether the name is one. Equal values become one Want, of the first who asks; records of one type have one TTL, the
// lowest (RFC 2181 5.2).
func resolve(claims []claim) (won []claim, problems []Problem) {
	claims = slices.Clone(claims)
	slices.SortFunc(claims, compareClaims)
	index := make(map[wantID]int, len(claims))
	for _, c := range claims {
		first := claims[0]
		same := c.Type == first.Type && c.Value == first.Value
		if !same && (first.Type == typeCNAME || c.Type == typeCNAME) {
			problems = append(problems, conflict(c, first))
			continue
		}
		i, ok := index[wantID{c.Name, c.Type, c.Value}]
		if !ok {
			index[wantID{c.Name, c.Type, c.Value}] = len(won)
			won = append(won, c)
			continue
		}
		won[i].TTL, won[i].ptr, won[i].Urgent = min(won[i].TTL, c.TTL), won[i].ptr || c.ptr, won[i].Urgent || c.Urgent
	}
	lowest := make(map[string]int)
	for _, c := range won {
		if ttl, ok := lowest[c.Type]; !ok || c.TTL < ttl {
			lowest[c.Type] = c.TTL
		}
	}
	for i := range won {
		won[i].TTL = lowest[won[i].Type]
	}
	slices.SortFunc(won, func(a, b claim) int {
		return cmp.Or(cmp.Compare(a.Type, b.Type), cmp.Compare(a.Value, b.Value))
	})
	return won, slices.Compact(problems)
}

func conflict(loser, winner claim) Problem {
	if loser.Object == winner.Object {
		return Problem{loser.Object, reasonConflict, fmt.Sprintf(
			"%s cannot be %s %s: it is %s %s, and a CNAME excludes other records", loser.Name, loser.Type, loser.Value, winner.Type, winner.Value)}
	}
	return Problem{loser.Object, reasonConflict, fmt.Sprintf(
		"%s cannot be %s %s: the older %s has it as %s, and a CNAME excludes other records; give one of them another name",
		loser.Name, loser.Type, loser.Value, winner.Object, winner.Type)}
}

// settle computes the name anew and reports whether other records are wanted there.
func (n *wantName) settle() (changed bool) {
	won, problems := resolve(n.claims)
	var wants []Want
	var back []claim
	for _, c := range won {
		wants = append(wants, c.Want)
		if !c.ptr || !isAddress(c.Type) || strings.HasPrefix(c.Name, "*") {
			continue
		}
		if addr, err := netip.ParseAddr(c.Value); err == nil {
			c.owner = wantOwner{forward: c.Name}
			c.Name, c.Type, c.Value, c.Urgent = reverseName(addr), typePTR, c.Name, false
			back = append(back, c)
		}
	}
	changed = !slices.Equal(wants, n.wants)
	n.wants, n.back, n.problems = wants, back, problems
	return changed
}

// ownerOf is an object as the owner of claims.
func ownerOf(kind cluster.Kind, name cluster.Name) wantOwner {
	return wantOwner{wantKey: wantKey{kind, name}}
}
