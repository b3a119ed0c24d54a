package ipam

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

func TestMetrics(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cloud := newFakeCloud(2, 6)
		registry := prometheus.NewPedanticRegistry()
		c := testConfig(t, cloud)
		c.Metrics = registry
		p := mustOpen(t, c)
		defer start(t, p)()
		for i := range 3 {
			mustAllocate(t, p, i)
		}
		exclusively(t, p, 3)
		if err := p.Release(t.Context(), key(0), 0); err != nil {
			t.Fatal(err)
		}
		if err := p.Release(t.Context(), key(1), time.Hour); err != nil {
			t.Fatal(err)
		}
		eventually(t, "rest", func() bool { s := p.Stats(); return s.Pending == 0 && s.Idle >= 2 })
		cloud.set(func() { cloud.vSwitches["vsw-a"].AvailableIPs = 0 })
		ctx, cancel := within(2 * time.Minute)
		defer cancel()
		for i := 10; i < 16; i++ {
			if _, err := p.Allocate(ctx, Request{Key: key(i)}); err != nil {
				break
			}
		}
		synctest.Wait()
		got := samples(t, registry)
		for sample, want := range map[string]float64{
			"nearpath_pool_capacity exclusive": 2, "nearpath_pool_capacity shared": 12,
			"nearpath_pool_enis in-use": 2, "nearpath_pool_enis draining": 0,
			"nearpath_pool_vswitch_breaker_state vsw-a": 2,
			"nearpath_pool_addresses kept":              1, "nearpath_pool_addresses reserved": 0,
			"nearpath_pool_allocations_total exclusive ok": 1,
		} {
			if value, ok := got[sample]; !ok || value != want {
				t.Errorf("%s is %v, there %v, want %v", sample, value, ok, want)
			}
		}
		for _, sample := range []string{
			"nearpath_pool_allocations_total shared ok", "nearpath_pool_allocations_total shared exhausted",
			"nearpath_pool_cloud_errors_total vswitch_full", "nearpath_pool_allocate_duration_seconds shared",
		} {
			if got[sample] < 1 {
				t.Errorf("%s is %v", sample, got[sample])
			}
		}
	})
}

// samples are the values by name and label values; of a histogram the count.
func samples(t *testing.T, g prometheus.Gatherer) map[string]float64 {
	t.Helper()
	families, err := g.Gather()
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]float64{}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			name := []string{f.GetName()}
			for _, l := range m.GetLabel() {
				name = append(name, l.GetValue())
			}
			got[strings.Join(name, " ")] = m.GetGauge().GetValue() + m.GetCounter().GetValue() + float64(m.GetHistogram().GetSampleCount())
		}
	}
	return got
}
