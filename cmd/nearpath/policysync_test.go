package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/nearpath/nearpath/bpf"
	"github.com/nearpath/nearpath/cni"
	"github.com/nearpath/nearpath/internal/agentapi"
	"github.com/nearpath/nearpath/internal/cluster"
	"github.com/nearpath/nearpath/internal/policy"
)

// A fakePlanner plans one op for each plan, and remembers what it was told.
type fakePlanner struct {
	selects   map[string]bool
	isolating []policy.Ref
	refuse    error
	fail      error // of ops
	said      []string
	refused   map[policy.Ref]string
}

type fakeOp struct{ err error }

func (o fakeOp) String() string          { return "put" }
func (o fakeOp) Apply(policy.Maps) error { return o.err }

func (p *fakePlanner) say(format string, args ...any) {
	p.said = append(p.said, fmt.Sprintf(format, args...))
}

func (p *fakePlanner) Adopt(policy.Maps) error { p.say("adopt"); return nil }

func (p *fakePlanner) Local(pod policy.LocalPod, gone bool) {
	if gone {
		p.say("no number %d", pod.Number)
	} else {
		p.say("pod %s number %d", pod.Name, pod.Number)
	}
}

func (p *fakePlanner) Plan(c cluster.Change) ([]policy.Op, error) {
	if c.Snapshot == nil {
		p.say("plan")
	} else {
		p.say("plan full=%v", c.Full)
	}
	return []policy.Op{fakeOp{p.fail}}, p.refuse
}

func (p *fakePlanner) Prune() ([]policy.Op, error) {
	p.say("prune")
	return []policy.Op{fakeOp{p.fail}}, p.refuse
}

func (p *fakePlanner) Retry() { p.say("retry") }

func (p *fakePlanner) MaySelect(namespace string) bool { return p.selects[namespace] }

func (p *fakePlanner) Refused() map[policy.Ref]string { return p.refused }

func (p *fakePlanner) Isolating(uint16, policy.Direction) []policy.Ref { return p.isolating }

// fakeKernel is at generation 7.
type fakeKernel struct{}

func (fakeKernel) Generation() uint32 { return 7 }
func (fakeKernel) Counts(uint16) (in, out bpf.PolicyCounts, err error) {
	return bpf.PolicyCounts{Denied: 3}, bpf.PolicyCounts{Full: 2}, nil
}

func (fakeKernel) Sets(number uint16) bpf.PolicySets { return bpf.PolicySets{uint64(number), 0} }

func (fakeKernel) Class(addr netip.Addr) (uint64, error) { return uint64(addr.As4()[3]), nil }

func (fakeKernel) Verdict(key bpf.PolicyKey, _ uint32) (allowed, log bool, err error) {
	return key.Class == 9, false, nil
}

func (fakeKernel) Room() bpf.PolicyRoom { return bpf.PolicyRoom{Peers: 10} }
func (fakeKernel) Used() bpf.PolicyRoom { return bpf.PolicyRoom{Peers: 5} }

// take returns what the planner was told since the last call.
func (p *fakePlanner) take() string {
	said := strings.Join(p.said, "; ")
	p.said = nil
	return said
}

// A syncRig is a policySync between a Store and a fakePlanner.
type syncRig struct {
	*policySync
	planner  *fakePlanner
	store    *cluster.Store
	warnings []string
	attached []localPod
	names    peerNames
}

var rigPod = netip.MustParseAddr("10.8.0.5")

// startSync runs a policySync in the bubble of a test, over a Store that is synced.
func startSync(t *testing.T, change func(*syncRig)) *syncRig {
	t.Helper()
	r := &syncRig{store: cluster.NewStore(), planner: &fakePlanner{selects: map[string]bool{}}}
	change(r)
	sub := r.store.Subscribe()
	r.policySync = newPolicySync(policySyncConfig{
		Planner: r.planner, Names: r.names, Changes: sub, Attached: func() ([]localPod, error) { return r.attached, nil },
		Kernel: fakeKernel{}, Log: slog.New(slog.DiscardHandler),
		Warn:    func(reason, message string) { r.warnings = append(r.warnings, reason+": "+message) },
		Metrics: newPolicyMetrics(prometheus.NewRegistry()),
	})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- r.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		sub.Close()
	})
	r.store.Update(func(e *cluster.Edit) { e.PutNamespace("shop"); e.MarkSynced(); e.MarkPolicySynced() })
	synctest.Wait()
	return r
}

