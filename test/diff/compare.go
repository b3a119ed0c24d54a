package main

import (
	"fmt"
	"net/netip"
	"time"

	"github.com/nearpath/nearpath/internal/service/model"
	"golang.org/x/sync/errgroup"
)

// A comparison is what some probes found on some sides; the first side is nearpath's. Slices by side and probe.
type comparison struct {
	world    *model.World
	probes   []model.Probe
	sides    []*side
	verdicts [][]model.Verdict
	seen     [][]seen
	results  [][]result
	allowed  map[*allowance]int
}

func newComparison(w *model.World, probes []model.Probe, sides []*side) *comparison {
	c := &comparison{world: w, sides: sides, allowed: map[*allowance]int{}}
	for _, p := range probes {
		p.Packets = p.Client.Kind == model.Outside || placeOf(p.Client) == placePlain
		c.probes = append(c.probes, p)
	}
	for _, s := range sides {
		verdicts := make([]model.Verdict, len(c.probes))
		for i, p := range c.probes {
			verdicts[i] = model.Rules{Dialect: s.dialect}.Decide(w, p)
		}
		c.verdicts = append(c.verdicts, verdicts)
		c.seen = append(c.seen, make([]seen, len(c.probes)))
		c.results = append(c.results, make([]result, len(c.probes)))
	}
	return c
}

func addrPort(a netip.Addr, port uint16) netip.AddrPort { return netip.AddrPortFrom(a, port) }

// firstTries is how often to ask where n backends are expected, and manyTries where it matters.
func firstTries(n int) int { return 2 + 2*n }

func manyTries(n int) int { return 8 + 6*n }

// find asks all sides, and again, at most rounds times, where backends are missing that a verdict has: chance may not have
// shown them.
func (c *comparison) find(patience time.Duration, tries func(backends int) int, rounds int) error {
	var group errgroup.Group
	for k, s := range c.sides {
		group.Go(func() error {
			missing := make([]int, len(c.probes))
			for i := range missing {
				missing[i] = i
			}
			for round := 0; len(missing) > 0 && round <= rounds; round++ {
				var err error
				if missing, err = c.findOnce(k, s, missing, patience, func(n int) int { return tries(n) << (2 * round) }); err != nil {
					return err
				}
			}
			return c.settle(k, s, patience, tries)
		})
	}
	return group.Wait()
}

// settle asks anew where there is affinity. A client that has been at two lists of one port may until then have got two
// backends even by the same frontend: kube-proxy remembers all of its choices, and takes the first one that a list has.
func (c *comparison) settle(k int, s *side, patience time.Duration, tries func(int) int) error {
	var again []int
	for i, v := range c.verdicts[k] {
		if v.Outcome == model.Forward && sticky(c.world, v) {
			again = append(again, i)
			c.seen[k][i] = seen{}
		}
	}
	if len(again) == 0 {
		return nil
	}
	_, err := c.findOnce(k, s, again, patience, tries)
	return err
}

// findOnce asks one side about some probes and returns those that may not have shown all.
func (c *comparison) findOnce(k int, s *side, which []int, patience time.Duration, tries func(int) int) (missing []int, err error) {
	asks := make([]ask, len(which))
	for j, i := range which {
		p := c.probes[i]
		asks[j] = ask{Place: placeOf(p.Client), To: p.To, UDP: p.Protocol == "UDP", Tries: tries(len(c.verdicts[k][i].Backends))}
	}
	all, err := s.find(asks, patience)
	if err != nil {
		return nil, err
	}
	for j, i := range which {
		c.seen[k][i] = c.seen[k][i].add(all[j])
		got, want := resultOf(c.probes[i], c.seen[k][i]), resultFor(c.probes[i], c.verdicts[k][i])
		c.results[k][i] = got
		if !fits(got, want, sticky(c.world, c.verdicts[k][i])) && within(got, want) {
			missing = append(missing, i)
		}
	}
	return missing, nil
}

// A difference is a probe that ended elsewhere than it should.
type difference struct {
	probe    model.Probe
	port     model.PortRef
	affinity bool
	what     string
	kinds    []string // of a summary: the same for all that probably has one cause
}

