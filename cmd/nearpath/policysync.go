package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/nearpath/nearpath/bpf"
	"github.com/nearpath/nearpath/internal/cluster"
	"github.com/nearpath/nearpath/internal/policy"
)

// What could not be written is tried again after firstPolicyRetry, then at intervals that double up to lastPolicyRetry. Any
// change is a try, too.
const (
	firstPolicyRetry = time.Second
	lastPolicyRetry  = time.Minute
	// pruneAfter is how long what nothing points to any more stays after the last plan, and pruneBy after the first one that left
	// something. Taking it away waits for the kernel's grace periods, and pods that come meanwhile wait, too: where one comes
	// after another it is not to be often.
	pruneAfter = 5 * time.Second
	pruneBy    = 30 * time.Second
)

// policyPlanner knows what the maps should hold; *policy.Planner does. It is not safe for concurrent use.
type policyPlanner interface {
	Local(pod policy.LocalPod, gone bool)
	Names(changed []string)
	Adopt(policy.Maps) error
	Plan(cluster.Change) ([]policy.Op, error)
	Prune() ([]policy.Op, error)
	Retry()
	MaySelect(namespace string) bool
	Isolating(number uint16, d policy.Direction) []policy.Ref
	// Refused are policies that there is no room for, and why.
	Refused() map[policy.Ref]string
}

// peerNames follows names of policies; *policyNames does.
type peerNames interface {
	// patterns is told all names that policies have.
	patterns([]string)
	// changed returns those that lead elsewhere than at the last call, and what to call applied with once the kernel knows.
	changed() ([]string, uint64)
	applied(uint64)
}

// policyKernel is what the kernel tells of policies; *bpf.Policy does.
type policyKernel interface {
	Generation() uint32
	Counts(number uint16) (ingress, egress bpf.PolicyCounts, err error)
	Sets(number uint16) bpf.PolicySets
	Class(addr netip.Addr) (uint64, error)
	Verdict(key bpf.PolicyKey, point uint32) (allowed, log bool, err error)
	Used() bpf.PolicyRoom
	Room() bpf.PolicyRoom
}

// policySync is a Task that keeps the kernel's policies as the newest Snapshot and the attached pods want them. What cannot be
// written stays as it was, is told, and tried again. Its methods are safe for concurrent use.
type policySync struct {
	cfg   policySyncConfig
	ready chan struct{}
	// settled is closed when the first Snapshot is enforced or has been waited for.
	settled onceClosed

	mu       sync.Mutex            // guards the rest, and orders changes of the maps
	snapshot *cluster.Snapshot     // the last that was planned for; nil: none
	moved    chan struct{}         // closed with the next Snapshot
	doubt    bool                  // the maps may not be as the planner believes
	failure  error                 // why the maps are not as the Snapshot wants them
	retry    time.Duration         // until the next try, 0: none is due
	prune    time.Time             // when something can be taken away; zero: nothing can
	pruneBy  time.Time             // the latest that this may become, zero with it
	poke     func()                // wakes Run; nil: it is not waiting
	refused  map[policy.Ref]string // for want of room, as of the last plan
	retried  bool                  // these were tried again since anything has changed
	pods     map[netip.Addr]localPod
	enforced map[netip.Addr]uint32 // the generation since which each pod is as it should be
	// gone are pods that were dismissed before those from before this agent were looked for; nil: they have been.
	gone map[netip.Addr]bool
}

type policySyncConfig struct {
	Planner policyPlanner
	Maps    policy.Maps
	// Changes follow all that policies depend on.
	Changes interface {
		Next(context.Context) (cluster.Change, error)
	}
	// Attached are the pods that are there already at the start.
	Attached func() ([]localPod, error)
	Kernel   policyKernel
	// Unread says what of it cannot be read at the moment. Optional.
	Unread func() error
	// Names are what names lead to that policies have as peers. Optional.
	Names peerNames
	// Warn tells the node's users, once per message, what is not enforced.
	Warn    func(reason, message string)
	Log     *slog.Logger
	Metrics *policyMetrics
}

func newPolicySync(c policySyncConfig) *policySync {
	return &policySync{
		cfg: c, ready: make(chan struct{}), settled: onceClosed{done: make(chan struct{})}, moved: make(chan struct{}), doubt: true,
		pods: map[netip.Addr]localPod{}, enforced: map[netip.Addr]uint32{}, gone: map[netip.Addr]bool{},
	}
}

