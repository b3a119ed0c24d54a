package upstream

import (
	"fmt"
	"sync"
	"testing"
)

func TestExchange(t *testing.T) {
	t.Parallel()
	for name, transport := range map[string]Transport{"UDP": UDPFirst, "TCP": TCP} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := serve(t, ok)
			u := open(t, Config{Targets: []Target{s.target(transport)}})
			for i := range 20 {
				if got := address(mustAsk(t, u, fmt.Sprintf("Name%d.example.", i))); got != "192.0.2.1" {
					t.Fatalf("answer %q", got)
				}
			}
		})
	}
}

// A thousand clients that ask the same at the same time cause one query.
func TestCoalescing(t *testing.T) {
	t.Parallel()
	gate := make(chan struct{})
	s := serve(t, func(a *asked) []byte {
		<-gate
		return ok(a)
	})
	u := open(t, Config{Targets: []Target{s.target(TCP)}, NoHedge: true})
	const clients = 1000
	var asking sync.WaitGroup
	failed := make(chan error, clients)
	for i := range clients {
		asking.Go(func() {
			q := question("www.example.")
			q.Id = uint16(i)
			reply, err := u.Exchange(t.Context(), q)
			if err != nil || reply.Id != uint16(i) || address(reply) != "192.0.2.1" {
				failed <- fmt.Errorf("client %d: %v %w", i, reply, err)
			}
		})
	}
	until(t, "all wait", func() bool {
		u.flights.mu.Lock()
		defer u.flights.mu.Unlock()
		return u.flights.clients == clients
	})
	close(gate)
	asking.Wait()
	close(failed)
	for err := range failed {
		t.Error(err)
	}
	if n := s.asksFor("www.example."); n != 1 {
		t.Errorf("%d queries for %d clients", n, clients)
	}
}