func (r *syncRig) isReady() bool {
	select {
	case <-r.Ready():
		return true
	default:
		return false
	}
}

func shopPod(name string) cni.PodRef { return cni.PodRef{Namespace: "shop", Name: name, UID: "u1"} }

// TestPolicySync: the first plan is a full one over what the maps hold and the pods that are there, and further ones follow what
// changes. What is not needed goes later.
func TestPolicySync(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := startSync(t, func(r *syncRig) {
			r.attached = []localPod{{Ref: shopPod("web"), Addrs: []netip.Addr{rigPod}, Number: 3}}
		})
		if !r.isReady() {
			t.Error("not ready after the first plan")
		}
		if got, want := r.planner.take(), "pod shop/web number 3; adopt; plan full=true"; got != want {
			t.Errorf("the first plan: %s, want %s", got, want)
		}
		time.Sleep(pruneAfter)
		synctest.Wait()
		r.store.Update(func(e *cluster.Edit) { e.PutNamespace("other") })
		synctest.Wait()
		if got, want := r.planner.take(), "prune; plan full=false"; got != want {
			t.Errorf("a change: %s, want %s", got, want)
		}
		if got := r.enforced[rigPod]; got != 7 {
			t.Errorf("the pod's generation is %d", got)
		}
	})
}

// TestPruneIsPutOff: while one change follows another nothing is taken away, as it holds up ADDs, but for once in a while.
func TestPruneIsPutOff(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := startSync(t, func(*syncRig) {})
		r.planner.take()
		const pause = pruneAfter - time.Second
		changes := int(pruneBy / pause)
		for n := range changes {
			time.Sleep(pause)
			r.store.Update(func(e *cluster.Edit) { e.PutNamespace(fmt.Sprint("other", n)) })
			synctest.Wait()
		}
		if got := r.planner.take(); strings.Contains(got, "prune") {
			t.Errorf("amid changes, after %s: %s", time.Duration(changes)*pause, got)
		}
		time.Sleep(pruneBy - time.Duration(changes)*pause)
		synctest.Wait()
		if got, want := r.planner.take(), "prune"; got != want {
			t.Errorf("after %s: %q, want %q", pruneBy, got, want)
		}
	})
}

// TestPolicyIsRefused: a Change that cannot be planned is told once and tried again; until there was a plan nothing is ready.
func TestPolicyIsRefused(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := startSync(t, func(r *syncRig) { r.planner.refuse = errors.New("too large") })
		time.Sleep(10 * firstPolicyRetry)
		synctest.Wait()
		if r.isReady() || len(r.warnings) != 1 || !strings.Contains(r.warnings[0], "too large") {
			t.Errorf("ready: %v, warnings: %q", r.isReady(), r.warnings)
		}
		if got := strings.Count(r.planner.take(), "plan"); got < 3 || got > 6 {
			t.Errorf("%d tries in ten seconds", got)
		}
		r.mu.Lock()
		r.planner.refuse = nil
		r.mu.Unlock()
		r.store.Update(func(e *cluster.Edit) { e.PutNamespace("other") })
		synctest.Wait()
		if got, want := r.planner.take(), "plan full=false"; got != want || !r.isReady() {
			t.Errorf("after the refusal: %s, want %s; ready %v", got, want, r.isReady())
		}
	})
}

// TestPolicyWithoutRoom: a policy that does not fit is told of once, the others count.
func TestPolicyWithoutRoom(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		large := map[policy.Ref]string{{Kind: "NetworkPolicy", Name: cluster.Name{Namespace: "shop", Name: "large"}}: "too many networks"}
		r := startSync(t, func(r *syncRig) { r.planner.refused = large })
		r.store.Update(func(e *cluster.Edit) { e.PutNamespace("other") })
		synctest.Wait()
		if !r.isReady() || len(r.warnings) != 1 || !strings.Contains(r.warnings[0], "NetworkPolicy shop/large") || !strings.Contains(r.warnings[0], "too many networks") {
			t.Errorf("ready %v, warnings %q", r.isReady(), r.warnings)
		}
		if got := value(t, r.cfg.Metrics.refused); got != 1 {
			t.Errorf("%v policies refused", got)
		}
	})
}

