package policy

import (
	"cmp"
	"slices"
)

// union sorts intervals and joins those that touch. It works in place.
func union(in []Interval) []Interval {
	slices.SortFunc(in, func(a, b Interval) int { return cmp.Compare(a.Lo, b.Lo) })
	out := in[:0]
	for _, i := range in {
		if n := len(out); n > 0 && i.Lo <= out[n-1].Hi+1 {
			out[n-1].Hi = max(out[n-1].Hi, i.Hi)
			continue
		}
		out = append(out, i)
	}
	return out
}

// without is the points of a that are not in b, both sorted and disjoint.
func without(a, b []Interval) []Interval {
	var out []Interval
	for _, i := range a {
		lo := i.Lo
		for _, cut := range b {
			if cut.Hi < lo || cut.Lo > i.Hi {
				continue
			}
			if cut.Lo > lo {
				out = append(out, Interval{Lo: lo, Hi: cut.Lo - 1})
			}
			lo = cut.Hi + 1
		}
		if lo <= i.Hi {
			out = append(out, Interval{Lo: lo, Hi: i.Hi})
		}
	}
	return out
}

// both is the points in a and in b, both sorted and disjoint.
func both(a, b []Interval) []Interval { return without(a, without([]Interval{All}, b)) }
