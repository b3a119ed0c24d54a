package main

import (
	"context"

	"github.com/nearpath/nearpath/cni"
	"github.com/nearpath/nearpath/internal/cluster"
)

// buildLimits makes what follows the bandwidth that pods ask for while they run.
func (a *agent) buildLimits() {
	changes := a.store.Subscribe(cluster.Pods)
	a.closers = append(a.closers, func() error { changes.Close(); return nil })
	pods := &podSignal{changes: changes, signal: make(chan struct{}, 1), ready: make(chan struct{})}
	known := podFinder{store: a.store}
	limits := cni.NewLimitTask(cni.LimitConfig{
		Attached: a.cni.Attached, Set: a.cni.SetLimits, Changed: pods.signal, Log: a.log,
		Annotations: func(ref cni.PodRef) (map[string]string, bool) {
			pod := known.known(ref)
			if pod == nil {
				return nil, false
			}
			return pod.Annotations, true
		},
		Report: func(ref cni.PodRef, message string) { a.events.Warn(objectOf(ref), "BandwidthIgnored", message) },
	})
	// Nothing is known of pods before the first listing, and a pod that is not known keeps its limits.
	a.tasks = append(a.tasks, pods, limits)
}

// objectOf is the pod as the object of an event.
func objectOf(ref cni.PodRef) cluster.Object {
	return cluster.Object{Kind: "Pod", Name: cluster.Name{Namespace: ref.Namespace, Name: ref.Name}, UID: ref.UID}
}

// A podSignal is a Task that tells of changes of pods.
type podSignal struct {
	changes interface {
		Next(context.Context) (cluster.Change, error)
	}
	signal chan struct{} // capacity 1
	ready  chan struct{}
}

func (p *podSignal) String() string         { return "changes of pods" }
func (p *podSignal) Ready() <-chan struct{} { return p.ready }

func (p *podSignal) Run(ctx context.Context) error {
	close(p.ready)
	for {
		if _, err := p.changes.Next(ctx); err != nil {
			return nil // the context's
		}
		select {
		case p.signal <- struct{}{}:
		default: // one that was not taken yet tells of this one, too
		}
	}
}
