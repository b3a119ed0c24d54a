package ipam

import (
	"slices"

	"github.com/nearpath/nearpath/internal/aliyun"
)

// demand is what the watermarks look at, in addresses of shared ENIs or in exclusive ENIs.
type demand struct {
	used    int // leased or kept
	idle    int // can be leased now
	cooling int // will be idle by itself
	pending int // will be idle when the cloud or the node has done its part
	waiting int // callers without a lease
	// capacity is what there is room for beside the ENIs of the other kind as they are; atMost what there would be if
	// every ENI of the other kind that no pod has were converted, which coolingOthers of them can be when they have cooled.
	capacity, atMost, coolingOthers int
}

func (d demand) total() int { return d.used + d.idle + d.cooling + d.pending }

// plan returns how many to ask for and how many free ones to give back; at most one of the two is not 0.
//
// A cooling address counts as one of the pool's, so that churn does not grow it. It is no use to a caller who waits
// now, though: for those the pool grows past what the marks alone ask for, within the capacity.
func (w Watermarks) plan(d demand) (grow, shrink int) {
	capacity := d.capacity
	if d.waiting > 0 {
		capacity = max(capacity, d.atMost)
	}
	want := min(max(d.used+d.waiting+w.MinIdle, w.MinTotal), capacity)
	grow = max(want-d.total(), d.waiting-d.idle-d.pending)
	grow = max(min(grow, capacity-d.total()), 0)
	if grow > 0 || d.waiting > 0 || d.pending > 0 {
		return grow, 0
	}
	// min(MinTotal, capacity): a mark above the capacity must not keep the pool from giving back.
	return 0, max(min(d.idle-w.MaxIdle, d.total()-min(w.MinTotal, capacity)), 0)
}

// spare is how many idle ones the marks can do without, all at once: what is left keeps MinIdle and MinTotal.
func (w Watermarks) spare(d demand) int {
	if d.waiting > 0 || d.pending > 0 {
		return 0
	}
	return max(min(d.idle-w.MinIdle, d.total()-min(w.MinTotal, d.capacity)), 0)
}

// A tally counts the addresses of one ENI in one family.
type tally struct {
	all, leased, kept, cooling int
	leasable, unproven         int // free ones
	releasing                  int
}

// present counts what is on the ENI and stays there.
func (t tally) present() int { return t.all - t.releasing }

func (t *tally) add(a *address) {
	t.all++
	switch {
	case a.Unproven:
		t.unproven++
	case a.owned():
		t.leased++
	case a.State == kept:
		t.kept++
	case a.State == cooling:
		t.cooling++
	case a.State == releasing:
		t.releasing++
	case a.leasable():
		t.leasable++
	}
}

// A census has the tallies of every ENI, by token and family.
type census map[string]map[aliyun.Family]tally

func (l *ledger) census() census {
	c := census{}
	for token := range l.enis {
		c[token] = map[aliyun.Family]tally{}
	}
	for addr, a := range l.addrs {
		f := aliyun.FamilyOf(addr)
		t := c[a.ENI][f]
		t.add(a)
		c[a.ENI][f] = t
	}
	return c
}

// leases is how many leases an ENI's leasable addresses make: as many as it has in the family with the fewest.
func (l *ledger) leases(t map[aliyun.Family]tally) int {
	n := l.limits.AddressesPerENI
	for _, f := range l.families {
		n = min(n, t[f].leasable)
	}
	return n
}

// roomBeside counts, in ENIs, what the other kind leaves.
func (l *ledger) roomBeside(other purpose) (capacity, atMost, coolingOthers int) {
	capacity, atMost = l.limits.ENIs, l.limits.ENIs
	for _, e := range l.enis {
		if e.Purpose != other {
			continue
		}
		capacity--
		switch {
		case e.State == ENIInUse && l.idle(e):
		case e.State == ENIInUse && l.unowned(e) && len(e.Assigns) == 0:
			coolingOthers++
		default:
			atMost--
		}
	}
	return max(capacity, 0), max(atMost, 0), coolingOthers
}

// sharedDemand counts the addresses of shared ENIs.
func (l *ledger) sharedDemand(waiting int) demand {
	d := demand{waiting: waiting}
	for token, t := range l.census() {
		e, v4 := l.enis[token], t[aliyun.IPv4]
		if e.Purpose == exclusive {
			continue
		}
		d.used += v4.leased + v4.kept
		d.cooling += v4.cooling + v4.unproven
		d.pending += e.awaited(aliyun.IPv4)
		switch pairs := l.leases(t); {
		case e.usable():
			d.idle += pairs
			// The others wait for an address of the other family, as far as there can be one.
			d.pending += max(min(v4.leasable, l.perENI()-v4.leased-v4.kept-v4.cooling)-pairs, 0)
		case e.coming():
			d.pending += min(v4.leasable, l.perENI())
		}
	}
	d.capacity, d.atMost, d.coolingOthers = l.roomBeside(exclusive)
	d.capacity, d.atMost = d.capacity*l.perENI(), d.atMost*l.perENI()
	return d
}

// exclusiveDemand counts exclusive ENIs.
func (l *ledger) exclusiveDemand(waiting int) demand {
	d := demand{waiting: waiting}
	for token, t := range l.census() {
		e, v4 := l.enis[token], t[aliyun.IPv4]
		if e.Purpose != exclusive {
			continue
		}
		switch {
		case v4.leased+v4.kept > 0:
			d.used++
		case v4.cooling+v4.unproven > 0:
			d.cooling++
		case e.usable() && l.leases(t) > 0:
			d.idle++
		case e.usable() || e.coming():
			d.pending++
		}
	}
	d.capacity, d.atMost, d.coolingOthers = l.roomBeside(shared)
	return d
}

// follow lists what brings each ENI's families in line with its IPv4 addresses: a shared ENI has as many of each, an
// exclusive one has one. ok says how many addresses an ENI may be asked for now.
func (l *ledger) follow(ok func(*eni, aliyun.Family) int) (steps []step) {
	for token, t := range l.census() {
		e := l.enis[token]
		if e.State != ENIInUse || !e.missing.IsZero() {
			continue
		}
		want := min(t[aliyun.IPv4].present()+e.awaited(aliyun.IPv4), l.perENI())
		if e.Purpose == exclusive {
			want = min(want, 1)
		}
		for _, f := range []aliyun.Family{aliyun.IPv4, aliyun.IPv6} {
			if !slices.Contains(l.families, f) {
				want = 0
			}
			if s, due := l.align(e, f, want-t[f].present()-e.awaited(f), ok); due {
				steps = append(steps, s)
			}
		}
	}
	slices.SortFunc(steps, compareSteps)
	return steps
}

// align is the step that brings an ENI nearer to having diff more addresses of a family, or -diff fewer.
func (l *ledger) align(e *eni, f aliyun.Family, diff int, ok func(*eni, aliyun.Family) int) (step, bool) {
	switch {
	case diff > 0 && e.assigning(f).Count == 0:
		n := min(diff, assignBatch, l.room(e, f), ok(e, f))
		return step{do: stepAssign, eni: e.Token, family: f, count: n}, n > 0
	case diff < 0:
		addrs := l.victims(-diff, func(a *address) bool { return a.ENI == e.Token && aliyun.FamilyOf(a.Addr) == f })
		return step{do: stepRelease, eni: e.Token, addrs: addrs}, len(addrs) > 0
	}
	return step{}, false
}
