package main

import (
	"errors"
	"testing"
)

// TestApplyTo: what refuses a configuration leaves both the pool and the rates of calls as they were.
func TestApplyTo(t *testing.T) {
	t.Parallel()
	refused := errors.New("refused")
	last, next := defaultConfig(), defaultConfig()
	last.Pool.MinIdle, last.Cloud.RateLimits = 1, map[string]int{"DescribeVSwitches": 10}
	next.Pool.MinIdle, next.Cloud.RateLimits = 2, map[string]int{"DescribeVSwitches": 20}
	for name, tt := range map[string]struct {
		pool, limits error
		minIdle      int
		rate         int
	}{
		"applied":            {nil, nil, 2, 20},
		"the pool refuses":   {refused, nil, 1, 10},
		"the client refuses": {nil, refused, 1, 10},
	} {
		minIdle, rate := last.Pool.MinIdle, last.Cloud.RateLimits["DescribeVSwitches"]
		pool := func(c config) error {
			if tt.pool == nil {
				minIdle = c.Pool.MinIdle
			}
			return tt.pool
		}
		limits := func(rates map[string]int) error {
			if tt.limits == nil {
				rate = rates["DescribeVSwitches"]
			}
			return tt.limits
		}
		err := applyTo(pool, limits, next, last)
		if minIdle != tt.minIdle || rate != tt.rate || errors.Is(err, refused) != (tt.minIdle == 1) {
			t.Errorf("%s: minIdle %d, rate %d: %v", name, minIdle, rate, err)
		}
	}
}
