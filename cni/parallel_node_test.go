//go:build node

package cni

import (
	"fmt"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/nearpath/nearpath/internal/agentapi"
	"github.com/nearpath/nearpath/test/netlab"
)

func TestParallelAdds(t *testing.T) {
	w := newWorld(t)
	const n = 12
	pods := make([]*netlab.NetNS, n)
	for i := range pods {
		pods[i] = must[*netlab.NetNS](t)(w.lab.NetNS(fmt.Sprintf("p%d", i)))
	}
	answers := make([]agentapi.CNIResponse, n)
	var wg sync.WaitGroup
	start := time.Now()
	for i := range pods {
		wg.Go(func() { answers[i] = w.server.Handle(t.Context(), request("ADD", fmt.Sprintf("p%d", i), pods[i])) })
	}
	wg.Wait()
	t.Logf("%d ADDs in %s", n, time.Since(start))
	seen := map[netip.Addr]bool{}
	for i, answer := range answers {
		if answer.Error != nil {
			t.Fatalf("pod %d: %v", i, answer.Error)
		}
		seen[addressIn(t, answer.Result)] = true
	}
	if len(seen) != n {
		t.Errorf("%d different addresses for %d pods", len(seen), n)
	}
	if _, err := talk(t, pods[0], pods[n-1], addressIn(t, answers[n-1].Result).String()); err != nil {
		t.Error(err)
	}
}

// TestAddsDoNotWaitForOthers: while the address of one pod is awaited, another is added and deleted, and everything for
// the first waits.
func TestAddsDoNotWaitForOthers(t *testing.T) {
	w := newWorld(t)
	gate := make(chan struct{})
	w.addresses.gate, w.addresses.asked = map[string]chan struct{}{"slow": gate}, make(chan string, 1)
	slow := must[*netlab.NetNS](t)(w.lab.NetNS("slow"))
	added, deleted := make(chan agentapi.CNIResponse, 1), make(chan agentapi.CNIResponse, 1)
	go func() { added <- w.server.Handle(t.Context(), request("ADD", "slow", slow)) }()
	<-w.addresses.asked
	for _, datapath := range onThisKernel {
		pod, _ := w.addOn(t, datapath, string(datapath))
		w.mustServe(t, request("DEL", string(datapath), pod))
	}
	go func() { deleted <- w.server.Handle(t.Context(), request("DEL", "slow", slow)) }()
	await(t, patience, "the DEL waits for its turn", func() bool {
		w.server.locks.mu.Lock()
		defer w.server.locks.mu.Unlock()
		return w.server.locks.held["net/slow"].users == 2
	})
	select {
	case answer := <-deleted:
		t.Fatalf("DEL did not wait for the ADD: %+v", answer)
	default:
	}
	// What keeps the pods as they are waits for nobody either.
	check0(t, NewCollector(w.server, 0).Sweep(t.Context(), time.Now()))
	close(gate)
	for _, answer := range []agentapi.CNIResponse{<-added, <-deleted} {
		if answer.Error != nil {
			t.Error(answer.Error)
		}
	}
	w.wantNothingLeft(t)
}

// The same container at the same time: one verb follows the other, and the interface is made once.
func TestTwinAdds(t *testing.T) {
	for _, datapath := range onThisKernel {
		t.Run(string(datapath), func(t *testing.T) {
			w := newWorld(t)
			twin := must[*netlab.NetNS](t)(w.lab.NetNS("twin"))
			var wg sync.WaitGroup
			answers := make([]agentapi.CNIResponse, 2)
			for i := range answers {
				wg.Go(func() { answers[i] = w.server.Handle(t.Context(), on(datapath, request("ADD", "twin", twin))) })
			}
			wg.Wait()
			if (answers[0].Error == nil) == (answers[1].Error == nil) {
				t.Errorf("not one of two succeeded: %v, %v", answers[0].Error, answers[1].Error)
			}
		})
	}
}
