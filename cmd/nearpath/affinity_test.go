package main

import (
	"errors"
	"log/slog"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/nearpath/nearpath/bpf"
)

// TestAffinitySweeper: the kernel counts from when the datapath was loaded, and a failed sweep changes nothing.
func TestAffinitySweeper(t *testing.T) {
	t.Parallel()
	var stats bpf.AffinityStats
	var fail error
	s := newAffinitySweeper(func() (bpf.AffinityStats, error) { return stats, fail }, slog.New(slog.DiscardHandler), prometheus.NewRegistry())
	for _, step := range []struct {
		stats                   bpf.AffinityStats
		fail                    error
		entries, swept, refused float64
	}{
		{bpf.AffinityStats{Entries: 6, Max: 100, Swept: 2, Full: 5}, nil, 6, 2, 5},
		{bpf.AffinityStats{Entries: 4, Max: 100, Swept: 3, Full: 5}, nil, 4, 5, 5},
		{bpf.AffinityStats{}, errors.New("busy"), 4, 5, 5},
		{bpf.AffinityStats{Entries: 4, Max: 100, Full: 7}, nil, 4, 5, 7},
	} {
		stats, fail = step.stats, step.fail
		s.once()
		got := [...]float64{value(t, s.entries), value(t, s.swept), value(t, s.refused), value(t, s.room)}
		if want := [...]float64{step.entries, step.swept, step.refused, 100}; got != want {
			t.Errorf("after %+v: entries, swept, refused, room %v, want %v", step.stats, got, want)
		}
	}
}
