package policy

import (
	"cmp"
	"slices"
)

// Lists of intervals here are sorted, disjoint and without Log; two that touch are one.

// union makes a list of intervals in any order. It works in place.
func union(list []Interval) []Interval {
	slices.SortFunc(list, func(a, b Interval) int { return cmp.Compare(a.Lo, b.Lo) })
	out := list[:0]
	for _, i := range list {
		if n := len(out); n > 0 && i.Lo <= out[n-1].Hi+1 {
			out[n-1].Hi = max(out[n-1].Hi, i.Hi)
			continue
		}
		out = append(out, Interval{Lo: i.Lo, Hi: i.Hi})
	}
	return out
}

func join(a, b []Interval) []Interval {
	if len(a) == 0 {
		return b
	}
	if len(b) == 0 {
		return a
	}
	return union(slices.Concat(a, b))
}

func both(a, b []Interval) (points []Interval) {
	for len(a) > 0 && len(b) > 0 {
		if lo, hi := max(a[0].Lo, b[0].Lo), min(a[0].Hi, b[0].Hi); lo <= hi {
			points = append(points, Interval{Lo: lo, Hi: hi})
		}
		if a[0].Hi < b[0].Hi {
			a = a[1:]
		} else {
			b = b[1:]
		}
	}
	return points
}

func without(a, b []Interval) (rest []Interval) {
	for _, i := range a {
		for len(b) > 0 && b[0].Hi < i.Lo {
			b = b[1:]
		}
		lo := i.Lo
		for _, cut := range b {
			if cut.Lo > i.Hi {
				break
			}
			if cut.Lo > lo {
				rest = append(rest, Interval{Lo: lo, Hi: cut.Lo - 1})
			}
			lo = cut.Hi + 1
		}
		if lo <= i.Hi {
			rest = append(rest, Interval{Lo: lo, Hi: i.Hi})
		}
	}
	return rest
}

func contains(list []Interval, point uint32) bool {
	i, _ := slices.BinarySearchFunc(list, point, func(i Interval, p uint32) int { return cmp.Compare(i.Hi, p) })
	return i < len(list) && list[i].Lo <= point
}

// marked splits the intervals at the ends of those in log, and marks what is within.
func marked(list, log []Interval) []Interval {
	if len(log) == 0 {
		return list
	}
	out := without(list, log)
	for _, i := range both(list, log) {
		out = append(out, Interval{Lo: i.Lo, Hi: i.Hi, Log: true})
	}
	slices.SortFunc(out, func(a, b Interval) int { return cmp.Compare(a.Lo, b.Lo) })
	return out
}
