package upstream

import (
	"fmt"
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
