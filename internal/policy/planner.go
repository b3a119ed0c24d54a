package policy

import (
	"net/netip"
	"slices"

	"github.com/nearpath/nearpath/internal/cluster"
)

// A Config is what a Planner is made of.
type Config struct {
	Secret [16]byte // of the maps: the same as long as they are
	Room   Room
	// Listeners are the addresses of the node's DNS, none if the node serves none, and DNSService whom it stands for.
	Listeners  []netip.Addr
	DNSService cluster.Name
	// Domain returns the addresses of a name of a policy; nil for none ever.
	Domain func(name string) []netip.Addr
}

// A Planner makes plans from Changes of the cluster and from the pods of this node. It is not safe for concurrent use.
type Planner struct {
	config   Config
	compiler *Compiler
	world    world
	touched  Touched
	previous map[Ref]*Policy // versions that the last plan was made with, of policies that have changed since
	refused  map[Ref]string
}

// NewPlanner returns a Planner for empty maps: Adopt tells it what they hold. Before the first Plan all pods of the node should
// be known by Local.
func NewPlanner(config Config) *Planner {
	p := &Planner{config: config, compiler: NewCompiler(config.Secret, config.Room)}
	p.previous, p.refused = map[Ref]*Policy{}, map[Ref]string{}
	p.world = world{locals: map[uint16]*LocalPod{}, policies: map[Ref]*Policy{}, domain: config.Domain}
	p.touched.Full = true
	return p
}

// Local tells of a pod of this node, or of its end: then the number may be another's. It takes effect with the next Plan.
func (p *Planner) Local(pod LocalPod, gone bool) {
	if gone {
		delete(p.world.locals, pod.Number)
	} else {
		p.world.locals[pod.Number] = &pod
	}
	p.touched.Locals = append(p.touched.Locals, pod.Number)
}

// Names tells of domain names whose addresses have changed. It takes effect with the next Plan.
func (p *Planner) Names(changed []string) { p.touched.Domains = append(p.touched.Domains, changed...) }

// Plan returns the Ops to the state that is wanted after the change; the zero Change is none. All of them must be applied, or Adopt
// be called. Policies that there is no room for are left out: see Refused. If that is not enough the error is a [TooLargeError],
// and nothing is to be applied; the next plan will try again.
func (p *Planner) Plan(change cluster.Change) ([]Op, error) {
	if change.Snapshot != nil {
		p.follow(change)
	}
	if p.world.snapshot == nil {
		return nil, nil // nothing is known of the cluster yet
	}
	p.release()
	touched := p.touched
	p.touched = Touched{}
	p.compiler.Update(p.world.at(), touched)
	ops, err := p.compiler.Plan()
	if err != nil {
		ops, err = p.shrink(touched, err)
	}
	if err == nil {
		clear(p.previous)
	}
	return ops, err
}

// Prune returns the Ops that take away what the plan left; see [Compiler.Prune].
func (p *Planner) Prune() ([]Op, error) {
	if p.world.snapshot == nil {
		return nil, nil
	}
	return p.compiler.Prune()
}

// Adopt begins with what the maps hold, as after a start or a write that failed. The next Plan looks at everything.
func (p *Planner) Adopt(m Maps) error {
	contents, err := m.Contents()
	if err == nil {
		p.compiler.Adopt(contents)
	}
	return err
}

// MaySelect reports whether some policy may be about a pod of the namespace, which therefore must be known to the API before it
// can be given its sets.
func (p *Planner) MaySelect(namespace string) bool { return p.compiler.MaySelect(namespace) }

// Isolating returns the policies that apply to the direction of a pod of this node, in the order in which they are asked.
func (p *Planner) Isolating(number uint16, d Direction) []Ref {
	return p.compiler.Isolating(number, d)
}

// Domains returns all names that policies have, sorted.
func (p *Planner) Domains() (names []string) {
	for _, policy := range p.world.policies {
		for _, rules := range policy.Rules {
			for i := range rules {
				for j := range rules[i].Peers {
					names = append(names, rules[i].Peers[j].Domains...)
				}
			}
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// follow translates what has changed, and says what that touches.
func (p *Planner) follow(change cluster.Change) {
	w, t := &p.world, &p.touched
	full := change.Full || w.snapshot == nil
	w.snapshot = change.Snapshot
	w.watch()
	if full {
		p.followAll()
		return
	}
	t.Pods = append(t.Pods, change.PolicyPods...)
	t.Namespaces = append(t.Namespaces, change.Namespaces...)
	t.Nodes = t.Nodes || len(change.PolicyNodes) > 0
	for _, name := range change.NetworkPolicies {
		p.put(Ref{kindNetworkPolicy, name})
	}
	for _, name := range change.ClusterNetworkPolicies {
		p.put(Ref{kindClusterNetworkPolicy, cluster.Name{Name: name}})
	}
	for _, name := range change.CalicoPolicies {
		p.put(calicoRef(name))
	}
	if len(change.CalicoNetworkSets) > 0 || len(change.Namespaces) > 0 {
		for in := range w.snapshot.CalicoPolicies() {
			p.put(calicoRef(in.Name))
		}
	}
	if len(change.CalicoTiers) > 0 || len(change.CalicoPolicies) > 0 {
		t.Tiers = w.retier() || t.Tiers
	}
	if slices.Contains(change.Services, p.config.DNSService) {
		t.Listeners = w.relisten(&p.config) || t.Listeners
	}
}

func (p *Planner) followAll() {
	w := &p.world
	p.touched = Touched{Full: true, Locals: p.touched.Locals}
	old := w.policies
	w.policies = map[Ref]*Policy{}
	for _, in := range w.translateAll() {
		w.policies[in.Ref] = in
	}
	clear(p.refused)
	for ref, policy := range old {
		p.remember(ref, policy)
		p.hold(ref, policy)
	}
	w.retier()
	w.relisten(&p.config)
}

func (p *Planner) put(ref Ref) {
	old, now := p.world.policies[ref], p.world.translate(ref)
	p.remember(ref, old)
	delete(p.refused, ref)
	if now != nil {
		p.world.policies[ref] = now
	} else {
		delete(p.world.policies, ref)
		p.hold(ref, old)
	}
	p.touched.Policies = append(p.touched.Policies, ref)
}

// remember keeps the version that is in force, should there be no room for the next.
func (p *Planner) remember(ref Ref, policy *Policy) {
	if _, ok := p.previous[ref]; !ok && policy != nil {
		p.previous[ref] = policy
	}
}

// hold keeps a policy that went with its namespace, as long as pods of it run here: the end of a namespace must not
// open them, whichever goes first.
func (p *Planner) hold(ref Ref, policy *Policy) {
	if policy == nil || p.world.policies[ref] != nil || !p.world.leaving(ref.Name.Namespace) {
		return
	}
	p.world.policies[ref] = policy
	if p.world.held == nil {
		p.world.held = map[Ref]struct{}{}
	}
	p.world.held[ref] = struct{}{}
}

// release lets held policies go that are about no pod any more, or whose namespace is there again.
func (p *Planner) release() {
	for ref := range p.world.held {
		if p.world.leaving(ref.Name.Namespace) && p.world.translate(ref) == nil {
			continue
		}
		delete(p.world.held, ref)
		if p.world.translate(ref) == nil {
			delete(p.world.policies, ref)
		}
		p.touched.Policies = append(p.touched.Policies, ref)
	}
}
