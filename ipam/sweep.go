package ipam

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/nearpath/nearpath/internal/aliyun"
)

const (
	sweepEvery  = time.Hour // per node, begun at a random moment: the account's calls grow with the cluster
	orphanAfter = 10 * time.Minute
)

// A SweepCloud is the part of the ECS API that a Sweeper uses.
type SweepCloud interface {
	DescribeENIs(ctx context.Context, filter aliyun.ENIFilter) ([]aliyun.ENI, error)
	DescribeInstance(ctx context.Context, id string) (aliyun.Instance, error)
	DeleteENI(ctx context.Context, eniID string) error
}

// SweeperConfig configures a Sweeper.
type SweeperConfig struct {
	Cloud SweepCloud
	// Owner is the value of the tag "nearpath" that the cluster's ENIs share; InstanceID is this node's, whose own ENIs are
	// its pool's affair.
	Owner, InstanceID string
	// Nodes lists the instances that the cluster has nodes for. It is asked only when an ENI looks orphaned.
	Nodes func(context.Context) (map[string]bool, error)
	Log   *slog.Logger
}

// A Sweeper deletes ENIs that nodes which are gone have left behind, a Task: ENIs with the cluster's tag that are attached
// to nothing, are older than ten minutes, and were made for an instance that neither the cloud nor the cluster knows any
// more. Both are asked twice, at least 30 seconds apart; when one of them does not answer nothing is deleted. An attached
// ENI ends with its instance and never gets here.
type Sweeper struct {
	config SweeperConfig
	ready  chan struct{}
	since  map[string]time.Time // when an ENI first looked orphaned
}

// NewSweeper returns a Sweeper that has not started.
func NewSweeper(c SweeperConfig) (*Sweeper, error) {
	if c.Owner == "" || c.InstanceID == "" || c.Nodes == nil {
		return nil, errors.New("sweep for orphaned ENIs: the owner, the instance or the list of nodes is missing")
	}
	return &Sweeper{config: c, ready: make(chan struct{}), since: map[string]time.Time{}}, nil
}

// Ready is closed at once: nothing waits for a sweep.
func (s *Sweeper) Ready() <-chan struct{} { return s.ready }

func (s *Sweeper) String() string { return "sweeper of orphaned ENIs" }

// Run sweeps until the context ends.
func (s *Sweeper) Run(ctx context.Context) error {
	close(s.ready)
	pause := rand.N(sweepEvery)
	for {
		timer := time.NewTimer(pause)
		select {
		case <-ctx.Done():
			timer.Stop()
			return nil
		case <-timer.C:
		}
		suspects, err := s.Sweep(ctx, time.Now())
		if err != nil && ctx.Err() == nil {
			s.config.Log.Warn("sweep for orphaned ENIs failed", "err", err)
		}
		if pause = sweepEvery; suspects > 0 {
			pause = secondLook
		}
	}
}

// Sweep looks once, deletes what looked orphaned before, and returns how many ENIs wait for a second look. It is not safe
// for concurrent use, Run included.
func (s *Sweeper) Sweep(ctx context.Context, now time.Time) (suspects int, err error) {
	enis, err := s.config.Cloud.DescribeENIs(ctx, aliyun.ENIFilter{Tags: map[string]string{tagOwner: s.config.Owner}})
	if err != nil {
		return len(s.since), fmt.Errorf("list the cluster's ENIs: %w", err)
	}
	found, err := s.orphans(ctx, enis, now)
	if err != nil {
		return len(s.since), err
	}
	seen := map[string]time.Time{}
	for _, e := range found {
		first, again := s.since[e.ID]
		switch {
		case !again:
			seen[e.ID] = now
		case now.Sub(first) < secondLook:
			seen[e.ID] = first
		default:
			err = errors.Join(err, s.remove(ctx, e))
		}
	}
	s.since = seen
	return len(seen), err
}

// orphans keeps the candidates whose instance nobody knows.
func (s *Sweeper) orphans(ctx context.Context, enis []aliyun.ENI, now time.Time) ([]aliyun.ENI, error) {
	found := slices.DeleteFunc(slices.Clone(enis), func(e aliyun.ENI) bool { return !s.abandoned(e, now) })
	if len(found) == 0 {
		return nil, nil
	}
	nodes, err := s.config.Nodes(ctx)
	if err != nil {
		return nil, fmt.Errorf("list the cluster's nodes: %w", err)
	}
	if !nodes[s.config.InstanceID] {
		return nil, fmt.Errorf("list the cluster's nodes: this node, %s, is not among the %d: the list is not believed", s.config.InstanceID, len(nodes))
	}
	gone := map[string]bool{}
	for _, e := range found {
		id := e.Tags[tagInstance]
		if _, asked := gone[id]; asked || nodes[id] {
			continue
		}
		_, err := s.config.Cloud.DescribeInstance(ctx, id)
		if err != nil && !errors.Is(err, aliyun.ErrNotFound) {
			return nil, fmt.Errorf("ask for instance %s: %w", id, err)
		}
		gone[id] = err != nil
	}
	return slices.DeleteFunc(found, func(e aliyun.ENI) bool { return !gone[e.Tags[tagInstance]] }), nil
}

// abandoned says that the ENI is attached to nothing and was made for another instance, long enough ago.
func (s *Sweeper) abandoned(e aliyun.ENI, now time.Time) bool {
	instance := e.Tags[tagInstance]
	return e.Type == aliyun.TypeSecondary && e.Tags[tagOwner] == s.config.Owner && e.Status == aliyun.StatusAvailable && e.InstanceID == "" &&
		instance != "" && instance != s.config.InstanceID && !e.Created.IsZero() && now.Sub(e.Created) >= orphanAfter
}

// remove reads the ENI once more, because others sweep too and a listing may be old.
func (s *Sweeper) remove(ctx context.Context, e aliyun.ENI) error {
	now, err := s.config.Cloud.DescribeENIs(ctx, aliyun.ENIFilter{IDs: []string{e.ID}})
	if err != nil {
		return fmt.Errorf("look at %s: %w", e.ID, err)
	}
	if len(now) != 1 || now[0].Status != aliyun.StatusAvailable || now[0].InstanceID != "" {
		return nil
	}
	s.config.Log.Warn("ENI of a node that is gone, deleting it", "eni", e.ID, "instance", e.Tags[tagInstance])
	if err := s.config.Cloud.DeleteENI(ctx, e.ID); err != nil {
		return fmt.Errorf("delete %s: %w", e.ID, err)
	}
	return nil
}
