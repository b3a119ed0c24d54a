//go:build node

package matrix

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"
)

// atATime is how many pods are added and deleted at the same time, as a kubelet does on a node that starts.
const atATime = 8

// churnENIs is what the instance type of TestChurn allows, the primary ENI not counted.
const churnENIs = 6

// TestChurn adds and deletes pods and wants nothing to be left of them.
func TestChurn(t *testing.T) {
	t.Parallel() // what it does is to wait, mostly
	r := newRig(t, spec{
		name: "c", enis: churnENIs, nodes: []string{"vpc"},
		pool: fmt.Sprintf("minIdle: %d, maxIdle: %d, cooldown: 100ms, reuseCooling: true, idleReclaim: {after: 1h}", atATime, 2*atATime),
	})
	n := r.nodes[0]
	for _, d := range datapaths {
		t.Run(d, func(t *testing.T) {
			v := &verbs{node: n, rig: r, datapath: d, moving: d == exclusive}
			count := churned
			workers := atATime
			if d == exclusive { // shared ENIs have the other slots
				workers, count = 3, churned/10
			}
			v.together(t, workers) // the pool grows to what it takes
			v.settle(t)
			begin := time.Now()
			v.churn(t, workers, count)
			took := time.Since(begin)
			v.isCalm(t)
			t.Logf("%d pods, %d at a time, took %s: %.1f a second", count, workers, took.Round(time.Millisecond), float64(count)/took.Seconds())
		})
	}
}

// together runs pods that are all there at the same time.
func (v *verbs) together(t *testing.T, count int) {
	t.Helper()
	errs := make([]error, count)
	var added, deleted sync.WaitGroup
	added.Add(count)
	for i := range count {
		deleted.Go(func() {
			p, err := wish{name: fmt.Sprintf("together-%d", i), datapath: v.datapath, node: v.node}.sandboxOf(t.Context())
			if err == nil {
				err = p.add(t.Context())
			}
			added.Done()
			added.Wait()
			if p != nil {
				err = errors.Join(err, p.del(t.Context()), p.stop(t.Context()))
			}
			errs[i] = err
		})
	}
	deleted.Wait()
	ok(t, errors.Join(errs...))
}

// churn runs count pods, so many at a time. Every second one gets its DEL after its namespace is gone.
func (v *verbs) churn(t *testing.T, workers, count int) {
	t.Helper()
	next := make(chan int)
	errs := make([]error, workers)
	var all sync.WaitGroup
	for i := range workers {
		all.Go(func() {
			for n := range next {
				errs[i] = errors.Join(errs[i], v.oneOf(t.Context(), n))
			}
		})
	}
	for n := range count {
		next <- n
	}
	close(next)
	all.Wait()
	ok(t, errors.Join(errs...))
}

func (v *verbs) oneOf(ctx context.Context, n int) error {
	w := wish{name: fmt.Sprintf("churn-%d", n), datapath: v.datapath, node: v.node}
	p, err := w.sandboxOf(ctx)
	if err != nil {
		return err
	}
	if err := p.add(ctx); err != nil {
		return errors.Join(err, p.stop(ctx))
	}
	if n%2 == 0 {
		return errors.Join(p.stop(ctx), p.del(ctx))
	}
	return errors.Join(p.del(ctx), p.stop(ctx))
}
