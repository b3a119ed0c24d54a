package service

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/nearpath/nearpath/bpf"
	"github.com/nearpath/nearpath/internal/service/model"
	"github.com/nearpath/nearpath/internal/service/model/worlds"
	corev1 "k8s.io/api/core/v1"
	"pgregory.net/rapid"
)

// TestAffinityFollowsTheRows has clients connect for hours while Services change, and holds what the maps say of each
// connection against the rows F1 to F5.
func TestAffinityFollowsTheRows(t *testing.T) {
	t.Parallel()
	lab := worlds.Paper()
	world := rapid.Custom(func(t *rapid.T) *model.World { return worlds.Draw(t, lab) })
	rows := map[string]*tally{"F1": {}, "F4": {}}
	for n := range 300 {
		w := world.Example(n)
		if wrong := remembersOtherwise(t, w, &lab, uint64(n), model.Rules{}, rows); wrong != "" {
			t.Fatalf("world %d: %s\n%s", n, wrong, show(w))
		}
	}
	t.Logf("%d connections by the backend that the client had, %d by another as that one was not in the list", rows["F1"].probes, rows["F4"].probes)
}

// remembersOtherwise says where connections by the rules differ from those by the maps, empty for nowhere.
func remembersOtherwise(t *testing.T, w *model.World, lab *worlds.Lab, seed uint64, rules model.Rules, rows map[string]*tally) string {
	t.Helper()
	random := rand.New(rand.NewPCG(seed, 1))
	w = copyWorld(w)
	probes := sticky(w, lab, random)
	if len(probes) == 0 {
		return ""
	}
	p := newPlanned(t, w)
	p.become(w)
	have, now := model.Affinity{}, time.Hour
	for range 80 {
		if random.IntN(6) == 0 {
			w = copyWorld(w)
			if change(w, random) {
				p.become(w)
				p.forget()
				rules.Changed(w, have)
			}
		}
		now += []time.Duration{0, time.Second / 2, 30 * time.Second, 2 * time.Hour}[random.IntN(4)]
		probe := probes[random.IntN(len(probes))]
		want := rules.Connect(w, probe, have, now)
		p.tables.Now = now
		if got := p.decide(probe); !got.Same(want) {
			return fmt.Sprintf("%s at %s: %s, want %s; %+v", probe, now, got, want, p.tables.Affinity)
		}
		note(rows, want.Rows)
		if want.Outcome == model.Forward {
			backend := want.Backends[random.IntN(len(want.Backends))].Addr
			rules.Connected(w, probe, have, now, want, backend)
			p.remember(probe, bpf.AffinityEntry{Client: probe.Client.Addr, Backend: backend, LastUsed: now})
		}
	}
	return ""
}

// sticky are some probes of Services with affinity, most of them of one Service.
func sticky(w *model.World, lab *worlds.Lab, random *rand.Rand) (out []model.Probe) {
	by := map[string][]model.Probe{}
	for _, probe := range worlds.Probes(lab, w) {
		v := model.Decide(w, probe)
		if i := slices.IndexFunc(w.Services, func(s *corev1.Service) bool { return s.Namespace == v.Port.Namespace && s.Name == v.Port.Name }); i >= 0 &&
			v.Outcome == model.Forward && w.Services[i].Spec.SessionAffinity == corev1.ServiceAffinityClientIP {
			by[v.Port.Name] = append(by[v.Port.Name], probe)
		}
	}
	for _, svc := range w.Services {
		if list := by[svc.Name]; len(list) > 0 {
			random.Shuffle(len(list), func(i, j int) { list[i], list[j] = list[j], list[i] })
			return list[:min(6, len(list))]
		}
	}
	return nil
}

// forget is what the maps' epochs do: affinity that was off, or whose record is gone, is as if it had never been.
func (p *planned) forget() {
	p.tables.Affinity = slices.DeleteFunc(p.tables.Affinity, func(e bpf.AffinityEntry) bool { return p.tables.Blocks[e.Record].Affinity == 0 })
}

// remember is what pick_affine does: the entry that the client came by starts anew, or its list gets one.
func (p *planned) remember(probe model.Probe, e bpf.AffinityEntry) {
	v := p.tables.Decide(p.question(probe))
	e.Record, e.Local = v.Target.Record, v.Local
	timeout := p.tables.Blocks[e.Record].Affinity
	if timeout == 0 {
		return
	}
	at := func(local bool) func(bpf.AffinityEntry) bool {
		return func(o bpf.AffinityEntry) bool {
			return o.Client == e.Client && o.Record == e.Record && o.Local == local
		}
	}
	follows := func(local bool) bool {
		i := slices.IndexFunc(p.tables.Affinity, at(local))
		return i >= 0 && p.tables.Affinity[i].Backend == e.Backend && p.tables.Now-p.tables.Affinity[i].LastUsed < timeout
	}
	if !follows(e.Local) && follows(!e.Local) {
		e.Local = !e.Local
	}
	p.tables.Affinity = append(slices.DeleteFunc(p.tables.Affinity, at(e.Local)), e)
}

// copyWorld copies what change changes.
func copyWorld(w *model.World) *model.World {
	c := *w
	c.Services, c.Slices = slices.Clone(w.Services), slices.Clone(w.Slices)
	for i := range c.Services {
		c.Services[i] = c.Services[i].DeepCopy()
	}
	for i := range c.Slices {
		c.Slices[i] = c.Slices[i].DeepCopy()
	}
	return &c
}

// change makes one change to a world, and reports whether it has found one.
func change(w *model.World, random *rand.Rand) bool {
	spec := &w.Services[random.IntN(len(w.Services))].Spec
	if spec.InternalTrafficPolicy == nil { // headless, or a name
		return false
	}
	seconds := []int32{1, 60, 10800}[random.IntN(3)]
	client := &corev1.SessionAffinityConfig{ClientIP: &corev1.ClientIPConfig{TimeoutSeconds: &seconds}}
	switch random.IntN(4) {
	case 0:
		if spec.SessionAffinity == corev1.ServiceAffinityClientIP {
			spec.SessionAffinity, spec.SessionAffinityConfig = corev1.ServiceAffinityNone, nil
		} else {
			spec.SessionAffinity, spec.SessionAffinityConfig = corev1.ServiceAffinityClientIP, client
		}
		return true
	case 1:
		if spec.SessionAffinity != corev1.ServiceAffinityClientIP || *spec.SessionAffinityConfig.ClientIP.TimeoutSeconds == seconds {
			return false
		}
		spec.SessionAffinityConfig = client
		return true
	case 2:
		local := corev1.ServiceInternalTrafficPolicyLocal
		if *spec.InternalTrafficPolicy == local {
			local = corev1.ServiceInternalTrafficPolicyCluster
		}
		spec.InternalTrafficPolicy = &local
		return true
	default:
		return dropEndpoint(w, random)
	}
}

func dropEndpoint(w *model.World, random *rand.Rand) bool {
	if len(w.Slices) == 0 {
		return false
	}
	slice := w.Slices[random.IntN(len(w.Slices))]
	if len(slice.Endpoints) == 0 {
		return false
	}
	i := random.IntN(len(slice.Endpoints))
	slice.Endpoints = slices.Delete(slice.Endpoints, i, i+1)
	return true
}
