// Package externaldns measures what publishing names in PrivateZone costs beside external-dns: calls of the cloud's API and the
// time until a name resolves, at 10,000 records, and the memory of a syncer of a large cluster.
//
// Each contender has a simulated PrivateZone of its own, at the pace of the real one, and a Kubernetes API in memory. The
// one that external-dns talks to is where it believes pvtz.aliyuncs.com to be: its provider knows no other place.
package externaldns

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nearpath/nearpath/bench/measure"
	"github.com/nearpath/nearpath/test/netlab"
)

// Benchmark is what publishing costs.
func Benchmark() measure.Benchmark {
	return measure.Benchmark{Name: "externaldns", What: "PrivateZone: calls, time to resolve and memory, beside external-dns", Setup: setup}
}

const (
	records = 10_000 // of a zone before a change
	// What a zone answers: 20 calls a second of each action, 50 ms each.
	perSecond = 20
	latency   = 50 * time.Millisecond
	// pause without a call ends the work of a contender on a change.
	pause = 3 * time.Second
)

// A bed is the contenders.
type bed struct {
	env        measure.Env
	lab        *netlab.Lab
	contenders []*contender // nearpath's is the first
	floor      *site
}

func setup(ctx context.Context, env measure.Env) (*measure.Bed, error) {
	lab, err := netlab.New("nearpath-bench-externaldns")
	if err != nil {
		return nil, err
	}
	b := &bed{env: env, lab: lab}
	if err := b.build(ctx); err != nil {
		return nil, errors.Join(err, b.close())
	}
	series := []measure.Series{b.idle()}
	for _, n := range []struct{ changes, rounds, quick int }{{1, 6, 3}, {100, 3, 1}, {1000, 1, 1}} {
		rounds := n.rounds
		if env.Quick {
			rounds = n.quick
		}
		series = append(series, b.changes(n.changes, rounds))
	}
	return &measure.Bed{Series: append(series, b.memory()), Close: b.close}, nil
}

func (b *bed) build(ctx context.Context) (err error) {
	if b.floor, err = newSite(b.lab.Dir(), "floor"); err != nil {
		return err
	}
	for _, kind := range []program{nearpath{}, externalDNS{}} {
		c, err := b.newContender(kind, kind.name())
		if c != nil {
			b.contenders = append(b.contenders, c)
		}
		if err != nil {
			return fmt.Errorf("%s: %w", kind.name(), err)
		}
		if err := c.fill(); err != nil {
			return fmt.Errorf("fill the zone of %s: %w", kind.name(), err)
		}
		// Its change log tells of the filling. Nearpath reads it from a second before its start, for clocks differ.
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(3 * time.Second):
		}
		if err := c.start(ctx); err != nil {
			return fmt.Errorf("start %s: %w", kind.name(), err)
		}
	}
	return nil
}

func (b *bed) close() error {
	var errs []error
	for _, c := range b.contenders {
		errs = append(errs, c.close())
	}
	if b.floor != nil {
		errs = append(errs, b.floor.close())
	}
	return errors.Join(append(errs, b.lab.Close())...)
}

// cases are those of all contenders.
func (b *bed) cases(one func(context.Context, *contender) (measure.Samples, error)) (list []measure.Case) {
	for _, c := range b.contenders {
		list = append(list, measure.Case{Name: c.name(), Role: c.role(), Round: func(ctx context.Context) (measure.Samples, error) { return one(ctx, c) }})
	}
	return list
}
