package main

import (
	"errors"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/nearpath/nearpath/bpf"
)

// trackedEvery is how often connections that policy has judged are swept; the shortest time that one is remembered is 10
// seconds.
const trackedEvery = 5 * time.Second

// A trackedSweeper is a Task that forgets connections of pods that are over, and tells how full their table is.
type trackedSweeper struct {
	periodic
	sweep func() (bpf.TrackedStats, error)
	// refused is how many connections of each pod there was no room for, by the pod's name.
	refused func() (map[string]uint64, error)
	report  func(reason, message string)
	log     *slog.Logger
	last    map[string]uint64
	trouble string
	stats   atomic.Pointer[bpf.TrackedStats] // of the last sweep, nil at first

	entries, room, denied prometheus.Gauge
	swept                 prometheus.Counter
}

func newTrackedSweeper(sweep func() (bpf.TrackedStats, error), refused func() (map[string]uint64, error), report func(reason, message string), log *slog.Logger, metrics prometheus.Registerer) *trackedSweeper {
	s := &trackedSweeper{
		sweep: sweep, refused: refused, report: report, log: log,
		entries: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "nearpath_policy_flows", Help: "Connections of pods that are remembered for policy.",
		}),
		room: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "nearpath_policy_flows_max", Help: "Connections that the table for policy holds; one pod may have a quarter of them.",
		}),
		denied: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "nearpath_policy_flows_denied", Help: "Connections that were allowed, and are cut by a policy that came later.",
		}),
		swept: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "nearpath_policy_flows_swept_total", Help: "Connections of pods that were forgotten because they were over or idle for too long.",
		}),
	}
	metrics.MustRegister(s.entries, s.room, s.denied, s.swept)
	s.periodic = newPeriodic("policy flows", trackedEvery, s.once)
	return s
}

// sweepTracked is one sweep of the datapath's table.
func sweepTracked(d *bpf.Datapath) func() (bpf.TrackedStats, error) {
	return func() (bpf.TrackedStats, error) {
		now, err := bpf.Clock()
		if err != nil {
			return bpf.TrackedStats{}, err
		}
		return d.Tracked.Sweep(now)
	}
}

func (s *trackedSweeper) once() {
	stats, err := s.sweep()
	if err == nil {
		s.stats.Store(&stats)
		s.entries.Set(float64(stats.Entries))
		s.room.Set(float64(stats.Max))
		s.denied.Set(float64(stats.Denied))
		s.swept.Add(float64(stats.Swept))
	}
	now, refusedErr := s.refused()
	if refusedErr == nil {
		s.alarm(now, stats)
	}
	text := ""
	if err = errors.Join(err, refusedErr); err != nil {
		text = err.Error()
	}
	if text != "" && text != s.trouble {
		s.log.Warn("connections of policy not swept", "err", err)
	}
	s.trouble = text
}

// use says how full the table was at the last sweep.
func (s *trackedSweeper) use() policyMapView {
	v := policyMapView{Map: "connections"}
	if last := s.stats.Load(); last != nil {
		v.Entries, v.Max = last.Entries, last.Max
	}
	return v
}

// alarm tells of pods that were refused connections since the last look. A pod's count begins anew with each that gets its number.
func (s *trackedSweeper) alarm(now map[string]uint64, stats bpf.TrackedStats) {
	for pod, is := range now {
		if was := s.last[pod]; is > was && s.last != nil {
			s.log.Warn("connections of a pod refused: the table of connections is full, or the pod has a quarter of it", "pod", pod, "refused", is-was, "max", stats.Max)
			s.report("PolicyFlowsFull", "connections of pod "+pod+" are refused: the table of connections is full, or the pod has a quarter of it; set policy.flows to more")
		}
	}
	s.last = now
}
