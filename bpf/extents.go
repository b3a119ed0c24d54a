package bpf

import "slices"

// An extent is a run of cells.
type extent struct{ at, n uint32 }

// free is the set of unused cells of the blocks map: sorted by position, no two extents touch. First fit keeps the
// front of the map dense, which is what a later agent that adopts the map has to read.
type free []extent

// take removes n cells and returns the position of the first, or false when no extent is long enough.
func (f *free) take(n uint32) (uint32, bool) {
	for i := range *f {
		e := &(*f)[i]
		if e.n < n {
			continue
		}
		at := e.at
		e.at, e.n = e.at+n, e.n-n
		if e.n == 0 {
			*f = slices.Delete(*f, i, i+1)
		}
		return at, true
	}
	return 0, false
}

// give returns an extent that was taken and joins it with its neighbours.
func (f *free) give(e extent) {
	i, _ := slices.BinarySearchFunc(*f, e.at, func(have extent, at uint32) int { return int(int64(have.at) - int64(at)) })
	*f = slices.Insert(*f, i, e)
	if i+1 < len(*f) && e.at+e.n == (*f)[i+1].at {
		(*f)[i].n += (*f)[i+1].n
		*f = slices.Delete(*f, i+1, i+2)
	}
	if i > 0 && (*f)[i-1].at+(*f)[i-1].n == (*f)[i].at {
		(*f)[i-1].n += (*f)[i].n
		*f = slices.Delete(*f, i, i+1)
	}
}

// cells is how many cells are free.
func (f free) cells() (n uint32) {
	for _, e := range f {
		n += e.n
	}
	return n
}

// remove takes out the given extents, which must be unused and must not overlap.
func (f *free) remove(used []extent) {
	slices.SortFunc(used, func(a, b extent) int { return int(int64(a.at) - int64(b.at)) })
	all := *f
	*f = nil
	for _, e := range all {
		for len(used) > 0 && used[0].at < e.at+e.n {
			u := used[0]
			used = used[1:]
			if u.at > e.at {
				*f = append(*f, extent{e.at, u.at - e.at})
			}
			e.at, e.n = u.at+u.n, e.at+e.n-(u.at+u.n)
		}
		if e.n > 0 {
			*f = append(*f, e)
		}
	}
}
