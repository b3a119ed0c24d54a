package main

import (
	"net/netip"
	"testing"

	"github.com/nearpath/nearpath/internal/service/model"
	corev1 "k8s.io/api/core/v1"
)

var (
	backendA = netip.MustParseAddrPort("10.1.0.5:8080")
	backendB = netip.MustParseAddrPort("10.1.1.11:8080")
)

func fromClient(to string) model.Probe {
	return model.Probe{Client: model.Client{Addr: clientAddrs[0]}, To: netip.MustParseAddrPort(to), Protocol: corev1.ProtocolTCP, Packets: true}
}

func answers(pairs ...string) seen {
	s := seen{}
	for i := 0; i < len(pairs); i += 2 {
		s[ending(answer(netip.MustParseAddrPort(pairs[i]), netip.AddrPortFrom(netip.MustParseAddr(pairs[i+1]), 4711)))]++
	}
	return s
}

func TestResultOf(t *testing.T) {
	p := fromClient("203.0.113.1:80")
	for name, c := range map[string]struct {
		in   seen
		want string
	}{
		"refused":        {seen{refused: 2}, "REFUSED"},
		"node's address": {answers("10.1.0.5:8080", "192.0.2.9"), "10.1.0.5:8080 (sees node)"},
		"two backends":   {answers("10.1.0.5:8080", "192.0.2.1", "10.1.1.11:8080", "198.51.100.7"), "10.1.0.5:8080 (sees node) 10.1.1.11:8080 (sees client)"},
		"two sources":    {answers("10.1.0.5:8080", "192.0.2.1", "10.1.0.5:8080", "198.51.100.7"), "10.1.0.5:8080 (sees node and client)"},
		"somebody else":  {answers("10.1.0.5:8080", "203.0.113.1"), "10.1.0.5:8080 (sees 203.0.113.1)"},
		"now and then":   {answers("10.1.0.5:8080", "192.0.2.1").add(seen{lost: 1}), "LOST or 10.1.0.5:8080 (sees node)"},
	} {
		if got := resultOf(p, c.in).String(); got != c.want {
			t.Errorf("%s: %s, want %s", name, got, c.want)
		}
	}
}

func TestFits(t *testing.T) {
	both := result{backends: map[netip.AddrPort]string{backendA: sawNode, backendB: sawNode}}
	one := result{backends: map[netip.AddrPort]string{backendB: sawNode}}
	other := result{backends: map[netip.AddrPort]string{backendB: sawClient}}
	no := result{word: "REFUSED"}
	for name, c := range map[string]struct {
		got, want           result
		sticky, fit, inside bool
	}{
		"all":                     {both, both, false, true, true},
		"not all yet":             {one, both, false, false, true},
		"one of them, affinity":   {one, both, true, true, true},
		"two, affinity":           {both, both, true, false, true},
		"another source":          {other, both, true, false, false},
		"refused instead":         {no, both, false, false, false},
		"refused":                 {no, no, true, true, true},
		"answered though refused": {one, no, false, false, false},
	} {
		if got := fits(c.got, c.want, c.sticky); got != c.fit {
			t.Errorf("%s: fits %v, want %v", name, got, c.fit)
		}
		if got := within(c.got, c.want); got != c.inside {
			t.Errorf("%s: within %v, want %v", name, got, c.inside)
		}
	}
}

// What the model says of either side is part of every allowance: a wrong source is not excused by a hairpin elsewhere.
func TestAllowedExcusesNothingElse(t *testing.T) {
	p := model.Probe{Client: model.Client{Kind: model.LocalPod, Addr: podAddrs[0]}, To: netip.MustParseAddrPort("10.96.0.1:80"), Protocol: corev1.ProtocolTCP}
	says := func(a, b model.Source) model.Verdict {
		return model.Verdict{Outcome: model.Forward, Backends: []model.Backend{{Addr: backendA, Source: a}, {Addr: backendB, Source: b}}}
	}
	d := pair{
		world: &model.World{ServiceCIDRs: serviceNets}, probe: p, mode: model.NFTables,
		near:     result{backends: map[netip.AddrPort]string{backendA: sawClient, backendB: sawClient}},
		kube:     result{backends: map[netip.AddrPort]string{backendA: sawNode, backendB: sawClient}},
		nearSays: says(model.AsClient, model.AsClient), kubeSays: says(model.AsNode, model.AsClient),
	}
	if a := allowed(d); a == nil || a.row != "E6" {
		t.Errorf("a hairpin is not allowed: %v", a)
	}
	d.near.backends[backendB] = sawNode
	if a := allowed(d); a != nil {
		t.Errorf("%s allows a wrong source", a.row)
	}
}

func TestCandidatesAreSmallerAndLeaveTheWorldAlone(t *testing.T) {
	lab := worldLab(4, nil)
	for seed := range 20 {
		w := worldOf(lab, seed)
		before, _ := compactYAML(manifests(w)[0])
		for _, c := range candidates(w) {
			if len(c.Services) > len(w.Services) || len(c.Slices) > len(w.Slices) {
				t.Errorf("seed %d: a candidate is larger", seed)
			}
		}
		if after, _ := compactYAML(manifests(w)[0]); after != before {
			t.Errorf("seed %d: the world changed:\n%s\n%s", seed, before, after)
		}
	}
}
