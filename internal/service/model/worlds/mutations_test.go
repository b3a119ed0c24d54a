package worlds

import (
	"testing"

	"github.com/nearpath/nearpath/internal/service/model"
	"pgregory.net/rapid"
)

// Worlds that a wrong row looks right in would prove nothing of anybody.
func TestWorldsTellEveryMutation(t *testing.T) {
	lab := Paper()
	alive := map[string]string{}
	for _, m := range model.Mutations() {
		if m.Row()[0] != 'F' { // which is about more than one connection
			alive[m.Name] = m.What
		}
	}
	n := 0
	world := rapid.Custom(func(t *rapid.T) *model.World { return Draw(t, lab) })
	for seed := 0; len(alive) > 0 && seed < 2000; seed++ {
		w := world.Example(seed)
		n++
		for _, p := range Probes(&lab, w) {
			right := model.Decide(w, p)
			for name := range alive {
				if !(model.Rules{}).Break(name).Decide(w, p).Same(right) {
					delete(alive, name)
				}
			}
		}
	}
	for name, what := range alive {
		t.Errorf("%s: no world shows that %s", name, what)
	}
	t.Logf("%d worlds", n)
}
