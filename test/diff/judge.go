package main

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"github.com/nearpath/nearpath/internal/service/model"
)

// A result is what became of a probe: one word, or the backends that answered and whose address each saw.
type result struct {
	word     string // REFUSED, LOST or an error; empty when backends answered
	backends map[netip.AddrPort]string
}

// What a backend may see of a client besides an address in full.
const (
	sawClient = "client"
	sawNode   = "node"
)

func (r result) String() string {
	if r.word != "" {
		return r.word
	}
	var parts []string
	for _, b := range slices.SortedFunc(maps.Keys(r.backends), netip.AddrPort.Compare) {
		parts = append(parts, fmt.Sprintf("%s (sees %s)", b, r.backends[b]))
	}
	return strings.Join(parts, " ")
}

// kind is what a result is, in few words, beside the one that it should be.
func (r result) kind(want result, sticky bool) string {
	switch {
	case sticky && r.word == "" && len(r.backends) > 1:
		return "more than one backend in spite of affinity"
	case r.word != "" && len(r.word) < 20:
		return r.word
	case r.word != "":
		return "several things"
	case want.word == "" && slices.Equal(slices.SortedFunc(maps.Keys(r.backends), netip.AddrPort.Compare), slices.SortedFunc(maps.Keys(want.backends), netip.AddrPort.Compare)):
		return "these backends, but they see " + strings.Join(slices.Compact(slices.Sorted(maps.Values(r.backends))), " or ")
	}
	return "these or other backends"
}

func (r result) equal(o result) bool {
	return r.word == o.word && maps.Equal(r.backends, o.backends)
}

// saw names the address that a backend saw of a client. The node's own processes have the node's address, whoever
// translates; which of its addresses is not compared.
func saw(c model.Client, source netip.Addr) string {
	switch {
	case slices.Contains(nodeAddrs, source):
		return sawNode
	case source == c.Addr:
		return sawClient
	}
	return source.String()
}

// resultOf sums up what was seen of a probe. Endings of different kinds make a word of their own, which equals nothing.
func resultOf(p model.Probe, s seen) result {
	r := result{backends: map[netip.AddrPort]string{}}
	var words []string
	for _, e := range slices.Sorted(maps.Keys(s)) {
		backend, source, ok := e.answered()
		if !ok {
			words = append(words, string(e))
			continue
		}
		who := saw(p.Client, source)
		if had := r.backends[backend]; had != "" && had != who {
			who = had + " and " + who
		}
		r.backends[backend] = who
	}
	if len(words) == 0 {
		return r
	}
	if len(r.backends) > 0 {
		words = append(words, r.String())
	}
	return result{word: strings.Join(words, " or ")}
}

// resultFor is what a verdict of the model looks like in the lab.
func resultFor(p model.Probe, v model.Verdict) result {
	switch v.Outcome {
	case model.Reject:
		return result{word: string(refused)}
	case model.Drop:
		return result{word: string(lost)}
	case model.Pass:
		return result{word: string(passed(p.To.Addr()))}
	}
	r := result{backends: map[netip.AddrPort]string{}}
	for _, b := range v.Backends {
		r.backends[b.Addr] = sawClient
		if b.Source == model.AsNode || p.Client.Kind == model.NodeItself {
			r.backends[b.Addr] = sawNode
		}
	}
	return r
}

// passed is how a connection ends that no proxy touches: where somebody has the address, nobody listens, and the rest is
// lost at the router.
func passed(to netip.Addr) ending {
	for _, have := range placesOf {
		if slices.Contains(have, to) {
			return refused
		}
	}
	if to.IsLoopback() {
		return refused
	}
	return lost
}

// sticky says whether the port that a verdict is about has session affinity.
func sticky(w *model.World, v model.Verdict) bool {
	for _, svc := range w.Services {
		if svc.Namespace == v.Port.Namespace && svc.Name == v.Port.Name {
			return svc.Spec.SessionAffinity == "ClientIP"
		}
	}
	return false
}

// fits says whether a result is what a verdict says. All backends of the verdict must have been seen, unless the port has
// affinity: then it is exactly one of them.
func fits(got, want result, sticky bool) bool {
	if !sticky || want.word != "" {
		return got.equal(want)
	}
	if got.word != "" || len(got.backends) != 1 {
		return false
	}
	for b, who := range got.backends {
		if want.backends[b] != who {
			return false
		}
	}
	return true
}

// within says whether nothing was seen that a verdict does not say: more tries may show the rest of it.
func within(got, want result) bool {
	if want.word != "" || got.word != "" {
		return got.word == want.word && (got.word != "" || len(got.backends) == 0)
	}
	for b, who := range got.backends {
		if want.backends[b] != who {
			return false
		}
	}
	return true
}
