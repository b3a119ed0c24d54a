package main

import (
	"errors"
	"log/slog"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/nearpath/nearpath/bpf"
)

// flowsEvery is how often flows are swept; the shortest time that one is remembered is 10 seconds.
const flowsEvery = 5 * time.Second

// A flowSweeper is a Task that forgets connections from outside that are over, and tells how full their table is.
type flowSweeper struct {
	periodic
	sweep func() (bpf.FlowStats, error)
	log   *slog.Logger
	last  bpf.FlowStats

	entries, room prometheus.Gauge
	swept         prometheus.Counter
	refused       *prometheus.CounterVec
}

func newFlowSweeper(sweep func() (bpf.FlowStats, error), log *slog.Logger, metrics prometheus.Registerer) *flowSweeper {
	s := &flowSweeper{
		sweep: sweep, log: log,
		entries: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "nearpath_flows", Help: "Entries of the table of connections that are translated for clients outside; a connection has two.",
		}),
		room: prometheus.NewGauge(prometheus.GaugeOpts{Name: "nearpath_flows_max", Help: "Entries that the table of connections holds."}),
		swept: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "nearpath_flows_swept_total", Help: "Entries of the table of connections that were removed because the connection was over or idle for too long.",
		}),
		refused: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "nearpath_flows_refused_total",
			Help: "Connections from outside that were refused because the table was full (full) or the node had no port left to their backend (no_port), and packets that could not be translated (lost).",
		}, []string{"reason"}),
	}
	for _, reason := range []string{"full", "no_port", "lost"} {
		s.refused.WithLabelValues(reason)
	}
	metrics.MustRegister(s.entries, s.room, s.swept, s.refused)
	s.periodic = newPeriodic("flows", flowsEvery, s.once)
	return s
}

// sweepFlows is one sweep of the datapath's flows, and of its programs whose links are gone.
func sweepFlows(d *bpf.Datapath) func() (bpf.FlowStats, error) {
	return func() (bpf.FlowStats, error) {
		now, err := bpf.Clock()
		if err != nil {
			return bpf.FlowStats{}, err
		}
		stats, err := d.Flows.Sweep(now)
		if err != nil {
			stats = bpf.FlowStats{}
		}
		return stats, errors.Join(err, d.SweepLinks())
	}
}

// once counts from where an earlier agent was: the kernel's counts are of the datapath, and these are of the process.
func (s *flowSweeper) once() {
	stats, err := s.sweep()
	if err != nil {
		s.log.Warn("flows, or programs of links that are gone, not swept", "err", err)
	}
	if stats.Max == 0 {
		return
	}
	s.entries.Set(float64(stats.Flows))
	s.room.Set(float64(stats.Max))
	s.swept.Add(float64(stats.Swept))
	for reason, counts := range map[string][2]uint64{
		"full": {s.last.Full, stats.Full}, "no_port": {s.last.NoPort, stats.NoPort}, "lost": {s.last.Lost, stats.Lost},
	} {
		was, is := counts[0], counts[1]
		if is <= was {
			continue
		}
		s.refused.WithLabelValues(reason).Add(float64(is - was))
		if reason == "full" {
			s.log.Warn("connections from outside refused: the table of flows is full", "refused", is-was, "max", stats.Max)
		}
	}
	s.last = stats
}
