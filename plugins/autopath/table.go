package autopath

// A table is a set of references, each under a 64-bit hash, in 5 to 11 bytes each: a Go map of the same takes 17 to 40.
// It is open addressing with linear probing, at most three quarters full. Several references may have one hash. The
// zero value is empty. The owner of what references lead to gives their hashes again when the table moves them.
type table struct {
	cells  []uint32 // reference + 1, or 0
	count  int
	hashOf func(ref uint32) uint64
}

const minCells = 16

func (t *table) insert(ref uint32) {
	if t.count+1 > len(t.cells)/4*3 {
		t.grow()
	}
	t.place(ref)
	t.count++
}

func (t *table) place(ref uint32) {
	i := t.home(ref)
	for t.cells[i] != 0 {
		i = t.next(i)
	}
	t.cells[i] = ref + 1
}

func (t *table) grow() {
	old := t.cells
	t.cells = make([]uint32, max(minCells, 2*len(old)))
	for _, cell := range old {
		if cell != 0 {
			t.place(cell - 1)
		}
	}
}

// remove takes a reference out, which is in the table, while its hash is still that under which it went in. What follows it moves up
// where it would not be found otherwise.
func (t *table) remove(ref uint32) {
	i := t.home(ref)
	for t.cells[i] != ref+1 {
		i = t.next(i)
	}
	for j := t.next(i); t.cells[j] != 0; j = t.next(j) {
		if home := t.home(t.cells[j] - 1); t.distance(home, j) >= t.distance(i, j) {
			t.cells[i] = t.cells[j]
			i = j
		}
	}
	t.cells[i] = 0
	t.count--
}

// each calls visit for references that may have the hash, until visit returns false.
func (t *table) each(hash uint64, visit func(ref uint32) bool) {
	if t.count == 0 {
		return
	}
	for i := hash & uint64(len(t.cells)-1); t.cells[i] != 0; i = t.next(i) {
		if !visit(t.cells[i] - 1) {
			return
		}
	}
}

func (t *table) home(ref uint32) uint64 { return t.hashOf(ref) & uint64(len(t.cells)-1) }

func (t *table) next(i uint64) uint64 { return (i + 1) & uint64(len(t.cells)-1) }

// distance is how far a cell lies behind another.
func (t *table) distance(from, to uint64) uint64 { return (to - from) & uint64(len(t.cells)-1) }
