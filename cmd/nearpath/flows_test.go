package main

import (
	"errors"
	"log/slog"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/nearpath/nearpath/bpf"
)

// TestFlowSweeper: the kernel counts from when the datapath was loaded; a new agent finds the counts of the older ones, and
// a failed sweep changes nothing. When all that failed are links, the flows still count.
func TestFlowSweeper(t *testing.T) {
	t.Parallel()
	var stats bpf.FlowStats
	var fail error
	s := newFlowSweeper(func() (bpf.FlowStats, error) { return stats, fail }, slog.New(slog.DiscardHandler), prometheus.NewRegistry())
	for _, step := range []struct {
		stats                   bpf.FlowStats
		fail                    error
		entries, swept, refused float64
	}{
		{bpf.FlowStats{Flows: 6, Max: 100, Swept: 2, Full: 5}, nil, 6, 2, 5},
		{bpf.FlowStats{Flows: 4, Max: 100, Swept: 2, Full: 5, NoPort: 1}, nil, 4, 4, 5},
		{bpf.FlowStats{}, errors.New("busy"), 4, 4, 5},
		{bpf.FlowStats{Flows: 3, Max: 100, Full: 5, NoPort: 1}, errors.New("a pin is not a link"), 3, 4, 5},
		{bpf.FlowStats{Flows: 4, Max: 100, Full: 6, NoPort: 1, Lost: 9}, nil, 4, 4, 6},
	} {
		stats, fail = step.stats, step.fail
		s.once()
		got := [...]float64{value(t, s.entries), value(t, s.swept), value(t, s.refused.WithLabelValues("full")), value(t, s.room)}
		if want := [...]float64{step.entries, step.swept, step.refused, 100}; got != want {
			t.Errorf("after %+v: entries, swept, refused, room %v, want %v", step.stats, got, want)
		}
	}
	if got := value(t, s.refused.WithLabelValues("lost")); got != 9 {
		t.Errorf("lost %v, want 9", got)
	}
}
