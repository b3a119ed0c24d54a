package cni

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

// A limited world has pods with annotations, attachments with limits, and what was said.
type limited struct {
	pods     map[string]map[string]string // by name
	attached []Attached
	sets     []Limits // changes
	kept     int
	reports  []string
	broken   error
	changed  chan struct{}
}

func (l *limited) task() *LimitTask {
	return NewLimitTask(LimitConfig{
		Attached: func() ([]Attached, error) { return slices.Clone(l.attached), nil },
		Set: func(_ context.Context, k Key, limits Limits) error {
			i := slices.IndexFunc(l.attached, func(a Attached) bool { return a.Key == k })
			if l.attached[i].Limits == limits {
				l.kept++
				return nil
			}
			l.sets = append(l.sets, limits)
			if l.broken != nil {
				return l.broken
			}
			l.attached[i].Limits = limits
			return nil
		},
		Annotations: func(p PodRef) (map[string]string, bool) {
			annotations, known := l.pods[p.Name]
			return annotations, known
		},
		Changed: l.changed,
		Report:  func(p PodRef, message string) { l.reports = append(l.reports, p.Name+": "+message) },
		Log:     slog.New(slog.DiscardHandler),
	})
}

func TestLimitTask(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := &limited{
			pods:     map[string]map[string]string{"a": {annotationIngress: "10M"}, "b": {annotationEgress: "20M"}},
			attached: []Attached{{Key: Key{ContainerID: "a"}, Pod: PodRef{Name: "a"}}, {Key: Key{ContainerID: "x"}, Pod: PodRef{Name: "x"}, Limits: Limits{Egress: 5000}}},
			changed:  make(chan struct{}, 1),
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- l.task().Run(ctx) }()
		step := func(name string, want Limits, sets int, reports ...string) {
			t.Helper()
			time.Sleep(time.Second)
			synctest.Wait()
			if got := l.attached[0].Limits; got != want || len(l.sets) != sets || !cmp.Equal(l.reports, reports) {
				t.Errorf("%s: limits %+v, want %+v; set %d times, want %d; said %q, want %q", name, got, want, len(l.sets), sets, l.reports, reports)
			}
			if l.attached[1].Limits != (Limits{Egress: 5000}) {
				t.Errorf("%s: the limits of a pod nobody knows were changed", name)
			}
		}
		step("found at the start", Limits{Ingress: 10_000_000}, 1)
		kept := l.kept
		time.Sleep(lookAtLimits)
		if l.kept != kept+2 {
			t.Errorf("%d limits were kept, want 2", l.kept-kept)
		}

		l.pods["a"] = map[string]string{annotationIngress: "20M", annotationEgress: "1M"}
		l.changed <- struct{}{}
		step("changed", Limits{20_000_000, 1_000_000}, 2)

		const report = `a: annotation kubernetes.io/egress-bandwidth is "fast": this is not a quantity; write bits per second, such as 10M`
		l.pods["a"] = map[string]string{annotationIngress: "30M", annotationEgress: "fast"}
		l.changed <- struct{}{}
		step("one cannot be used", Limits{30_000_000, 1_000_000}, 3, report)
		l.changed <- struct{}{}
		step("and is so still", Limits{30_000_000, 1_000_000}, 3, report)

		l.broken = errors.New("no such device")
		l.pods["a"] = nil
		l.changed <- struct{}{}
		step("it fails", Limits{30_000_000, 1_000_000}, 4, report)
		l.broken = nil
		time.Sleep(lookAtLimits)
		step("and is tried again", Limits{}, 5, report)

		l.pods["a"] = map[string]string{annotationEgress: "fast"}
		l.changed <- struct{}{}
		step("cannot be used again", Limits{}, 5, report, report)
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}
