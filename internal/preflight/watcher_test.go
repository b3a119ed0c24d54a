package preflight

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/nearpath/nearpath/internal/aliyun"
)

// A watch is a Watcher that runs in a synctest bubble on a fake cloud.
type watch struct {
	*Watcher
	t       *testing.T // of the bubble
	cloud   *fakeCloud
	metrics *prometheus.Registry
	told    []string // changes, oldest first
}

// watching runs the test with a Watcher that has looked once.
func watching(t *testing.T, test func(w *watch)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		w := &watch{t: t, cloud: newFakeCloud(healthy()), metrics: prometheus.NewRegistry()}
		var err error
		w.Watcher, err = NewWatcher(Config{
			Cloud: w.cloud, Metrics: w.metrics,
			Query: func() Query { return w.cloud.facts.Query },
			Report: func(changes []Change) {
				for _, c := range changes {
					w.told = append(w.told, fmt.Sprintf("%s %s %v", c.Object, c.Result, c.Resolved))
				}
			},
		})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- w.Run(ctx) }()
		<-w.Ready()
		synctest.Wait()
		test(w)
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// afterNextLook lets a whole interval pass.
func afterNextLook() {
	time.Sleep(defaultInterval + defaultInterval/jitter)
	synctest.Wait()
}

// expect compares the metric's series with those wanted, "label values = value" each.
func (w *watch) expect(name string, want ...string) {
	w.t.Helper()
	families, err := w.metrics.Gather()
	if err != nil {
		w.t.Fatal(err)
	}
	var got []string
	for _, f := range families {
		if f.GetName() != name {
			continue
		}
		for _, m := range f.GetMetric() {
			var labels []string
			for _, l := range m.GetLabel() {
				labels = append(labels, l.GetValue())
			}
			got = append(got, fmt.Sprintf("%s = %v", strings.Join(labels, " "), m.GetGauge().GetValue()))
		}
	}
	if !slices.Equal(got, want) {
		w.t.Errorf("%s: %q, want %q", name, got, want)
	}
}

func TestWatcherTellsChanges(t *testing.T) {
	t.Parallel()
	watching(t, func(w *watch) {
		if len(w.told) != 0 {
			w.t.Errorf("a healthy network is reported: %v", w.told)
		}
		w.expect("nearpath_egress_ready", "vsw-a = 1")

		entries := w.cloud.facts.SNAT.Value
		w.cloud.change(func(c *fakeCloud) { c.facts.SNAT.Value = nil })
		afterNextLook()
		w.expect("nearpath_egress_ready", "vsw-a = 0")
		w.expect("nearpath_preflight_finding", "egress vsw-a = 1")
		afterNextLook()

		w.cloud.change(func(c *fakeCloud) {
			c.fail = map[string]error{"DescribeSNATEntries": &aliyun.APIError{Action: "DescribeNatGateways", Code: "Forbidden.RAM"}}
		})
		afterNextLook()
		w.expect("nearpath_egress_ready")
		w.expect("nearpath_preflight_finding", "egress vsw-a = 0")

		w.cloud.change(func(c *fakeCloud) { c.fail, c.facts.SNAT.Value = nil, entries })
		afterNextLook()
		w.expect("nearpath_egress_ready", "vsw-a = 1")
		want := "vsw-a no SNAT entry false, vsw-a unknown false, vsw-a unknown true"
		if got := strings.Join(w.told, ", "); got != want {
			w.t.Errorf("told %q, want %q", got, want)
		}
	})
}

func TestWatcherLooksAtOnceWhenAsked(t *testing.T) {
	t.Parallel()
	watching(t, func(w *watch) {
		w.cloud.change(func(c *fakeCloud) { c.facts.Query.NodeDNS = []netip.Addr{netip.MustParseAddr("10.0.0.53")} })
		w.Recheck()
		w.Recheck() // does not block
		synctest.Wait()
		if len(w.told) == 0 || len(w.Findings()) < 2 || w.Findings()[0].Check != CheckNodeDNS {
			w.t.Errorf("told %v, found\n%s", w.told, lines(w.Findings()))
		}
	})
}

func TestWatcherKeepsWhatItFoundWhileTheCloudIsAway(t *testing.T) {
	t.Parallel()
	watching(t, func(w *watch) {
		w.cloud.change(func(c *fakeCloud) { c.facts.SNAT.Value = nil })
		afterNextLook()
		before := w.cloud.counts["DescribeInstance"]
		w.cloud.change(func(c *fakeCloud) { c.fail = map[string]error{"DescribeInstance": aliyun.ErrUnavailable} })
		afterNextLook()
		afterNextLook()
		w.expect("nearpath_egress_ready", "vsw-a = 0")
		if len(w.told) != 1 || len(w.Findings()) != 1 {
			w.t.Errorf("told %v, found\n%s", w.told, lines(w.Findings()))
		}
		// The pauses are 1, 2, 4 and 8 tenths of the interval, and whole ones then.
		if n := w.cloud.counts["DescribeInstance"] - before; n < 3 || n > 6 {
			w.t.Errorf("%d tries in two intervals, want one soon and each further one later", n)
		}
		before = w.cloud.counts["DescribeInstance"]
		for range 20 {
			afterNextLook()
		}
		if n := w.cloud.counts["DescribeInstance"] - before; n < 20 || n > 25 {
			w.t.Errorf("%d tries in 20 intervals", n)
		}
		w.cloud.change(func(c *fakeCloud) { c.fail = nil; c.facts.SNAT = healthy().SNAT })
		afterNextLook()
		if len(w.told) != 2 {
			w.t.Errorf("told %v after the cloud came back", w.told)
		}
	})
}

func TestWatcherNeedsACloud(t *testing.T) {
	t.Parallel()
	if _, err := NewWatcher(Config{}); err == nil {
		t.Error("a Watcher without a cloud is made")
	}
	r := prometheus.NewRegistry()
	cfg := Config{Cloud: newFakeCloud(healthy()), Query: func() Query { return Query{} }, Metrics: r}
	if _, err := NewWatcher(cfg); err != nil {
		t.Error(err)
	}
	if _, err := NewWatcher(cfg); err == nil {
		t.Error("metrics are registered twice")
	}
}
