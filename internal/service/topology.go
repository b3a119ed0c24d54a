package service

import "slices"

// nearby tells which candidates the topology hints leave to this node, as kube-proxy does (topologyModeFromHints, KEP-3015):
// hints for nodes count when every ready candidate has some and one names this node, else those for zones under the
// same rule, else none. As only ready ones are asked, all are near when none is ready: falling back to those that
// terminate has no topology.
func nearby(candidates []candidate, node Node) func(candidate) bool {
	for _, hint := range []struct {
		of   func(candidate) []string
		here string
	}{
		{func(c candidate) []string { return c.e.ForNodes }, node.Name},
		{func(c candidate) []string { return c.e.ForZones }, node.Zone},
	} {
		if hinted(candidates, hint.of, hint.here) {
			return func(c candidate) bool { return slices.Contains(hint.of(c), hint.here) }
		}
	}
	return func(candidate) bool { return true }
}

// hinted reports whether every ready candidate has a hint of a kind, and one of them names this place.
func hinted(candidates []candidate, of func(candidate) []string, here string) (named bool) {
	for _, c := range candidates {
		if !c.e.Ready {
			continue
		}
		if len(of(c)) == 0 {
			return false
		}
		named = named || slices.Contains(of(c), here)
	}
	return named
}
