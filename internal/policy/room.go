package policy

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"
)

// A refusal is a policy that there is no room for.
type refusal struct {
	ref  Ref
	text string
}

// shrink makes plans without the largest of the policies that have changed, one by one, until what is left fits: of a policy that is
// left out the last version that fit stays, or if there is none it isolates and allows nothing. Without such policies it is the
// pods that have become too many, and err stays.
func (p *Planner) shrink(touched Touched, err error) ([]Op, error) {
	const most = 16
	var refused []refusal
	for range most {
		var tooLarge *TooLargeError
		ref, ok := p.largest(touched)
		if !errors.As(err, &tooLarge) || !ok {
			return nil, err
		}
		kept := "it isolates, and its rules are not in force"
		if old := p.previous[ref]; old != nil {
			p.world.policies[ref] = old
			if old.weight() > 0 { // else it is the isolation alone that is in force
				kept = "its last version stays in force"
			}
		} else {
			p.world.policies[ref] = p.world.policies[ref].isolating()
		}
		delete(p.previous, ref)
		refused = append(refused, refusal{ref, fmt.Sprintf("%s: %v; %s", ref, tooLarge, kept)})
		again := Touched{Policies: []Ref{ref}}
		p.compiler.Update(p.world.at(), again)
		var ops []Op
		if ops, err = p.compiler.Plan(); err == nil {
			for _, r := range refused {
				p.refused[r.ref] = r.text
			}
			return ops, nil
		}
	}
	return nil, err
}

// isolating is the policy without what it allows or denies beside that.
func (p *Policy) isolating() *Policy {
	only := *p
	only.Rules = [2][]Rule{}
	return &only
}

// largest finds the one with the most to say among those that have changed and have rules.
func (p *Planner) largest(touched Touched) (Ref, bool) {
	refs := touched.Policies
	if touched.Full {
		refs = slices.Collect(maps.Keys(p.world.policies))
	}
	var found Ref
	most := 0
	for _, ref := range refs {
		policy := p.world.policies[ref]
		if policy == nil {
			continue
		}
		old := p.previous[ref]
		n := policy.weight()
		if old != nil {
			n -= old.weight()
		}
		if n > most || n == most && n > 0 && cmp.Or(cmp.Compare(ref.Name.Name, found.Name.Name), ref.compare(found)) < 0 {
			found, most = ref, n
		}
	}
	return found, most > 0
}

// weight grows with what a policy takes of the maps.
func (p *Policy) weight() (n int) {
	for _, rules := range p.Rules {
		for i := range rules {
			n += 1 + len(rules[i].Ports.Points)
			for j := range rules[i].Peers {
				n += 1 + len(rules[i].Peers[j].Nets) + len(rules[i].Peers[j].Except)
			}
		}
	}
	return n
}

// Retry has the next Plan try again what there was no room for, as others may have gone.
func (p *Planner) Retry() {
	for _, ref := range slices.Collect(maps.Keys(p.refused)) {
		p.put(ref)
	}
}

// Refused returns what is wrong with policies that there is no room for, and what is in force instead.
func (p *Planner) Refused() map[Ref]string { return maps.Clone(p.refused) }
