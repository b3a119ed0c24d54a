// Package shaping measures what pods with a bandwidth limit get: the goodput of one TCP connection, from its first second,
// beside the reference plugin.
package shaping

import (
	"context"
	"errors"
	"fmt"

	"github.com/nearpath/nearpath/bench/measure"
	"github.com/nearpath/nearpath/cni"
	"github.com/nearpath/nearpath/test/netlab"
)

// prefix begins the name of everything the benchmark makes on the machine.
const prefix = "nearpath-bench-shaping"

// seconds is how long a connection is watched in one direction.
const seconds = 3

// Benchmark is the goodput of limited pods.
func Benchmark() measure.Benchmark {
	return measure.Benchmark{Name: "shaping", What: "one TCP connection of a pod with a bandwidth limit, from its first second", Setup: setup}
}

// A rate is a limit, in bits per second, and its name.
type rate struct {
	name string
	bits uint64
}

var rates = []rate{{"10 Mbit/s", 10_000_000}, {"100 Mbit/s", 100_000_000}, {"1 Gbit/s", 1_000_000_000}}

func setup(_ context.Context, env measure.Env) (*measure.Bed, error) {
	lab, err := netlab.New(prefix)
	if err != nil {
		return nil, err
	}
	b := &bed{lab: lab}
	if b.node, err = lab.NetNS("node"); err != nil {
		return nil, errors.Join(err, lab.Close())
	}
	bed := &measure.Bed{Close: lab.Close}
	for _, r := range rates {
		s := b.series("veth, "+r.name, env.Quick)
		s.Cases = append(s.Cases,
			b.measured("nearpath", measure.Subject, r, ours{cni.Veth}),
			b.measured("bridge + bandwidth", measure.Peer, r, plugins{env.Peers}))
		bed.Series = append(bed.Series, s)
	}
	for _, r := range rates {
		s := b.series("exclusive, "+r.name, env.Quick)
		s.Cases = append(s.Cases, b.measured("nearpath", measure.Subject, r, ours{cni.Exclusive}))
		bed.Series = append(bed.Series, s)
	}
	return bed, nil
}

func (b *bed) series(name string, quick bool) measure.Series {
	s := measure.Series{
		Name: name, What: fmt.Sprintf("a fresh pod with this limit both ways; a connection in for %d s, then one out", seconds), Rounds: 12,
		Metrics: []measure.Metric{
			{Name: "in first", What: "received, first second", Unit: "% of the limit", HigherIsBetter: true},
			{Name: "in later", What: "received, each later second", Unit: "% of the limit", HigherIsBetter: true},
			{Name: "in over", What: "received above the limit, from the start to any second", Unit: "% of the limit"},
			{Name: "in again", What: "received, segments sent again", Unit: "%"},
			{Name: "out first", What: "sent, first second", Unit: "% of the limit", HigherIsBetter: true},
			{Name: "out later", What: "sent, each later second", Unit: "% of the limit", HigherIsBetter: true},
			{Name: "out over", What: "sent above the limit, from the start to any second", Unit: "% of the limit"},
			{Name: "out again", What: "sent, segments sent again", Unit: "%"},
		},
	}
	if quick {
		s.Rounds = 3
	}
	return s
}

// A bed is the node and the number of pods it has seen.
type bed struct {
	lab   *netlab.Lab
	node  *netlab.NetNS
	count int
}

// A limiter gives a pod a link with a limit.
type limiter interface {
	// add wires the pod to the node and returns the addresses of both, and what takes it apart.
	add(ctx context.Context, node, pod *netlab.NetNS, bits uint64) (there, here string, undo func() error, err error)
}

func (b *bed) measured(name string, role measure.Role, r rate, l limiter) measure.Case {
	return measure.Case{Name: name, Role: role, Round: func(ctx context.Context) (measure.Samples, error) { return b.round(ctx, r, l) }}
}

// round measures both directions of a pod that is made for it.
func (b *bed) round(ctx context.Context, r rate, l limiter) (samples measure.Samples, err error) {
	b.count++
	pod, err := b.lab.NetNS(fmt.Sprintf("pod%d", b.count))
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, pod.Close()) }()
	there, here, undo, err := l.add(ctx, b.node, pod, r.bits)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, undo()) }()
	samples = measure.Samples{}
	in, err := transfer(ctx, b.node, pod, here, seconds)
	if err != nil {
		return nil, fmt.Errorf("to the pod: %w", err)
	}
	in.add(samples, "in", r.bits)
	out, err := transfer(ctx, pod, b.node, there, seconds)
	if err != nil {
		return nil, fmt.Errorf("from the pod: %w", err)
	}
	out.add(samples, "out", r.bits)
	return samples, nil
}
