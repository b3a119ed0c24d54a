package externaldns

import (
	"maps"
	"slices"

	"github.com/nearpath/nearpath/internal/cluster"
)

// wantWork is one Apply. The caller holds the lock.
type wantWork struct {
	*Wants
	names    map[string]struct{} // whose claims have changed
	problems []Problem           // that are new
}

// ask reads an object and changes its claims.
func (w *wantWork) ask(s *cluster.Snapshot, key wantKey) {
	before, after := w.objects[key], &asked{}
	if a := w.rules.ask(s, key); a != nil {
		after = &a.asked
	}
	if before == nil {
		before = &asked{}
	}
	owner := ownerOf(key.kind, key.name)
	for name := range namesOf(before.wants) {
		w.withdraw(name, owner)
	}
	for _, want := range after.wants {
		w.add(claim{Want: want, owner: owner, created: after.created, ptr: after.ptr})
	}
	w.depend(key, before.needs, after.needs)
	w.report(before.problems, after.problems)
	if len(after.wants)+len(after.needs)+len(after.problems) == 0 {
		delete(w.objects, key)
		return
	}
	w.objects[key] = after
}

func namesOf(wants []Want) map[string]struct{} {
	names := make(map[string]struct{}, len(wants))
	for _, want := range wants {
		names[want.Name] = struct{}{}
	}
	return names
}

func (w *wantWork) add(c claim) {
	n := w.Wants.names[c.Name]
	if n == nil {
		n = &wantName{}
		w.Wants.names[c.Name] = n
	}
	n.claims = append(n.claims, c)
	w.names[c.Name] = struct{}{}
}

func (w *wantWork) withdraw(name string, owner wantOwner) {
	n := w.Wants.names[name]
	n.claims = slices.DeleteFunc(n.claims, func(c claim) bool { return c.owner == owner })
	w.names[name] = struct{}{}
}

func (w *wantWork) depend(key wantKey, before, after []wantKey) {
	for _, on := range before {
		delete(w.dependents[on], key)
		if len(w.dependents[on]) == 0 {
			delete(w.dependents, on)
		}
	}
	for _, on := range after {
		if w.dependents[on] == nil {
			w.dependents[on] = make(map[wantKey]struct{})
		}
		w.dependents[on][key] = struct{}{}
	}
}

func (w *wantWork) report(before, after []Problem) {
	for _, p := range after {
		if !slices.Contains(before, p) {
			w.problems = append(w.problems, p)
		}
	}
}

// settle computes the names whose claims have changed, and then those that lead back to them, which nothing leads back to.
func (w *wantWork) settle() (touched []string) {
	seen := make(map[string]struct{})
	for len(w.names) > 0 {
		names := w.names
		w.names = make(map[string]struct{})
		for name := range names {
			if w.settleName(name) {
				seen[name] = struct{}{}
			}
		}
	}
	return slices.Sorted(maps.Keys(seen))
}

func (w *wantWork) settleName(name string) (changed bool) {
	n := w.Wants.names[name]
	back, problems := n.back, n.problems
	changed = n.settle()
	w.report(problems, n.problems)
	if !slices.Equal(back, n.back) {
		for _, c := range back {
			w.withdraw(c.Name, wantOwner{forward: name})
		}
		for _, c := range n.back {
			w.add(c)
		}
	}
	if len(n.claims) == 0 {
		delete(w.Wants.names, name)
	}
	return changed
}
