package ipam

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"testing"
	"time"

	"github.com/nearpath/nearpath/internal/aliyun"
)

// sweepWorld is a cloud with ENIs, and a cluster with nodes.
type sweepWorld struct {
	enis       map[string]aliyun.ENI
	instances  map[string]bool
	nodes      map[string]bool
	cloudErr   error
	clusterErr error
	deleted    []string
}

func (w *sweepWorld) DescribeENIs(_ context.Context, f aliyun.ENIFilter) (list []aliyun.ENI, err error) {
	for _, e := range w.enis {
		if len(f.IDs) == 0 || slices.Contains(f.IDs, e.ID) {
			list = append(list, e)
		}
	}
	return list, w.cloudErr
}

func (w *sweepWorld) DescribeInstance(_ context.Context, id string) (aliyun.Instance, error) {
	if w.instances[id] {
		return aliyun.Instance{ID: id}, nil
	}
	return aliyun.Instance{}, aliyun.ErrNotFound
}

func (w *sweepWorld) DeleteENI(_ context.Context, id string) error {
	w.deleted = append(w.deleted, id)
	delete(w.enis, id)
	return nil
}

func newSweepWorld(t *testing.T) (*sweepWorld, *Sweeper, time.Time) {
	t.Helper()
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	w := &sweepWorld{enis: map[string]aliyun.ENI{}, instances: map[string]bool{"i-me": true, "i-live": true}, nodes: map[string]bool{"i-me": true, "i-node": true}}
	for id, edit := range map[string]func(*aliyun.ENI){
		"eni-orphan":    func(*aliyun.ENI) {},
		"eni-attached":  func(e *aliyun.ENI) { e.Status, e.InstanceID = aliyun.StatusInUse, "i-x" },
		"eni-attaching": func(e *aliyun.ENI) { e.Status = aliyun.StatusAttaching },
		"eni-young":     func(e *aliyun.ENI) { e.Created = now.Add(-orphanAfter + time.Second) },
		"eni-mine":      func(e *aliyun.ENI) { e.Tags[tagInstance] = "i-me" },
		"eni-live":      func(e *aliyun.ENI) { e.Tags[tagInstance] = "i-live" }, // the cloud knows the instance
		"eni-node":      func(e *aliyun.ENI) { e.Tags[tagInstance] = "i-node" }, // the cluster knows the node
		"eni-untagged":  func(e *aliyun.ENI) { delete(e.Tags, tagInstance) },
		"eni-foreign":   func(e *aliyun.ENI) { e.Tags[tagOwner] = "other" },
		"eni-primary":   func(e *aliyun.ENI) { e.Type = aliyun.TypePrimary },
	} {
		e := aliyun.ENI{
			ID: id, Type: aliyun.TypeSecondary, Status: aliyun.StatusAvailable, Created: now.Add(-time.Hour),
			Tags: map[string]string{tagOwner: "cluster-1", tagInstance: "i-gone"},
		}
		edit(&e)
		w.enis[id] = e
	}
	s, err := NewSweeper(SweeperConfig{
		Cloud: w, Owner: "cluster-1", InstanceID: "i-me", Log: slog.New(slog.DiscardHandler),
		Nodes: func(context.Context) (map[string]bool, error) { return w.nodes, w.clusterErr },
	})
	if err != nil {
		t.Fatal(err)
	}
	return w, s, now
}

// sweep fails the test unless it deletes exactly want.
func (w *sweepWorld) sweep(t *testing.T, s *Sweeper, now time.Time, want ...string) {
	t.Helper()
	w.deleted = nil
	if _, err := s.Sweep(t.Context(), now); err != nil {
		t.Fatal(err)
	}
	slices.Sort(w.deleted)
	if !slices.Equal(w.deleted, want) {
		t.Errorf("deleted %v, want %v", w.deleted, want)
	}
}

func TestSweepDeletesOnlyOrphansAndOnlyOnASecondLook(t *testing.T) {
	t.Parallel()
	w, s, now := newSweepWorld(t)
	w.sweep(t, s, now)
	w.sweep(t, s, now.Add(secondLook-time.Second))
	w.sweep(t, s, now.Add(secondLook), "eni-orphan")
	delete(w.enis, "eni-young")
	w.sweep(t, s, now.Add(2*secondLook))
	if len(w.enis) != 8 {
		t.Errorf("%d ENIs are left, want the 8 that are no orphans", len(w.enis))
	}
}

// TestSweepBelievesNoSilence: what does not answer, or leaves out this very node, proves nothing.
func TestSweepBelievesNoSilence(t *testing.T) {
	t.Parallel()
	w, s, now := newSweepWorld(t)
	w.sweep(t, s, now)
	later := now.Add(2 * secondLook)
	for name, breakIt := range map[string]func(){
		"cloud":            func() { w.cloudErr = errors.New("down") },
		"cluster":          func() { w.clusterErr = errors.New("down") },
		"list without me":  func() { w.nodes = map[string]bool{"i-node": true} },
		"empty node lists": func() { w.nodes = nil },
	} {
		breakIt()
		if _, err := s.Sweep(t.Context(), later); err == nil || len(w.deleted) != 0 {
			t.Errorf("%s: swept with %v, deleted %v", name, err, w.deleted)
		}
		w.cloudErr, w.clusterErr, w.nodes = nil, nil, map[string]bool{"i-me": true, "i-node": true}
	}
	// The instance is back, and gone again: the looks start anew.
	w.instances["i-gone"] = true
	w.sweep(t, s, later)
	delete(w.instances, "i-gone")
	w.sweep(t, s, later.Add(time.Second))
	w.sweep(t, s, later.Add(time.Second+secondLook), "eni-orphan", "eni-young")
}

// TestSweepReadsAgain: an ENI that was attached after the listing stays.
func TestSweepReadsAgain(t *testing.T) {
	t.Parallel()
	w, s, _ := newSweepWorld(t)
	e := w.enis["eni-orphan"]
	attached := e
	attached.Status, attached.InstanceID = aliyun.StatusInUse, "i-live"
	w.enis = map[string]aliyun.ENI{e.ID: attached}
	if err := s.remove(t.Context(), e); err != nil || len(w.deleted) != 0 {
		t.Errorf("deleted %v (%v)", w.deleted, err)
	}
	w.enis = map[string]aliyun.ENI{e.ID: e}
	if err := s.remove(t.Context(), e); err != nil || !slices.Equal(w.deleted, []string{e.ID}) {
		t.Errorf("deleted %v (%v)", w.deleted, err)
	}
}
