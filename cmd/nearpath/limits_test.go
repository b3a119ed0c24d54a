package main

import (
	"context"
	"testing"
	"testing/synctest"

	"github.com/nearpath/nearpath/internal/cluster"
)

// TestPodSignal: each change of a pod is told, however many come at once, and a reader that is slow holds nothing up.
func TestPodSignal(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		store := cluster.NewStore()
		changes := store.Subscribe(cluster.Pods)
		defer changes.Close()
		p := &podSignal{changes: changes, signal: make(chan struct{}, 1), ready: make(chan struct{})}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- p.Run(ctx) }()
		<-p.Ready()
		store.Update(func(e *cluster.Edit) { e.MarkSynced() })
		for _, name := range []string{"a", "b", "c"} {
			store.Update(func(e *cluster.Edit) { e.PutPod(aPod(name, name, nil)) })
			synctest.Wait()
		}
		if len(p.signal) != 1 {
			t.Error("no signal after three changes")
		}
		<-p.signal
		store.Update(func(e *cluster.Edit) { e.PutPod(aPod("d", "d", nil)) })
		synctest.Wait()
		if len(p.signal) != 1 {
			t.Error("no signal after a further change")
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}