// TestRefusedPolicyIsTriedAgain: when what nobody needs is gone, once after each change.
func TestRefusedPolicyIsTriedAgain(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := startSync(t, func(r *syncRig) {
			r.planner.refused = map[policy.Ref]string{{Kind: "NetworkPolicy", Name: cluster.Name{Namespace: "shop", Name: "large"}}: "too many networks"}
		})
		r.planner.take()
		for n := range 2 {
			time.Sleep(4 * pruneAfter)
			synctest.Wait()
			if got, want := r.planner.take(), "prune; retry; plan; prune"; got != want {
				t.Errorf("change %d: %s, want %s", n, got, want)
			}
			r.store.Update(func(e *cluster.Edit) { e.PutNamespace(fmt.Sprint("other", n)) })
			synctest.Wait()
			if got, want := r.planner.take(), "plan full=false"; got != want {
				t.Errorf("change %d: %s, want %s", n, got, want)
			}
		}
	})
}

// TestPruneMakesRoom: what nobody needs is taken away under a plan that does not fit, too, and how often that is tried stays as it is.
func TestPruneMakesRoom(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := startSync(t, func(*syncRig) {})
		r.mu.Lock()
		r.planner.refuse = errors.New("too large")
		r.mu.Unlock()
		r.store.Update(func(e *cluster.Edit) { e.PutNamespace("other") })
		synctest.Wait()
		r.planner.take()
		time.Sleep(time.Minute)
		synctest.Wait()
		got := r.planner.take()
		if plans := strings.Count(got, "plan"); plans > 8 || strings.Count(got, "prune") != 1 {
			t.Errorf("%d plans in a minute: %.200s", plans, got)
		}
	})
}

// TestPolicyWriteFails: after a write that failed the maps are read again.
func TestPolicyWriteFails(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := startSync(t, func(r *syncRig) { r.planner.fail = errors.New("busy") })
		r.mu.Lock()
		r.planner.fail = nil
		r.planner.take()
		r.mu.Unlock()
		time.Sleep(firstPolicyRetry)
		synctest.Wait()
		if got, want := r.planner.take(), "adopt; plan"; got != want || !r.isReady() {
			t.Errorf("after the failure: %s, want %s; ready %v", got, want, r.isReady())
		}
	})
}

// TestGate: an ADD waits for the object of a pod that policies may select, for no other, and not for ever; the pod is planned
// for before the ADD returns, and its DEL is.
func TestGate(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := startSync(t, func(r *syncRig) { r.planner.selects["shop"] = true })
		began := time.Now()
		var refused *agentapi.CNIError
		if err := r.await(t.Context(), shopPod("web")); !errors.As(err, &refused) || refused.Code != tryAgainLater || !strings.Contains(err.Error(), "shop") {
			t.Errorf("a pod without an object: %v", err)
		}
		if took := time.Since(began); took != gatePatience {
			t.Errorf("waited %s", took)
		}
		for _, ref := range []cni.PodRef{{Namespace: "other", Name: "web"}, {}} {
			if err := r.await(t.Context(), ref); err != nil {
				t.Errorf("%+v: %v", ref, err)
			}
		}
		admitted := make(chan error, 1)
		go func() {
			admitted <- r.admit(t.Context(), localPod{Ref: shopPod("web"), Addrs: []netip.Addr{rigPod}, Number: 4}, false)
		}()
		synctest.Wait()
		r.planner.take()
		r.store.Update(func(e *cluster.Edit) {
			e.PutPolicyPod(&cluster.PolicyPod{Local: true, Name: cluster.Name{Namespace: "shop", Name: "web"}, UID: "u0"})
		})
		synctest.Wait()
		if len(admitted) > 0 {
			t.Error("the object of an earlier pod of that name counts")
		}
		r.store.Update(func(e *cluster.Edit) {
			e.PutPolicyPod(&cluster.PolicyPod{Local: true, Name: cluster.Name{Namespace: "shop", Name: "web"}, UID: "u1"})
		})
		if err := <-admitted; err != nil {
			t.Error(err)
		}
		if got, want := r.planner.take(), "plan full=false; plan full=false; pod shop/web number 4; plan"; got != want {
			t.Errorf("the ADD: %s, want %s", got, want)
		}
		r.dismiss([]netip.Addr{rigPod})
		if got, want := r.planner.take(), "no number 4; plan"; got != want {
			t.Errorf("the DEL: %s, want %s", got, want)
		}
	})
}

