package policy

import (
	"context"
	"fmt"

	"github.com/nearpath/nearpath/bench/measure"
)

// changesPerRound is how many changes a round makes.
const changesPerRound = 25

// large says what a large cluster is.
var large = fmt.Sprintf("%d pods and %d policies, all of which are about pods of the node", largePods, largePolicies)

// changes times single changes of a large cluster.
func (b *bed) changes(kind string) measure.Series {
	s := measure.Series{
		Name: "change, " + kind, Rounds: b.rounds(40, 8), Unmeasured: 1,
		What: fmt.Sprintf("one change among %s: from when the Snapshot is to have it until the kernel enforces it", large),
		Metrics: []measure.Metric{
			{Name: "enforced", What: "until it is enforced", Unit: "ms"},
			{Name: "pruned", What: fmt.Sprintf("clearing away after %d", changesPerRound), Unit: "ms"},
		},
	}
	return b.alone(s, func(ctx context.Context) (measure.Samples, error) {
		var took changed
		err := b.node.Ask(ctx, verbChange, change{kind, changesPerRound}, &took)
		return measure.Samples{"enforced": took.Enforced, "pruned": {took.Pruned}}, err
	})
}

// alone makes it a series of nearpath.
func (b *bed) alone(s measure.Series, round func(context.Context) (measure.Samples, error)) measure.Series {
	s.Cases = []measure.Case{{Name: b.path.name, Role: b.path.role, Round: round}}
	return s
}

// fromNothing times all policies at once.
func (b *bed) fromNothing() measure.Series {
	s := measure.Series{
		Name: "from nothing", Rounds: b.rounds(10, 3),
		What: fmt.Sprintf("%s: from empty maps until all policies are enforced, by a process that has the objects already", large),
		Metrics: []measure.Metric{
			{Name: "enforced", What: "until all are enforced", Unit: "ms"},
			{Name: "cpu", What: "processor time", Unit: "ms"},
		},
	}
	return b.alone(s, func(ctx context.Context) (measure.Samples, error) {
		var took fresh
		err := b.node.Ask(ctx, verbNothing, struct{}{}, &took)
		return measure.Samples{"enforced": {took.Wall}, "cpu": {took.CPU}}, err
	})
}

// maps measures kernel memory.
func (b *bed) maps() measure.Series {
	s := measure.Series{
		Name: "kernel memory", Rounds: 1,
		What: fmt.Sprintf("the maps of policy with %s", large),
		Metrics: []measure.Metric{
			{Name: "growing", What: "maps that grow", Unit: "MiB"},
			{Name: "fixed", What: "maps of one size", Unit: "MiB"},
		},
	}
	return b.alone(s, func(ctx context.Context) (measure.Samples, error) {
		var size mapBytes
		err := b.node.Ask(ctx, verbMaps, struct{}{}, &size)
		return measure.Samples{"growing": {float64(size.Growing) / (1 << 20)}, "fixed": {float64(size.Fixed) / (1 << 20)}}, err
	})
}
