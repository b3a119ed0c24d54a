package policy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nearpath/nearpath/bench/mapsize"
	"github.com/nearpath/nearpath/bench/remote"
	"github.com/nearpath/nearpath/bench/site"
	"github.com/nearpath/nearpath/bpf"
	"github.com/nearpath/nearpath/internal/cluster"
	"github.com/nearpath/nearpath/internal/policy"
)

// What nearpath's process on its node does.
const (
	verbStart   = "start"
	verbLoad    = "load"
	verbForget  = "forget"
	verbChange  = "change"
	verbNothing = "nothing"
	verbMaps    = "maps"
)

// A start says whether the programs are those of an agent without policy.
type start struct {
	Off bool `json:"off,omitempty"`
}

// A pathSite asks nearpath's process on its node.
type pathSite struct{ process *remote.Process }

func (p pathSite) load(ctx context.Context, s scene) error {
	return p.process.Ask(ctx, verbLoad, s, nil)
}

func (p pathSite) forget(ctx context.Context) error {
	return p.process.Ask(ctx, verbForget, struct{}{}, nil)
}

// Where the datapath is at home on a node.
const (
	pinDir     = "/sys/fs/bpf"
	cgroupRoot = "/sys/fs/cgroup"
	// sitePins are those of the programs on the pod's link, largePins of a large cluster's policies, which no packet meets, and
	// freshPins of such ones from nothing.
	sitePins  = pinDir + "/nearpath"
	largePins = pinDir + "/large"
	freshPins = pinDir + "/fresh"
)

// serveNode is nearpath's part of a node: the agent's own planner on the real maps, fed with Snapshots as informers do.
func serveNode(in io.Reader, out io.Writer) error {
	n := &node{changed: map[string]int{}}
	err := remote.Serve(in, out, remote.Verbs{
		verbStart:   remote.Verb(func(s start) (any, error) { return nil, n.start(s) }),
		verbLoad:    remote.Verb(func(s scene) (any, error) { return nil, n.load(s) }),
		verbForget:  remote.Verb(func(struct{}) (any, error) { return nil, n.forget() }),
		verbChange:  remote.Verb(func(c change) (any, error) { return n.change(c) }),
		verbNothing: remote.Verb(func(struct{}) (any, error) { return fromNothing() }),
		verbMaps:    remote.Verb(func(struct{}) (any, error) { return n.maps() }),
	})
	return errors.Join(err, n.close())
}

type node struct {
	site    *bpf.Datapath
	large   *follower      // nil until it is needed
	changed map[string]int // how often, by kind
}

func (n *node) close() error {
	var errs []error
	if n.large != nil {
		errs = append(errs, n.large.close())
	}
	if n.site != nil {
		errs = append(errs, n.site.Close())
	}
	return errors.Join(errs...)
}

// start puts the programs on the pod's link.
func (n *node) start(s start) error {
	link, err := net.InterfaceByName(site.PodLink)
	if err != nil {
		return err
	}
	if n.site, err = bpf.Load(bpf.Config{PinDir: sitePins, CgroupRoot: cgroupRoot, PolicyOff: s.Off}); err != nil {
		return err
	}
	return errors.Join(
		n.site.SetNodeAddresses([]netip.Addr{site.ByPod, site.ByServer}),
		n.site.Pods.Put(bpf.Pod{Addrs: []netip.Addr{site.Pod}, Link: link.Index, Slot: 1}),
		n.site.AttachLink(bpf.PodLink, link.Index),
	)
}

// load enforces the policies of a scene and no others.
func (n *node) load(s scene) error {
	store := newStore()
	store.Update(s.put)
	var pods []policy.LocalPod
	for i, addr := range s.pods() {
		pods = append(pods, policy.LocalPod{Name: podName(i), Addrs: []netip.Addr{addr}})
	}
	for _, p := range pods[1:] {
		if err := n.site.Pods.Put(bpf.Pod{Addrs: p.Addrs}); err != nil {
			return err
		}
	}
	f := &follower{datapath: n.site, store: store}
	if err := f.begin(pods); err != nil {
		return err
	}
	defer f.changes.Close()
	return errors.Join(f.planner.Adopt(n.site.Policy), f.follow(), f.prune())
}

// forget lets the pod have its whole share of the table again. That packets were dropped before is an error: then something else
// was timed than what should be.
func (n *node) forget() error {
	number, err := n.site.Policy.Number(site.Pod)
	if err != nil {
		return err
	}
	in, out, err := n.site.Policy.Counts(number)
	if err != nil {
		return err
	}
	if bad := in.Denied + in.Unknown + in.Full + out.Denied + out.Unknown + out.Full; bad > 0 {
		return fmt.Errorf("%d packets of the pod were dropped: to the pod %+v, from it %+v", bad, in, out)
	}
	if err := n.site.Tracked.Forget([]netip.Addr{site.Pod}); err != nil {
		return err
	}
	now, err := bpf.Clock()
	if err != nil {
		return err
	}
	_, err = n.site.Tracked.Sweep(now)
	return err
}

func newStore() *cluster.Store {
	s := cluster.NewStore()
	s.Update(func(e *cluster.Edit) {
		e.MarkSynced()
		e.MarkPolicySynced()
	})
	return s
}

// A follower keeps the maps as a Store wants them, as the agent does.
type follower struct {
	datapath *bpf.Datapath
	store    *cluster.Store
	changes  *cluster.Subscription
	planner  *policy.Planner
}

