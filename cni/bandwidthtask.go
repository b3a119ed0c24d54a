package cni

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/nearpath/nearpath/internal/hostnet"
)

// A LimitConfig configures a LimitTask. All fields but Report must be set.
type LimitConfig struct {
	// Attached and Set are those of the Server. Set is also asked to keep limits that did not change.
	Attached func() ([]Attached, error)
	Set      func(ctx context.Context, k Key, limits Limits) error
	// Annotations are those of a pod of this node; false when the pod is not known, whose limits then stay as they are.
	Annotations func(PodRef) (annotations map[string]string, known bool)
	// Changed gets a value after pods have changed; a full channel may be passed by.
	Changed <-chan struct{}
	// Report tells of an annotation that cannot be used, once for as long as it is so. Optional.
	Report func(pod PodRef, message string)
	Log    *slog.Logger
}

// lookAtLimits is how often limits are looked at without a change of a pod: what somebody took away is put back then, and a
// change that failed is tried again.
const lookAtLimits = 30 * time.Second

// A LimitTask brings pods that run to the limits their annotations ask for now. It compares what is asked with what was
// set last, so that it also finds what changed while the agent was away.
type LimitTask struct {
	config LimitConfig
	ready  chan struct{}
	told   map[Key]string // what was last said about an attachment
	kept   time.Time      // when all limits were last looked at
}

// NewLimitTask starts nothing.
func NewLimitTask(c LimitConfig) *LimitTask {
	return &LimitTask{config: c, ready: make(chan struct{}), told: map[Key]string{}}
}

// Ready is closed at once: nothing waits for limits.
func (t *LimitTask) Ready() <-chan struct{} { return t.ready }

func (t *LimitTask) String() string { return "follower of pods' bandwidth limits" }

// Run follows pods until the context ends.
func (t *LimitTask) Run(ctx context.Context) error {
	close(t.ready)
	for {
		if err := t.follow(ctx, time.Now()); err != nil && ctx.Err() == nil {
			t.config.Log.Warn("bandwidth limits are not what pods ask for", "err", err)
		}
		if !hostnet.AwaitEvent(ctx, t.config.Changed, lookAtLimits) {
			return nil
		}
	}
}

// follow compares once, all attachments whatever fails.
func (t *LimitTask) follow(ctx context.Context, now time.Time) error {
	all, err := t.config.Attached()
	errs := []error{err}
	keep := now.Sub(t.kept) >= lookAtLimits
	if keep {
		t.kept = now
	}
	told := make(map[Key]string, len(t.told))
	for _, a := range all {
		limits := t.wanted(a, told)
		if limits == a.Limits && (!keep || limits == (Limits{})) {
			continue
		}
		if err := t.config.Set(ctx, a.Key, limits); err != nil {
			errs = append(errs, fmt.Errorf("pod %s/%s: %w", a.Pod.Namespace, a.Pod.Name, err))
		}
	}
	t.told = told
	return errors.Join(errs...)
}

// wanted are the limits that an attachment should have, and notes what is wrong with its annotations.
func (t *LimitTask) wanted(a Attached, told map[Key]string) Limits {
	annotations, known := t.config.Annotations(a.Pod)
	if !known {
		return a.Limits
	}
	limits, err := LimitsOf(annotations, a.Limits)
	if err != nil {
		told[a.Key] = err.Error()
		t.complain(a, err.Error())
	}
	return limits
}

func (t *LimitTask) complain(a Attached, message string) {
	if t.told[a.Key] == message {
		return
	}
	t.config.Log.Warn("bandwidth annotation cannot be used, the limit stays as it is", "pod", a.Pod.Name, "namespace", a.Pod.Namespace, "err", message)
	if t.config.Report != nil {
		t.config.Report(a.Pod, message)
	}
}
