package service

import (
	"context"
	"fmt"

	"github.com/nearpath/nearpath/bench/measure"
)

// flipsPerRound is how many changes a round of nearpath makes; those of kube-proxy take so long that it makes one.
const flipsPerRound = 5

// spared leaves peers out after their first rounds. What takes them seconds does not scatter so that it needs many.
func spared(rounds int, one func(context.Context, *contender) (measure.Samples, error)) func(context.Context, *contender) (measure.Samples, error) {
	turn := map[*contender]int{}
	return func(ctx context.Context, c *contender) (measure.Samples, error) {
		if turn[c]++; c.role == measure.Peer && turn[c] > rounds {
			return measure.Samples{}, nil
		}
		return one(ctx, c)
	}
}

// scale is that of figures which depend on the number of Services.
func (n size) scale(what string) measure.Scale {
	return measure.Scale{Of: fmt.Sprintf("Services of %d, %s", n.Endpoints, what), Size: float64(n.Services)}
}

// flips measures how long a change of one endpoint takes among all the others.
func (b *bed) flips(n size) measure.Series {
	s := measure.Series{
		Name: fmt.Sprintf("endpoint flip, %s", n), Scale: n.scale("endpoint flip"), Rounds: b.rounds(40, 8), Unmeasured: 1,
		What:    "one endpoint replaced by another; nearpath: until a connection arrives there, kube-proxy: until its rules are written",
		Metrics: []measure.Metric{{Name: "flip", What: "from the change to its effect", Unit: "ms"}},
	}
	s.Cases = cases(b.able(n), spared(b.rounds(10, 3), func(ctx context.Context, c *contender) (measure.Samples, error) {
		if err := c.load(ctx, n); err != nil {
			return nil, err
		}
		times := flipsPerRound
		if c.role == measure.Peer {
			times = 1
		}
		took, err := c.node.flip(ctx, times)
		return measure.Samples{"flip": took}, err
	}))
	return s
}

// syncs measures how long everything takes at once.
func (b *bed) syncs(n size) measure.Series {
	s := measure.Series{
		Name: fmt.Sprintf("full sync, %s", n), Scale: n.scale("full sync"), Rounds: b.rounds(10, 4),
		What:    "from an empty kernel until all are served, by a process that has the objects already",
		Metrics: []measure.Metric{{Name: "sync", What: "until all are served", Unit: "ms"}},
	}
	s.Cases = cases(b.able(n), spared(b.rounds(2, 1), func(ctx context.Context, c *contender) (measure.Samples, error) {
		took, err := c.node.sync(ctx, n)
		if c.role == measure.Peer {
			c.loaded = n
		}
		return measure.Samples{"sync": {took}}, err
	}))
	return s
}

// memory measures what the Service maps take for each endpoint more.
func (b *bed) memory() measure.Series {
	s := measure.Series{
		Name: "kernel memory", Rounds: 1,
		What: "the maps of Services: what each endpoint adds from 1,000 to 10,000 Services of ten, and all of it, what is reserved included",
		Metrics: []measure.Metric{
			{Name: "per endpoint", What: "each endpoint adds", Unit: "B"},
			{Name: "all", What: "all", Unit: "MiB"},
		},
	}
	s.Cases = []measure.Case{{Name: b.path.name, Role: b.path.role, Round: func(ctx context.Context) (measure.Samples, error) {
		var at [2]mapSize
		from := size{large.Services / 10, large.Endpoints}
		for i, n := range []size{from, large} {
			if err := b.path.load(ctx, n); err != nil {
				return nil, err
			}
			var err error
			if at[i], err = b.own.size(ctx); err != nil {
				return nil, err
			}
		}
		return measure.Samples{
			"per endpoint": {float64(at[1].Used-at[0].Used) / float64((large.Services-from.Services)*large.Endpoints)},
			"all":          {float64(at[1].Reserved) / (1 << 20)},
		}, nil
	}}}
	return s
}