// begin knows the node's pods, which the maps have.
func (f *follower) begin(pods []policy.LocalPod) error {
	f.changes = f.store.Subscribe()
	f.planner = policy.NewPlanner(policy.Config{Secret: f.datapath.Policy.Secret(), Room: f.datapath.Policy.Room()})
	for _, p := range pods {
		number, err := f.datapath.Policy.Number(p.Addrs[0])
		if err != nil {
			return err
		}
		p.Number = number
		f.planner.Local(p, false)
	}
	return nil
}

// follow brings the maps to the Store's newest Snapshot.
func (f *follower) follow() error {
	change, err := f.changes.Next(context.Background())
	if err != nil {
		return err
	}
	ops, err := f.planner.Plan(change)
	if err != nil {
		return err
	}
	if refused := f.planner.Refused(); len(refused) > 0 {
		return fmt.Errorf("there is no room for policies: %v", refused)
	}
	return f.apply(ops)
}

// prune takes away what the plans before have left.
func (f *follower) prune() error {
	ops, err := f.planner.Prune()
	if err != nil {
		return err
	}
	return f.apply(ops)
}

func (f *follower) apply(ops []policy.Op) error {
	for _, op := range ops {
		if err := op.Apply(f.datapath.Policy); err != nil {
			return fmt.Errorf("%s: %w", op, err)
		}
	}
	return nil
}

// newLarge has the maps, and a Store with the large cluster that nobody has followed yet.
func newLarge(pins string) (*follower, error) {
	d, err := bpf.Load(bpf.Config{PinDir: pins, CgroupRoot: cgroupRoot})
	if err != nil {
		return nil, err
	}
	f := &follower{datapath: d, store: newStore()}
	f.store.Update(putLarge)
	var pods []policy.LocalPod
	for i := range largeLocals {
		p := largePod(i, 0)
		if err := d.Pods.Put(bpf.Pod{Addrs: p.Addrs}); err != nil {
			return nil, errors.Join(err, d.Close())
		}
		pods = append(pods, policy.LocalPod{Name: p.Name, Addrs: p.Addrs})
	}
	if err := f.begin(pods); err != nil {
		return nil, errors.Join(err, d.Close())
	}
	return f, nil
}

func (f *follower) close() error {
	f.changes.Close()
	return f.datapath.Close()
}

// A fresh is what it took to enforce all of a large cluster's policies, in milliseconds: time that passed, and processor time.
type fresh struct {
	Wall float64 `json:"wall"`
	CPU  float64 `json:"cpu"`
}

// fromNothing begins with empty maps and the objects.
func fromNothing() (took fresh, err error) {
	f, err := newLarge(freshPins)
	if err != nil {
		return took, err
	}
	began, used := time.Now(), processTime()
	err = f.follow()
	took = fresh{Wall: millis(time.Since(began)), CPU: millis(processTime() - used)}
	return took, errors.Join(err, f.close(), os.RemoveAll(freshPins))
}

// processTime is the processor time of all threads of this process.
func processTime() time.Duration {
	var u unix.Rusage
	_ = unix.Getrusage(unix.RUSAGE_SELF, &u) // fails for others than itself only
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// whole returns the large cluster as it is enforced.
func (n *node) whole() (*follower, error) {
	if n.large != nil {
		return n.large, nil
	}
	f, err := newLarge(largePins)
	if err != nil {
		return nil, err
	}
	n.large = f
	return f, errors.Join(f.follow(), f.prune())
}

// A change is one of a kind, so many times.
type change struct {
	Kind  string `json:"kind"`
	Times int    `json:"times"`
}

// A changed is what each of them took until it was enforced, and clearing away what all left, in milliseconds.
type changed struct {
	Enforced []float64 `json:"enforced"`
	Pruned   float64   `json:"pruned"`
}

func (n *node) change(c change) (took changed, err error) {
	f, err := n.whole()
	if err != nil {
		return took, err
	}
	edit := edits[c.Kind]
	if edit == nil {
		return took, fmt.Errorf("no change is called %q", c.Kind)
	}
	for range c.Times {
		n.changed[c.Kind]++
		before := f.datapath.Policy.Generation()
		began := time.Now()
		f.store.Update(func(e *cluster.Edit) { edit(e, n.changed[c.Kind]) })
		if err := f.follow(); err != nil {
			return took, err
		}
		took.Enforced = append(took.Enforced, millis(time.Since(began)))
		if f.datapath.Policy.Generation() == before {
			return took, fmt.Errorf("%s: nothing has changed in the kernel", c.Kind)
		}
	}
	began := time.Now()
	err = f.prune()
	took.Pruned = millis(time.Since(began))
	return took, err
}

func millis(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

// policyMaps are those of policy. The first ones are allocated as they fill, the others at once.
var policyMaps = struct{ growing, fixed []string }{
	[]string{"policy_peers", "policy_cidrs", "policy_verdicts", "tracked"},
	[]string{"policy_pods", "policy_ports", "policy_state", "policy_shares", "policy_counts", "policy_events"},
}

// A mapBytes is kernel memory: of maps that grow, and of the others.
type mapBytes struct {
	Growing uint64 `json:"growing"`
	Fixed   uint64 `json:"fixed"`
}

func (n *node) maps() (all mapBytes, err error) {
	if _, err := n.whole(); err != nil {
		return all, err
	}
	for _, kind := range []struct {
		names []string
		to    *uint64
	}{{policyMaps.growing, &all.Growing}, {policyMaps.fixed, &all.Fixed}} {
		for _, name := range kind.names {
			bytes, err := mapsize.Bytes(largePins, name)
			if err != nil {
				return all, err
			}
			*kind.to += bytes
		}
	}
	return all, nil
}
