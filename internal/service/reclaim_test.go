package service

import (
	"context"
	"log/slog"
	"slices"
	"sync"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
)

// reclaimMaps calls during in the middle of the first Reclaim.
type reclaimMaps struct {
	*fakeMaps
	during func()
	first  sync.Once
}

func (m *reclaimMaps) Reclaim() error {
	m.first.Do(func() { m.during() })
	return m.fakeMaps.Reclaim()
}

// TestReclaimOverlapsPlan: a record that is retired while the ones before it are waited for is not free with them, also when
// a plan that needed room has made those free itself.
func TestReclaimOverlapsPlan(t *testing.T) {
	t.Parallel()
	m := &reclaimMaps{fakeMaps: newFakeMaps()}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	r, err := New(Config{Maps: m, Log: slog.New(slog.DiscardHandler), Metrics: prometheus.NewRegistry()})
	if err != nil {
		t.Fatal(err)
	}
	r.table = newTable(8)
	r.table.next, r.table.retired = 4, []uint32{0, 1}
	m.during = func() {
		cancel() // reclaim ends after this
		r.mu.Lock()
		defer r.mu.Unlock()
		if err := m.fakeMaps.Reclaim(); err != nil {
			t.Error(err)
		}
		r.table.release(r.table.everRetired())
		r.table.retire(2)
		r.table.retire(3)
	}
	r.somethingUsed()
	r.reclaim(ctx)
	if !slices.Equal(r.table.free, []uint32{0, 1}) || !slices.Equal(r.table.retired, []uint32{2, 3}) {
		t.Errorf("free %v, retired %v: the last two may be in use", r.table.free, r.table.retired)
	}
}
