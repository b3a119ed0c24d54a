package externaldns

import (
	"iter"
	"maps"
	"slices"
	"strings"
	"sync"

	"github.com/nearpath/nearpath/internal/cluster"
)

// Wants are the records that the objects of a cluster ask for. They follow its changes: what a change costs depends on the
// objects it touches and on those that share names with them, and the result is what all objects read anew would give.
//
// Apply has one caller; the other methods may be called by any goroutine at any time.
type Wants struct {
	rules *wantRules

	mu         sync.RWMutex                     // guards what follows
	objects    map[wantKey]*asked               // those that ask for something, look at others, or are at fault
	names      map[string]*wantName             // those with claims
	dependents map[wantKey]map[wantKey]struct{} // who has looked at an object
}

var _ Desired = (*Wants)(nil)

// NewWants returns Wants without any object. The error names every fault of the rules.
func NewWants(r Rules) (*Wants, error) {
	rules, err := r.compile()
	if err != nil {
		return nil, err
	}
	return &Wants{
		rules: rules, objects: make(map[wantKey]*asked), names: make(map[string]*wantName),
		dependents: make(map[wantKey]map[wantKey]struct{}),
	}, nil
}

// For returns the Wants of one name, sorted by type and value. The caller must not change them.
func (w *Wants) For(name string) []Want {
	w.mu.RLock()
	defer w.mu.RUnlock()
	if n := w.names[name]; n != nil {
		return n.wants
	}
	return nil
}

// All yields every name with its Wants, sorted by name. Changes meanwhile may be seen or not.
func (w *Wants) All() iter.Seq2[string, []Want] {
	return func(yield func(string, []Want) bool) {
		w.mu.RLock()
		names := slices.Sorted(maps.Keys(w.names))
		w.mu.RUnlock()
		for _, name := range names {
			if wants := w.For(name); len(wants) > 0 && !yield(name, wants) {
				return
			}
		}
	}
}

// Problems returns all that is wrong now, sorted.
func (w *Wants) Problems() []Problem {
	w.mu.RLock()
	defer w.mu.RUnlock()
	var all []Problem
	for _, o := range w.objects {
		all = append(all, o.problems...)
	}
	for _, n := range w.names {
		all = append(all, n.problems...)
	}
	slices.SortFunc(all, func(a, b Problem) int { return strings.Compare(a.String(), b.String()) })
	return all
}

// Apply takes a change of the cluster. It returns the names at which other records are wanted than before, and the problems
// that were not there before, both sorted.
func (w *Wants) Apply(c cluster.Change) (touched []string, problems []Problem) {
	w.mu.Lock()
	defer w.mu.Unlock()
	work := wantWork{Wants: w, names: make(map[string]struct{})}
	for key := range w.dirty(c) {
		work.ask(c.Snapshot, key)
	}
	touched = work.settle()
	slices.SortFunc(work.problems, func(a, b Problem) int { return strings.Compare(a.String(), b.String()) })
	return touched, work.problems
}

// every are the objects that are there, or that something is known of.
func (w *Wants) every(s *cluster.Snapshot) map[wantKey]struct{} {
	keys := make(map[wantKey]struct{}, len(w.objects))
	for key := range w.objects {
		keys[key] = struct{}{}
	}
	for kind := range w.rules.kinds {
		for name := range objectNames(s, kind) {
			keys[wantKey{kind, name}] = struct{}{}
		}
	}
	return keys
}

// dirty are the objects to read anew.
func (w *Wants) dirty(c cluster.Change) map[wantKey]struct{} {
	if c.Full {
		return w.every(c.Snapshot)
	}
	keys := make(map[wantKey]struct{})
	changed := map[cluster.Kind][]cluster.Name{
		cluster.Services: c.Services, cluster.Pods: c.Pods, cluster.Nodes: clusterNames(c.Nodes), cluster.Ingresses: c.Ingresses,
		cluster.HTTPRoutes: c.HTTPRoutes, cluster.DNSEndpoints: c.DNSEndpoints, cluster.Gateways: c.Gateways,
		cluster.Namespaces: clusterNames(c.Namespaces),
	}
	for kind, names := range changed {
		_, enabled := w.rules.kinds[kind]
		for _, name := range names {
			if enabled {
				keys[wantKey{kind, name}] = struct{}{}
			}
			maps.Copy(keys, w.dependents[wantKey{kind, name}])
		}
		if len(names) > 0 {
			maps.Copy(keys, w.dependents[wantKey{kind: kind}])
		}
	}
	return keys
}

// clusterNames are names without a namespace.
func clusterNames(names []string) []cluster.Name {
	out := make([]cluster.Name, len(names))
	for i, name := range names {
		out[i].Name = name
	}
	return out
}

// objectNames yields the names of all objects of a kind.
func objectNames(s *cluster.Snapshot, kind cluster.Kind) iter.Seq[cluster.Name] {
	switch kind {
	case cluster.Services:
		return namesIn(s.Services(), func(o *cluster.Service) cluster.Name { return o.Name })
	case cluster.Pods:
		return namesIn(s.Pods(), func(o *cluster.Pod) cluster.Name { return o.Name })
	case cluster.Nodes:
		return namesIn(s.Nodes(), func(o *cluster.Node) cluster.Name { return o.Name })
	case cluster.Ingresses:
		return namesIn(s.Ingresses(), func(o *cluster.Ingress) cluster.Name { return o.Name })
	case cluster.HTTPRoutes:
		return namesIn(s.HTTPRoutes(), func(o *cluster.HTTPRoute) cluster.Name { return o.Name })
	case cluster.DNSEndpoints:
		return namesIn(s.DNSEndpoints(), func(o *cluster.DNSEndpoint) cluster.Name { return o.Name })
	default:
		return func(func(cluster.Name) bool) {}
	}
}

func namesIn[T any](objects iter.Seq[T], name func(T) cluster.Name) iter.Seq[cluster.Name] {
	return func(yield func(cluster.Name) bool) {
		for o := range objects {
			if !yield(name(o)) {
				return
			}
		}
	}
}

// ask reads one object. It returns nil for one that there is not, or that is not to be published.
func (r *wantRules) ask(s *cluster.Snapshot, key wantKey) *asker {
	switch key.kind {
	case cluster.Services:
		return r.askService(s, key.name)
	case cluster.Pods:
		return r.askPod(s, key.name)
	case cluster.Nodes:
		return r.askNode(s, key.name)
	case cluster.Ingresses:
		return r.askIngress(s, key.name)
	case cluster.HTTPRoutes:
		return r.askHTTPRoute(s, key.name)
	case cluster.DNSEndpoints:
		return r.askDNSEndpoint(s, key.name)
	default:
		return nil
	}
}
