package main

import (
	"context"
	"testing"
	"time"
)

// TestPeriodic: the first time comes at once, others after it, and the end when it is asked for.
func TestPeriodic(t *testing.T) {
	t.Parallel()
	for every, until := range map[time.Duration]int{time.Hour: 1, time.Millisecond: 3} {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		n := 0
		p := newPeriodic("counting", every, func() {
			if n++; n == until {
				cancel()
			}
		})
		<-p.Ready()
		if err := p.Run(ctx); err != nil || n < until || p.String() != "counting" {
			t.Errorf("%s, every %s: %d times, %v", p, every, n, err)
		}
	}
}
