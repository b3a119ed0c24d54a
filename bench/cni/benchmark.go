// Package cni measures what a pod waits for: CNI ADD and DEL, through the real executable and a real agent with a warm
// pool, beside the reference plugins on the same node.
package cni

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"github.com/nearpath/nearpath/bench/measure"
	"github.com/nearpath/nearpath/bench/podruntime"
)

// Benchmark is CNI ADD and DEL.
func Benchmark() measure.Benchmark {
	return measure.Benchmark{Name: "cni", What: "a pod's network, from exec of the CNI plugin to its result", Setup: setup}
}

// Names of the series.
const (
	oneAtATime   = "one at a time"
	eightAtATime = "8 at a time"
)

// burst is how many pods a round of the second series adds, and at how many at a time.
const (
	burst       = 24
	concurrency = 8
)

func setup(ctx context.Context, env measure.Env) (*measure.Bed, error) {
	n, err := startNode(ctx, env.Bin)
	if err != nil {
		return nil, errors.Join(err, n.Close())
	}
	b := &bed{node: n}
	contenders := []contender{
		{"nearpath", measure.Subject, nearpath(env.Bin)},
		{"bridge + host-local", measure.Peer, bridge(env.Peers)},
		{"exec + veth", measure.Floor, bare{filepath.Join(env.Bin, "trivial")}},
	}
	latency, throughput := b.latency(env.Quick), b.throughput(env.Quick)
	for _, c := range contenders {
		latency.Cases = append(latency.Cases, c.measuredBy(b.single))
		throughput.Cases = append(throughput.Cases, c.measuredBy(b.burst))
	}
	return &measure.Bed{Series: []measure.Series{latency, throughput, startUp(env.Bin, env.Peers, env.Quick)}, Close: n.Close}, nil
}

// A contender is one of those compared.
type contender struct {
	name string
	role measure.Role
	wiring
}

func (c contender) measuredBy(round func(context.Context, contender) (measure.Samples, error)) measure.Case {
	return measure.Case{Name: c.name, Role: c.role, Round: func(ctx context.Context) (measure.Samples, error) { return round(ctx, c) }}
}

func (b *bed) latency(quick bool) measure.Series {
	s := measure.Series{
		Name: oneAtATime, What: "ADD of a pod in a fresh network namespace, then DEL", Rounds: 1000, Unmeasured: 5, After: b.clear,
		Metrics: []measure.Metric{
			{Name: "add", What: "ADD", Unit: "ms"},
			{Name: "del", What: "DEL", Unit: "ms"},
			{Name: "calls", What: "cloud calls during ADD", Unit: "calls"},
		},
	}
	if quick {
		s.Rounds = 120
	}
	return s
}

func (b *bed) throughput(quick bool) measure.Series {
	s := measure.Series{
		Name: eightAtATime, What: fmt.Sprintf("ADDs of %d pods, %d at a time, then as many DELs", burst, concurrency), Rounds: 60, Unmeasured: 1, After: b.clear,
		Metrics: []measure.Metric{
			{Name: "adds", What: "ADDs", Unit: "pods/s", HigherIsBetter: true},
			{Name: "dels", What: "DELs", Unit: "pods/s", HigherIsBetter: true},
			{Name: "add", What: "one ADD among them", Unit: "ms"},
			{Name: "calls", What: "cloud calls during the ADDs", Unit: "calls"},
		},
	}
	if quick {
		s.Rounds = 9
	}
	return s
}

// A bed is the node and the pods that were made on it since the last clearing.
type bed struct {
	*node
	pods  []string
	count int
}

// fresh makes the namespaces of n new pods.
func (b *bed) fresh(ctx context.Context, n int) ([]string, error) {
	var names []string
	for range n {
		b.count++
		names = append(names, fmt.Sprintf("pod%d", b.count))
	}
	b.pods = append(b.pods, names...)
	return names, b.runtime.MakeNetNS(ctx, names)
}

// clear removes the pods' namespaces. They stay until all cases of a round are done, because the kernel takes them apart
// behind everybody's back and whoever comes next would pay for it.
func (b *bed) clear(ctx context.Context) error {
	pods := b.pods
	b.pods = nil
	return b.runtime.RemoveNetNS(ctx, pods)
}

// single times one ADD and one DEL.
func (b *bed) single(ctx context.Context, c contender) (measure.Samples, error) {
	pods, err := b.fresh(ctx, 1)
	if err != nil {
		return nil, err
	}
	added, calls, err := b.all(ctx, c, add, pods, 1)
	if err != nil {
		return nil, err
	}
	deleted, _, err := b.all(ctx, c, del, pods, 1)
	if err != nil {
		return nil, err
	}
	samples := measure.Samples{"add": millis(added.Each), "del": millis(deleted.Each)}
	return b.withCalls(samples, c, calls), nil
}

// burst times many.
func (b *bed) burst(ctx context.Context, c contender) (measure.Samples, error) {
	pods, err := b.fresh(ctx, burst)
	if err != nil {
		return nil, err
	}
	added, calls, err := b.all(ctx, c, add, pods, concurrency)
	if err != nil {
		return nil, err
	}
	deleted, _, err := b.all(ctx, c, del, pods, concurrency)
	if err != nil {
		return nil, err
	}
	samples := measure.Samples{
		"adds": {burst / added.Wall.Seconds()}, "dels": {burst / deleted.Wall.Seconds()}, "add": millis(added.Each),
	}
	return b.withCalls(samples, c, calls), nil
}

// withCalls adds the number of cloud calls where there is a cloud.
func (b *bed) withCalls(samples measure.Samples, c contender, calls int) measure.Samples {
	if c.role == measure.Subject {
		samples["calls"] = []float64{float64(calls)}
	}
	return samples
}

// all calls a verb for every pod, and counts how often the cloud was called meanwhile.
func (b *bed) all(ctx context.Context, c contender, verb string, pods []string, atATime int) (podruntime.Timings, int, error) {
	batch := podruntime.Batch{AtATime: atATime}
	for _, pod := range pods {
		batch.Calls = append(batch.Calls, c.call(verb, pod))
	}
	before := b.Calls()
	t, err := b.runtime.Run(ctx, batch)
	if err != nil {
		return t, 0, fmt.Errorf("%s: %w", verb, err)
	}
	calls := b.Calls() - before
	if verb == add {
		for _, output := range t.Outputs {
			if err := c.check(output); err != nil {
				return t, 0, err
			}
		}
	}
	return t, calls, nil
}

func millis(durations []time.Duration) []float64 {
	ms := make([]float64, len(durations))
	for i, d := range durations {
		ms[i] = float64(d) / float64(time.Millisecond)
	}
	return ms
}
