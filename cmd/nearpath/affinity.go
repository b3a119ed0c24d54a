package main

import (
	"log/slog"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/nearpath/nearpath/bpf"
)

// affinityEvery is how often clients that keep their backend are swept. The programs look at the time themselves: what is
// not swept takes room, and nothing else.
const affinityEvery = 15 * time.Second

// An affinitySweeper is a Task that forgets clients whose session affinity is over, and tells how full their table is.
type affinitySweeper struct {
	periodic
	sweep func() (bpf.AffinityStats, error)
	log   *slog.Logger
	full  uint64 // what the kernel had counted at the last sweep

	entries, room  prometheus.Gauge
	swept, refused prometheus.Counter
}

func newAffinitySweeper(sweep func() (bpf.AffinityStats, error), log *slog.Logger, metrics prometheus.Registerer) *affinitySweeper {
	s := &affinitySweeper{
		sweep: sweep, log: log,
		entries: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "nearpath_affinity_clients", Help: "Clients of Service ports with session affinity that keep their backend.",
		}),
		room: prometheus.NewGauge(prometheus.GaugeOpts{Name: "nearpath_affinity_clients_max", Help: "Clients that the table of session affinity holds."}),
		swept: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "nearpath_affinity_swept_total", Help: "Clients that were forgotten because their session affinity was over.",
		}),
		refused: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "nearpath_affinity_refused_total",
			Help: "Connections to Service ports with session affinity whose client was not remembered because the table was full.",
		}),
	}
	metrics.MustRegister(s.entries, s.room, s.swept, s.refused)
	s.periodic = newPeriodic("session affinity", affinityEvery, s.once)
	return s
}

// sweepAffinity is one sweep of the datapath's clients.
func sweepAffinity(d *bpf.Datapath) func() (bpf.AffinityStats, error) {
	return func() (bpf.AffinityStats, error) {
		now, err := bpf.Clock()
		if err != nil {
			return bpf.AffinityStats{}, err
		}
		return d.Affinity.Sweep(now)
	}
}

// once counts from where an earlier agent was, as flowSweeper does.
func (s *affinitySweeper) once() {
	stats, err := s.sweep()
	if err != nil {
		s.log.Warn("clients with session affinity not swept", "err", err)
		return
	}
	s.entries.Set(float64(stats.Entries))
	s.room.Set(float64(stats.Max))
	s.swept.Add(float64(stats.Swept))
	if stats.Full > s.full {
		s.refused.Add(float64(stats.Full - s.full))
		s.log.Warn("clients do not keep their backend: the table of session affinity is full", "connections", stats.Full-s.full, "max", stats.Max)
	}
	s.full = stats.Full
}
