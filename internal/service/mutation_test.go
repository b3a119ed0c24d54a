package service

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/nearpath/nearpath/internal/service/model"
	"github.com/nearpath/nearpath/internal/service/model/worlds"
	"pgregory.net/rapid"
)

// A tally is what became of the mutations of one row.
type tally struct {
	probes int // that the row decided
	killed []string
}

// TestEveryRowIsKilledByItsMutation: a model with any row turned off or made wrong is told from the planner. So each of these
// rows is something that the planner does, and that TestPlannerFollowsTheRows looks at. Rows about more than one connection
// or more than decisions are proven by the tests that are named with them.
func TestEveryRowIsKilledByItsMutation(t *testing.T) {
	t.Parallel()
	lab := worlds.Paper()
	rows, alive := map[string]*tally{}, map[string]model.Mutation{}
	for _, m := range model.Mutations() {
		rows[m.Row()] = &tally{}
		alive[m.Name] = m
	}
	world := rapid.Custom(func(t *rapid.T) *model.World { return worlds.Draw(t, lab) })
	n := 0
	for len(alive) > 0 && n < 2000 {
		w := world.Example(n)
		n++
		p := newPlanned(t, w)
		before := *w
		before.Services = slices.Concat(w.Services, w.Deleted)
		p.become(&before)
		p.become(w)
		for _, probe := range worlds.Probes(&lab, w) {
			got := p.decide(probe)
			note(rows, model.Decide(w, probe).Rows)
			for name, m := range alive {
				if m.Row()[0] != 'F' && !(model.Rules{}).Break(name).Decide(w, probe).Same(got) {
					kill(rows, alive, m)
				}
			}
		}
		for name, m := range alive {
			if m.Row()[0] == 'F' && remembersOtherwise(t, w, &lab, uint64(n), (model.Rules{}).Break(name), rows) != "" {
				kill(rows, alive, m)
			}
		}
	}
	for _, m := range alive {
		t.Errorf("%s: no world tells the planner from a model where %s", m.Name, m.What)
	}
	t.Logf("%d worlds\n%s", n, tabulate(rows))
}

func note(rows map[string]*tally, names []string) {
	for _, name := range names {
		if rows[name] != nil {
			rows[name].probes++
		}
	}
}

func kill(rows map[string]*tally, alive map[string]model.Mutation, m model.Mutation) {
	rows[m.Row()].killed = append(rows[m.Row()].killed, m.What)
	delete(alive, m.Name)
}

// tabulate lists all rows: the probes that each decided and the mutations it was killed by, or who proves it.
func tabulate(rows map[string]*tally) string {
	var s strings.Builder
	for _, row := range model.Rows() {
		r := rows[row.Name]
		if r == nil {
			fmt.Fprintf(&s, "%-4s %s\n     proven by %s\n", row.Name, row.Says, strings.Join(provenBy[row.Name], ", "))
			continue
		}
		seen := ""
		if r.probes > 0 {
			seen = fmt.Sprintf("decided %d probes, ", r.probes)
		}
		slices.Sort(r.killed)
		fmt.Fprintf(&s, "%-4s %s\n     %skilled when %s\n", row.Name, row.Says, seen, strings.Join(r.killed, "; when "))
	}
	return s.String()
}
