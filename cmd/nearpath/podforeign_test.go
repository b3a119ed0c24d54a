package main

import (
	"log/slog"
	"net/netip"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/nearpath/nearpath/bpf"
	"github.com/nearpath/nearpath/cni"
)

// fakeForeign has programs by the index of a link.
type fakeForeign map[int][]string

func (f fakeForeign) LinkForeign(_ bpf.Role, index int) ([]string, error) { return f[index], nil }

// TestForeignWatch: each set of programs is told of once, and the metric follows.
func TestForeignWatch(t *testing.T) {
	t.Parallel()
	linked := newPodLinks(newFakeDatapath(), nil, slog.New(slog.DiscardHandler))
	for i, a := range []string{"10.0.0.8", "10.0.0.9"} {
		linked.remember(cni.PodEntry{Addrs: []netip.Addr{netip.MustParseAddr(a)}, Link: 8 + i})
	}
	var reports []string
	report := func(reason, message string) { reports = append(reports, reason+": "+message) }
	foreign := fakeForeign{}
	w := newForeignWatch(foreign, linked, report, slog.New(slog.DiscardHandler), prometheus.NewRegistry())
	for i, step := range []struct {
		programs []string
		pods     float64
		reports  int
	}{
		{nil, 0, 0},
		{[]string{"other (program 7)"}, 1, 1},
		{[]string{"other (program 7)"}, 1, 1},
		{[]string{"other (program 7)", "another (program 8)"}, 1, 2},
		{nil, 0, 2},
		{[]string{"other (program 7)"}, 1, 3},
	} {
		foreign[9] = step.programs
		w.look()
		if got := value(t, w.pods); got != step.pods || len(reports) != step.reports {
			t.Errorf("step %d: %v pods, reports %q", i, got, reports)
		}
	}
	want := "PodForeignPrograms: programs of others see packets of 1 pods before nearpath does, and can let them pass: other (program 7) at [10.0.0.9]"
	if reports[0] != want {
		t.Errorf("reported %q, want %q", reports[0], want)
	}
}
