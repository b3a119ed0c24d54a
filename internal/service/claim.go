package service

import (
	"cmp"
	"maps"
	"slices"
	"time"

	"github.com/nearpath/nearpath/bpf"
	"github.com/nearpath/nearpath/internal/cluster"
)

// claimAll decides who has which frontend, and gives a record to each of the ports, which come in the order of their
// claims. A port that gets none has no claim.
func (t *table) claimAll(ports []Port, want map[cluster.Name][]Port) (claimed map[bpf.Frontend]bool, refused []error) {
	var full []error
	for {
		claimed, refused = t.claim(ports, want)
		with := slices.DeleteFunc(slices.Clone(ports), func(p Port) bool {
			err := t.giveRecord(p)
			if err != nil {
				full = append(full, err)
			}
			return err != nil
		})
		if len(with) == len(ports) {
			return claimed, append(full, refused...)
		}
		ports = with
		for f := range claimed { // once more, without the others
			delete(t.owners, f)
		}
	}
}

// claim gives each frontend to the first that asks, kind by kind: nobody may take a Service's cluster IP by asking for it
// as an external address.
func (t *table) claim(ports []Port, want map[cluster.Name][]Port) (claimed map[bpf.Frontend]bool, refused []error) {
	t.waiting = nil
	claimed, ranks := map[bpf.Frontend]bool{}, map[bpf.Frontend]int{}
	for _, c := range claims(ports) {
		f, id := c.frontend, c.port
		if owner, ok := t.holder(id, f, want, claimed); ok {
			if !c.quiet {
				refused = append(refused, &ConflictError{
					Wanted: id, Frontend: f, Owner: owner, byKind: claimed[f] && ranks[f] != c.rank,
				})
			}
			t.waiting = append(t.waiting, id.Service)
			continue
		}
		claimed[f], ranks[f] = true, c.rank
		t.owners[f] = id
	}
	return claimed, refused
}

// A claim is a port's on a frontend.
type claim struct {
	frontend bpf.Frontend
	port     PortID
	rank     int
	quiet    bool // to lose it is no conflict: the port's cluster IP is one already
}

// claims are all of the ports', the first come first. Among claims of one rank the order of the ports counts.
func claims(ports []Port) (out []claim) {
	for _, p := range ports {
		for _, f := range p.Frontends {
			out = append(out, claim{f.Frontend, p.ID, rankOf(f.Kind), f.Kind == bpf.ServiceAddress})
		}
	}
	slices.SortStableFunc(out, func(a, b claim) int { return a.rank - b.rank })
	return out
}

// rankOf orders the kinds of frontends by their claims. Those of pods come last, which holder relies on.
func rankOf(kind bpf.FrontendKind) int {
	switch kind {
	case bpf.ClusterIP, bpf.ServiceAddress, bpf.NodeDNS:
		return 0
	case bpf.NodePort:
		return 1
	case bpf.HostPort:
		return 3
	default:
		return 2
	}
}

// holder finds who keeps a frontend from a port, if anybody does. A host port also gives way to a Service that has the
// port on all addresses of the node.
func (t *table) holder(id PortID, f bpf.Frontend, want map[cluster.Name][]Port, claimed map[bpf.Frontend]bool) (PortID, bool) {
	keeps := func(f bpf.Frontend) (PortID, bool) {
		owner, ok := t.owners[f]
		if !ok || owner == id {
			return PortID{}, false
		}
		_, planned := want[owner.Service]
		return owner, claimed[f] || !planned
	}
	if owner, ok := keeps(f); ok || !isPod(id.Service) {
		return owner, ok
	}
	owner, ok := keeps(anyAddress(f))
	return owner, ok && !isPod(owner.Service)
}

// inOrder lists who has the first claim on a frontend of one kind first: Services by creation, the oldest first, then pods.
func inOrder(m map[cluster.Name][]Port) []cluster.Name {
	pod := func(name cluster.Name) int {
		if isPod(name) {
			return 1
		}
		return 0
	}
	created := func(name cluster.Name) (t time.Time) {
		if ports := m[name]; len(ports) > 0 {
			t = ports[0].Created
		}
		return t
	}
	return slices.SortedFunc(maps.Keys(m), func(a, b cluster.Name) int {
		return cmp.Or(pod(a)-pod(b), created(a).Compare(created(b)), compareNames(a, b))
	})
}
