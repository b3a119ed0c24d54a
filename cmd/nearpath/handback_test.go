package main

import (
	"context"
	"testing"
	"testing/synctest"
	"time"
)

func TestAwaitIdle(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		active []int // second by second, then the last one
		most   time.Duration
		left   int
		took   time.Duration
	}{
		"nothing":         {[]int{0}, time.Minute, 0, 0},
		"idle in the end": {[]int{3, 2, 0}, time.Minute, 0, 2 * time.Second},
		"never":           {[]int{3}, 5 * time.Second, 3, 5 * time.Second},
		"not waited for":  {[]int{3}, 0, 3, 0},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				started := time.Now()
				left, err := awaitIdle(context.Background(), tt.most, func() (int, error) {
					n := tt.active[0]
					if len(tt.active) > 1 {
						tt.active = tt.active[1:]
					}
					return n, nil
				})
				if took := time.Since(started); left != tt.left || took != tt.took || err != nil {
					t.Errorf("left %d after %s, %v; want %d after %s", left, took, err, tt.left, tt.took)
				}
			})
		})
	}
}