func (s *policySync) String() string { return "network policy" }

// Ready is closed when the first Snapshot is enforced.
func (s *policySync) Ready() <-chan struct{} { return s.ready }

// settleAfter is how long what need not wait for policies waits for them.
const settleAfter = 10 * time.Second

func (s *policySync) Run(ctx context.Context) error {
	defer context.AfterFunc(ctx, s.settled.close)()
	defer time.AfterFunc(settleAfter, s.settled.close).Stop()
	for {
		change, err := s.next(ctx)
		switch {
		case ctx.Err() != nil:
			return nil
		case err != nil: // nothing has changed, but something is due
			s.again()
		default:
			s.sync(change)
		}
	}
}

// errDue ends a wait for Changes.
var errDue = errors.New("something is due")

// next waits for a Change, or until something else is to be done.
func (s *policySync) next(ctx context.Context) (cluster.Change, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	s.mu.Lock()
	wait := s.retry
	if !s.prune.IsZero() && !s.doubt {
		if left := max(time.Until(s.prune), time.Millisecond); wait == 0 || left < wait {
			wait = left
		}
	}
	s.poke = func() { cancel(errDue) }
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		s.poke = nil
		s.mu.Unlock()
	}()
	if wait > 0 {
		defer time.AfterFunc(wait, func() { cancel(errDue) }).Stop()
	}
	return s.cfg.Changes.Next(ctx)
}

// again tries what failed, and takes away what can be.
func (s *policySync) again() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.failure != nil {
		s.change(cluster.Change{}, time.Time{})
	}
	if s.doubt || s.prune.IsZero() || time.Now().Before(s.prune) {
		return
	}
	s.prune, s.pruneBy = time.Time{}, time.Time{}
	// What is taken away counts with an error, too: it may be the room that was missing.
	ops, err := s.cfg.Planner.Prune()
	if err = errors.Join(err, s.apply(ops)); err != nil {
		s.settle(err)
		return
	}
	if s.failure != nil || len(s.refused) > 0 && !s.retried {
		s.cfg.Planner.Retry()
		s.change(cluster.Change{}, time.Time{})
		s.retried = true
	}
}

// refresh plans for names that lead elsewhere.
func (s *policySync) refresh(context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.change(cluster.Change{}, time.Time{})
	return s.failure
}

func (s *policySync) sync(change cluster.Change) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.snapshot = change.Snapshot
	// First: what is known of the names from before is not to be missed by the plan.
	if s.cfg.Names != nil && (change.Full || len(change.ClusterNetworkPolicies) > 0) {
		s.cfg.Names.patterns(domainsOf(change.Snapshot))
	}
	s.change(change, change.Snapshot.Changed())
	close(s.moved)
	s.moved = make(chan struct{})
}