// judge holds every side against the model, and nearpath against kube-proxy.
func (c *comparison) judge() (wrong []difference) {
	for i, p := range c.probes {
		if what, kinds := c.judgeProbe(i, p); what != "" {
			wrong = append(wrong, difference{probe: p, port: c.verdicts[0][i].Port, what: what, kinds: kinds})
		}
	}
	return append(wrong, c.judgeAffinity()...)
}

func (c *comparison) judgeProbe(i int, p model.Probe) (what string, kinds []string) {
	add := func(format string, args ...any) { what += "    " + fmt.Sprintf(format, args...) + "\n" }
	near := c.results[0][i]
	for k, s := range c.sides {
		got, v := c.results[k][i], c.verdicts[k][i]
		if want := resultFor(p, v); !fits(got, want, sticky(c.world, v)) {
			add("%s: %s", s.name, got)
			add("the model says for it: %s", v)
			kinds = append(kinds, fmt.Sprintf("%s, asked by %s: %s instead of %s by %v", s.name, placeOf(p.Client), got.kind(want, sticky(c.world, v)), v.Outcome, v.Rows))
		}
		if k == 0 || near.equal(got) || sticky(c.world, v) && fits(near, resultFor(p, v), true) {
			continue
		}
		a := allowed(pair{c.world, p, near, got, c.verdicts[0][i], v, s.dialect})
		if a == nil {
			add("nearpath: %s", near)
			add("%s: %s; not among the allowed differences", s.name, got)
			kinds = append(kinds, fmt.Sprintf("nearpath, asked by %s: %s, and not as by %s", placeOf(p.Client), near.kind(got, false), s.name))
			continue
		}
		c.allowed[a]++
	}
	return what, kinds
}

// company are the probes that a difference may need to show: of a port with affinity all those of its client.
func (c *comparison) company(d difference) []model.Probe {
	probes := []model.Probe{d.probe}
	for i, p := range c.probes {
		v := c.verdicts[0][i]
		if v.Port == d.port && p.Client == d.probe.Client && p != d.probe && sticky(c.world, v) {
			probes = append(probes, p)
		}
	}
	return probes
}

// A shared is what the frontends of a port have in common for a client when they lead to the same list.
type shared struct {
	port   model.PortRef
	client netip.Addr
	list   string
}

// judgeAffinity checks that a client gets the same backend by every frontend of a port that leads to the same list (F1),
// if it does so by kube-proxy.
func (c *comparison) judgeAffinity() (wrong []difference) {
	near, probes := c.chosen(0)
	for k := 1; k < len(c.sides); k++ {
		kube, _ := c.chosen(k)
		for g, backends := range near {
			if len(backends) > 1 && len(kube[g]) == 1 {
				wrong = append(wrong, difference{probe: probes[g], port: g.port, affinity: true, kinds: []string{"F1"}, what: fmt.Sprintf(
					"    F1: by different frontends of %s the client gets %d backends from nearpath, one from %s\n", g.port, len(backends), c.sides[k].name)})
			}
		}
	}
	return wrong
}

// chosen are the backends that clients got from a side where there is affinity, and a probe of each.
func (c *comparison) chosen(k int) (map[shared]map[netip.AddrPort]bool, map[shared]model.Probe) {
	backends, probes := map[shared]map[netip.AddrPort]bool{}, map[shared]model.Probe{}
	for i, p := range c.probes {
		v := c.verdicts[k][i]
		// The node's own processes have another address at every address of the node: another client.
		if v.Outcome != model.Forward || !sticky(c.world, v) || p.Client.Kind == model.NodeItself {
			continue
		}
		g := shared{v.Port, p.Client.Addr, fmt.Sprint(listOf(v))}
		if backends[g] == nil {
			backends[g], probes[g] = map[netip.AddrPort]bool{}, p
		}
		for b := range c.results[k][i].backends {
			backends[g][b] = true
		}
	}
	return backends, probes
}

// listOf are the backends of a verdict.
func listOf(v model.Verdict) (list []netip.AddrPort) {
	for _, b := range v.Backends {
		list = append(list, b.Addr)
	}
	return list
}