// TestGateWhenRefused: while policies cannot be enforced, pods that none is about come all the same, those that were there
// stay, and others are told to wait.
func TestGateWhenRefused(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := startSync(t, func(*syncRig) {})
		r.mu.Lock()
		r.planner.refuse = errors.New("too large")
		r.planner.selects["shop"] = true
		r.mu.Unlock()
		r.store.Update(func(e *cluster.Edit) {
			e.PutPolicyPod(&cluster.PolicyPod{Local: true, Name: cluster.Name{Namespace: "shop", Name: "web"}, UID: "u1"})
		})
		synctest.Wait()
		for _, tt := range []struct {
			ref  cni.PodRef
			kept bool
			want bool
		}{{shopPod("web"), false, false}, {shopPod("web"), true, true}, {cni.PodRef{Namespace: "other", Name: "web"}, false, true}} {
			err := r.admit(t.Context(), localPod{Ref: tt.ref, Addrs: []netip.Addr{rigPod}, Number: 4}, tt.kept)
			if (err == nil) != tt.want {
				t.Errorf("%+v, kept %v: %v", tt.ref, tt.kept, err)
			}
		}
	})
}

// TestGateBeforeTheFirstPlan: pods from before stay as they are, new ones do not come, and one that is deleted is not taken
// over.
func TestGateBeforeTheFirstPlan(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		attached := []localPod{
			{Ref: shopPod("web"), Addrs: []netip.Addr{rigPod}, Number: 3}, {Ref: shopPod("db"), Addrs: []netip.Addr{rigPod.Next()}, Number: 5},
		}
		s := newPolicySync(policySyncConfig{
			Planner: &fakePlanner{}, Attached: func() ([]localPod, error) { return attached, nil },
			Kernel: fakeKernel{}, Log: slog.New(slog.DiscardHandler), Metrics: newPolicyMetrics(prometheus.NewRegistry()),
		})
		if err := s.admit(t.Context(), attached[0], false); err == nil {
			t.Error("a new pod comes before policies are known")
		}
		if err := s.admit(t.Context(), attached[0], true); err != nil {
			t.Error(err)
		}
		s.dismiss(attached[1].Addrs)
		s.sync(cluster.Change{Snapshot: cluster.NewStore().Snapshot(), Full: true})
		if got := slices.Collect(maps.Keys(s.pods)); len(got) != 1 || got[0] != rigPod {
			t.Errorf("pods %v", got)
		}
	})
}

// fakeNames says to the planner's list what it is asked.
type fakeNames struct{ planner *fakePlanner }

func (n fakeNames) patterns(list []string) { n.planner.say("patterns %v", list) }

func (n fakeNames) changed() ([]string, uint64) { return []string{"a.example"}, 4 }

func (n fakeNames) applied(serial uint64) { n.planner.say("applied %d", serial) }

func (p *fakePlanner) Names(changed []string) { p.say("names %v", changed) }

// TestPolicyNamesAreFollowed: what is known of a policy's names counts from the first plan on, and who waits for an address goes
// on when the kernel has it, and not when it could not be written.
func TestPolicyNamesAreFollowed(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := startSync(t, func(r *syncRig) { r.names = fakeNames{r.planner} })
		r.planner.take()
		r.store.Update(func(e *cluster.Edit) {
			p := &cluster.ClusterNetworkPolicy{Meta: cluster.Meta{Name: cluster.Name{Name: "out"}}}
			p.Spec.Egress = []cluster.ClusterPolicyRule{{To: []cluster.ClusterPolicyPeer{{DomainNames: []string{"A.example.", "*.b.example"}}}}}
			e.PutClusterNetworkPolicy(p)
		})
		synctest.Wait()
		if got, want := r.planner.take(), "patterns [*.b.example a.example]; names [a.example]; plan full=false; applied 4"; got != want {
			t.Errorf("a policy with names: %s, want %s", got, want)
		}
		if err := r.refresh(t.Context()); err != nil {
			t.Error(err)
		}
		if got, want := r.planner.take(), "names [a.example]; plan; applied 4"; got != want {
			t.Errorf("names that lead elsewhere: %s, want %s", got, want)
		}
		r.mu.Lock()
		r.planner.refuse = errors.New("too large")
		r.mu.Unlock()
		if err := r.refresh(t.Context()); err == nil {
			t.Error("a refused plan is no error")
		}
		if got, want := r.planner.take(), "names [a.example]; plan"; got != want {
			t.Errorf("a refused plan: %s, want %s", got, want)
		}
	})
}
