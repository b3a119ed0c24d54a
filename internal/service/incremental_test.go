package service

import (
	"maps"
	"net/netip"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/nearpath/nearpath/bpf"
	"github.com/nearpath/nearpath/internal/service/model"
	"github.com/nearpath/nearpath/internal/service/model/worlds"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"pgregory.net/rapid"
)

// A served is what clients of a frontend get, whatever the number of its record.
type served struct {
	kind  bpf.FrontendKind
	block bpf.Block
}

func (p *planned) served() map[bpf.Frontend]served {
	out := map[bpf.Frontend]served{}
	for f, target := range p.tables.Frontends {
		s := served{kind: target.Kind}
		if target.Kind != bpf.ServiceAddress { // whose record means nothing
			s.block = p.tables.Blocks[target.Record]
		}
		out[f] = s
	}
	return out
}

// TestManyChangesEqualAFreshPlan: after any edits of Services, slices and the node's labels, in any order, the maps serve what
// an agent would that starts now, and what the rows say.
func TestManyChangesEqualAFreshPlan(t *testing.T) {
	t.Parallel()
	lab := worlds.Paper()
	opts := cmp.Options{
		cmp.AllowUnexported(served{}), cmpopts.EquateEmpty(),
		cmpopts.EquateComparable(netip.Addr{}, netip.AddrPort{}, netip.Prefix{}, bpf.Frontend{}),
		cmpopts.SortSlices(func(a, b netip.AddrPort) bool { return a.Compare(b) < 0 }),
	}
	checkWorlds(t, 300, func(t *rapid.T) {
		w := worlds.Draw(t, lab)
		p := newPlanned(t, w)
		p.become(w)
		for range rapid.IntRange(1, 5).Draw(t, "changes") {
			w = edited(t, w, worlds.Draw(t, lab))
			p.become(w)
		}
		fresh := newPlanned(t, w)
		fresh.become(w)
		if diff := cmp.Diff(fresh.served(), p.served(), opts); diff != "" {
			t.Fatalf("after the changes (-fresh +changed):\n%s\n%s", diff, show(w))
		}
		if diff := cmp.Diff(fresh.tables.Networks, p.tables.Networks, opts); diff != "" {
			t.Fatalf("networks of Services after the changes (-fresh +changed):\n%s", diff)
		}
		if have, want := len(p.maps.Records()), len(fresh.maps.Records()); have != want {
			t.Fatalf("%d records after the changes, want %d", have, want)
		}
		compareAll(t, &lab, w, p)
	})
}

// edited is a world with some Services of another one, some without, and some with other slices. What an agent is started
// with stays.
func edited(t *rapid.T, w, other *model.World) *model.World {
	out := &model.World{ServiceCIDRs: w.ServiceCIDRs, ProxyName: w.ProxyName, NoExternalIPs: w.NoExternalIPs, Node: w.Node}
	out.Node.Labels = other.Node.Labels
	services, slicesOf := map[string]*corev1.Service{}, map[string][]*discoveryv1.EndpointSlice{}
	take := func(from *model.World, svc *corev1.Service, service, endpoints bool) {
		name := svc.Namespace + "/" + svc.Name
		if service {
			services[name] = svc
		}
		if !endpoints {
			return
		}
		slicesOf[name] = nil
		for _, slice := range from.Slices {
			if slice.Namespace == svc.Namespace && slice.Labels[discoveryv1.LabelServiceName] == svc.Name {
				slicesOf[name] = append(slicesOf[name], slice)
			}
		}
	}
	for _, svc := range w.Services {
		take(w, svc, rapid.IntRange(0, 4).Draw(t, "stays") > 0, true)
	}
	for _, svc := range other.Services {
		take(other, svc, rapid.Bool().Draw(t, "comes"), rapid.Bool().Draw(t, "slices come"))
	}
	for _, name := range slices.Sorted(maps.Keys(services)) {
		out.Services = append(out.Services, services[name])
	}
	for _, name := range slices.Sorted(maps.Keys(slicesOf)) {
		out.Slices = append(out.Slices, slicesOf[name]...)
	}
	return out
}
