package sim

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"
	"time"
)

// Calls that run at once have numbers of their own.
func TestCallNumbers(t *testing.T) {
	t.Parallel()
	c := newCloud(t, nil)
	const name, calls = "DescribeVpcs", 2000
	var mu sync.Mutex
	var numbers []int
	var wg sync.WaitGroup
	for range calls {
		wg.Go(func() {
			call := &Call{Action: name}
			if _, _, err := c.perform(t.Context(), c.actions[actionKey{vpcVersion, name}], input{}, call); err != nil {
				t.Error(err)
			}
			mu.Lock()
			defer mu.Unlock()
			numbers = append(numbers, call.Number)
		})
	}
	wg.Wait()
	slices.Sort(numbers)
	if numbers = slices.Compact(numbers); len(numbers) != calls || numbers[0] != 1 || numbers[calls-1] != calls {
		t.Errorf("%d calls have %d numbers, from %d to %d", calls, len(numbers), numbers[0], numbers[len(numbers)-1])
	}
}

func assumeRoleInput() input {
	return input{
		"Action": assumeRoleAction, "Version": stsVersion, "Format": "JSON", "Timestamp": "2026-01-02T03:04:05Z",
		"RoleArn": "acs:ram::1:role/a", "OIDCProviderArn": "acs:ram::1:oidc-provider/b", "OIDCToken": "eyJhbGciOiJub25lIn0.e30.c",
		"RoleSessionName": "node-1",
	}
}

// What may go wrong with calls may go wrong with STS too.
func TestAssumeRoleIsPerformedLikeOthers(t *testing.T) {
	t.Parallel()
	trusting := func(c *Config) {
		c.OIDC = OIDCTrust{RoleARN: "acs:ram::1:role/a", ProviderARN: "acs:ram::1:oidc-provider/b"}
		c.RateLimits = []RateLimit{{Action: assumeRoleAction, PerMinute: 0.001, Burst: 2}}
	}
	c := newCloud(t, trusting)
	var seen []Call
	hang := c.Inject(Fault{
		Action: assumeRoleAction, Hang: HangBefore,
		Before: func(call Call) { seen = append(seen, call) }, After: func(call Call) { seen = append(seen, call) },
	})
	done := make(chan error)
	go func() {
		call := &Call{Action: assumeRoleAction}
		_, _, err := c.handleSTS(t.Context(), assumeRoleInput(), call)
		done <- err
	}()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if err := hang.WaitHanging(ctx); err != nil {
		t.Fatal(err)
	}
	hang.Release()
	if err := <-done; err != nil || len(seen) != 2 || seen[0].Number != 1 || seen[0].Fault != hang.ID {
		t.Errorf("after the hang: %v, hooks saw %+v", err, seen)
	}
	c.Inject(Fault{Action: assumeRoleAction, LoseAnswer: true})
	if _, lost, err := c.handleSTS(t.Context(), assumeRoleInput(), &Call{Action: assumeRoleAction}); err != nil || !lost {
		t.Errorf("the answer is lost: %v, %v", lost, err)
	}
	_, _, err := c.handleSTS(t.Context(), assumeRoleInput(), &Call{Action: assumeRoleAction})
	if ref, ok := errors.AsType[*refusal](err); !ok || ref.code != codeThrottledUser {
		t.Errorf("above the limit: %v", err)
	}
}

// A cloud that runs for days does not keep every session there was.
func TestExpiredSessionsAreSwept(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	c := newCloud(t, func(c *Config) {
		c.OIDC = OIDCTrust{RoleARN: "acs:ram::1:role/a", ProviderARN: "acs:ram::1:oidc-provider/b"}
		c.Now = func() time.Time { return now }
	})
	for range 5 {
		if _, err := c.assumeRole(assumeRoleInput()); err != nil {
			t.Fatal(err)
		}
		now = now.Add(40 * time.Minute) // of the hour that each lasts
	}
	if len(c.sessions) != 2 {
		t.Errorf("%d sessions are kept, want 2", len(c.sessions))
	}
}
