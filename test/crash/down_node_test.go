//go:build node

package crash

import (
	"errors"
	"fmt"
	"strings"
	"testing"
)

// cloudDown fills the node, takes the cloud away and gives it back.
func cloudDown(t *testing.T, r *rig) {
	t.Helper()
	r.start(t)
	t.Run("more pods than fit", r.overfill)
	t.Run("deletions without an agent make room", r.refill)
	t.Run("cloud down", r.outage)
	r.finish(t)
}

// overfill asks a cold node for more pods than it has room for.
func (r *rig) overfill(t *testing.T) {
	t.Helper()
	full := r.ENIs * r.PerENI
	tries := r.add(t, r.sandboxes(t, full+4))()
	for _, a := range tries {
		if a.err != nil {
			mustRefuse(t, a, "in use")
			r.del(t, []*pod{a.pod})
		}
	}
	if n := len(r.books.pods()); n != full {
		t.Errorf("%d pods run, want %d", n, full)
	}
	r.check(t)
}

// mustRefuse wants a refusal that tells the runtime to try again, and a person why.
func mustRefuse(t *testing.T, a attempt, why string) {
	t.Helper()
	var told *refusal
	if !errors.As(a.err, &told) || told.Code != retry || !strings.Contains(told.Error(), why) {
		t.Errorf("ADD of %s: %v, want code %d and %q", a.container, a.err, retry, why)
	}
}

// refill deletes two pods of a full node while it has no agent, and wants their room back from the next one: at once, or when
// it no longer keeps the addresses of pods that it was told of too late to know them.
func (r *rig) refill(t *testing.T) {
	t.Helper()
	r.kill()
	r.del(t, r.some(2))
	r.start(t)
	tries := r.add(t, r.sandboxes(t, 2))()
	for _, a := range tries {
		if a.err != nil {
			mustRefuse(t, a, "in use")
		}
	}
	r.insist(t, tries)
	r.collect(t)
	r.check(t)
}

func (r *rig) outage(t *testing.T) {
	t.Helper()
	full := r.ENIs * r.PerENI
	r.del(t, r.some(full-2))
	await(t, 2*patience, "the pool to shrink", func() error {
		if n := r.addresses(); n > full-3 {
			return fmt.Errorf("it has %d of %d addresses", n, full)
		}
		return nil
	})
	r.check(t)
	r.gate.setShut(true)
	ran := 0
	tries := r.add(t, r.sandboxes(t, 1))()
	for ; tries[0].err == nil; ran++ {
		tries = r.add(t, r.sandboxes(t, 1))()
	}
	if ran < minIdle {
		t.Errorf("%d pods got addresses that the pool had, want %d or more", ran, minIdle)
	}
	tries = append(tries, r.add(t, r.sandboxes(t, 2))()...)
	for _, a := range tries {
		mustRefuse(t, a, "cloud unavailable")
	}
	t.Logf("%d pods got addresses, then: %v", ran, tries[0].err)
	r.gate.setShut(false)
	r.insist(t, tries)
	r.collect(t)
	r.check(t)
}

// insist tries failed ADDs again, as kubelet does, until all have succeeded.
func (r *rig) insist(t *testing.T, tries []attempt) {
	t.Helper()
	await(t, patience, "ADDs to succeed again", func() error {
		var names []string
		var errs []error
		for _, a := range tries {
			if a.err != nil {
				r.stop(t, []*pod{a.pod})
				names, errs = append(names, a.name), append(errs, a.err)
			}
		}
		tries = r.add(t, r.sandboxes(t, len(names), names...))()
		return errors.Join(errs...)
	})
}