// domainsOf are all names that policies have as peers.
func domainsOf(snapshot *cluster.Snapshot) (names []string) {
	for p := range snapshot.ClusterNetworkPolicies() {
		for _, rule := range p.Spec.Egress {
			for _, peer := range rule.To {
				for _, name := range peer.DomainNames {
					names = append(names, policy.FoldName(name))
				}
			}
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// change brings the maps to a Change that was heard of at a time, and to the pods; nothing before the first Snapshot. The
// caller holds mu.
func (s *policySync) change(change cluster.Change, heard time.Time) {
	if s.snapshot == nil {
		return
	}
	s.retried = false
	began := time.Now()
	err := s.adopt()
	if err == nil {
		err = s.plan(change)
	}
	s.settle(err)
	s.cfg.Metrics.synced(began, heard, err)
	if err == nil {
		s.markReady()
	}
	s.wake()
}

// adopt learns what the maps hold where that is in doubt. The caller holds mu.
func (s *policySync) adopt() error {
	if !s.doubt {
		return nil
	}
	if err := s.findPods(); err != nil {
		return fmt.Errorf("learn which pods are attached: %w", err)
	}
	if err := s.cfg.Planner.Adopt(s.cfg.Maps); err != nil {
		return fmt.Errorf("read the maps of policies: %w", err)
	}
	s.doubt = false
	return nil
}

// findPods takes over, once, the pods from before this agent. The caller holds mu.
func (s *policySync) findPods() error {
	if s.gone == nil {
		return nil
	}
	attached, err := s.cfg.Attached()
	if err != nil {
		return err
	}
	for _, p := range attached {
		if _, known := s.pods[p.key()]; !known && !s.gone[p.key()] {
			s.setPod(p)
		}
	}
	s.gone = nil
	return nil
}

// setPod has the planner know a pod. One that comes again may have another number. The caller holds mu.
func (s *policySync) setPod(p localPod) {
	if old, known := s.pods[p.key()]; known && old.Number != p.Number {
		s.removePod(old)
	}
	s.pods[p.key()] = p
	delete(s.gone, p.key())
	s.cfg.Planner.Local(policy.LocalPod{Number: p.Number, Name: p.name(), UID: p.Ref.UID, Addrs: p.Addrs}, false)
}

// removePod has it forget a pod, unless another has its number by now. The caller holds mu.
func (s *policySync) removePod(p localPod) {
	delete(s.pods, p.key())
	delete(s.enforced, p.key())
	for _, other := range s.pods {
		if other.Number == p.Number {
			return
		}
	}
	s.cfg.Planner.Local(policy.LocalPod{Number: p.Number}, true)
}

// plan plans and applies. The caller holds mu.
func (s *policySync) plan(change cluster.Change) error {
	var serial uint64
	if s.cfg.Names != nil {
		var changed []string
		changed, serial = s.cfg.Names.changed()
		s.cfg.Planner.Names(changed)
	}
	ops, err := s.cfg.Planner.Plan(change)
	if err != nil {
		return err
	}
	if err := s.apply(ops); err != nil {
		return err
	}
	if s.cfg.Names != nil {
		s.cfg.Names.applied(serial)
	}
	s.alarm()
	now := time.Now()
	if s.pruneBy.IsZero() {
		s.pruneBy = now.Add(pruneBy)
	}
	if s.prune = now.Add(pruneAfter); s.prune.After(s.pruneBy) {
		s.prune = s.pruneBy
	}
	for key := range s.pods {
		s.enforced[key] = s.cfg.Kernel.Generation()
	}
	return nil
}

// alarm tells of policies that there is no room for, once of each. The caller holds mu.
func (s *policySync) alarm() {
	refused := s.cfg.Planner.Refused()
	for ref, reason := range refused {
		if _, told := s.refused[ref]; !told {
			message := fmt.Sprintf("%s is not enforced as it is: %s", ref, reason)
			s.cfg.Log.Error(message)
			s.cfg.Warn("NetworkPolicyRefused", message)
		}
	}
	s.refused = refused
	s.cfg.Metrics.refused.Set(float64(len(refused)))
}

// apply changes the maps. After a failure they are somewhere on the way. The caller holds mu.
func (s *policySync) apply(ops []policy.Op) error {
	debug := s.cfg.Log.Enabled(context.Background(), slog.LevelDebug)
	for _, op := range ops {
		if debug {
			s.cfg.Log.Debug("apply", "op", op)
		}
		if err := op.Apply(s.cfg.Maps); err != nil {
			s.doubt = true
			return fmt.Errorf("%s: %w", op, err)
		}
	}
	return nil
}

// settle draws the consequences of a try. The caller holds mu.
func (s *policySync) settle(err error) {
	if err == nil {
		s.failure, s.retry = nil, 0
		return
	}
	if s.failure == nil || s.failure.Error() != err.Error() {
		s.cfg.Log.Error("policies are not enforced as they are now; what was enforced before stays", "err", err)
		s.cfg.Warn("NetworkPolicyNotEnforced", "policies are not enforced as they are now, what was enforced before stays: "+err.Error())
	}
	s.failure = err
	s.retry = min(max(2*s.retry, firstPolicyRetry), lastPolicyRetry)
}

func (s *policySync) markReady() {
	select {
	case <-s.ready:
	default:
		close(s.ready)
		s.settled.close()
	}
}

// onceClosed is a channel that any number may close.
type onceClosed struct {
	once sync.Once
	done chan struct{}
}

func (c *onceClosed) close() { c.once.Do(func() { close(c.done) }) }

// wake has Run look at what is due. The caller holds mu.
func (s *policySync) wake() {
	if s.poke != nil {
		s.poke()
	}
}
