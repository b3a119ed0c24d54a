package ipam

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/nearpath/nearpath/internal/aliyun"
)

// assignBatch is the most addresses one AssignPrivateIpAddresses call asks for; unassignBatch the most one
// UnassignPrivateIpAddresses call gives back (the API allows 32).
const (
	assignBatch   = 10
	unassignBatch = 10
)

// Watermarks say how many addresses to keep ready.
type Watermarks struct {
	// MinIdle addresses are kept free beyond those in use; more than MaxIdle free ones are given back. MinTotal is kept
	// whatever is in use. The instance type's capacity bounds all of them.
	MinIdle, MaxIdle, MinTotal int
}

func (w Watermarks) validate() error {
	for _, f := range []struct {
		name  string
		value int
	}{{"MinIdle", w.MinIdle}, {"MaxIdle", w.MaxIdle}, {"MinTotal", w.MinTotal}} {
		if f.value < 0 {
			return fmt.Errorf("watermark %s is %d: it cannot be negative", f.name, f.value)
		}
	}
	if w.MinIdle > w.MaxIdle {
		return fmt.Errorf("watermark MinIdle is %d and MaxIdle %d: MinIdle must not be the larger", w.MinIdle, w.MaxIdle)
	}
	return nil
}

// demand is what the watermarks look at, in addresses.
type demand struct {
	used, idle, cooling, pending int
	waiting                      int // callers without an address
	capacity                     int
}

func (d demand) total() int { return d.used + d.idle + d.cooling + d.pending }

// plan returns how many addresses to ask for and how many free ones to give back; at most one of the two is not 0.
//
// A cooling address counts as one of the pool's, so that churn does not grow it. It is no use to a caller who waits
// now, though: for those the pool grows past what the marks alone ask for, within the capacity.
func (w Watermarks) plan(d demand) (grow, shrink int) {
	want := min(max(d.used+d.waiting+w.MinIdle, w.MinTotal), d.capacity)
	grow = max(want-d.total(), d.waiting-d.idle-d.pending)
	grow = max(min(grow, d.capacity-d.total()), 0)
	if grow > 0 || d.waiting > 0 || d.pending > 0 {
		return grow, 0
	}
	// min(MinTotal, capacity): a mark above the capacity must not keep the pool from giving back.
	return 0, max(min(d.idle-w.MaxIdle, d.total()-min(w.MinTotal, d.capacity)), 0)
}

// demand counts the ledger's addresses.
func (l *ledger) demand(waiting int) demand {
	d := demand{waiting: waiting, capacity: l.limits.capacity()}
	for _, a := range l.addrs {
		switch e := l.enis[a.ENI]; {
		case a.owned():
			d.used++
		case a.State == cooling:
			d.cooling++
		case a.State == free && a.missing.IsZero() && e.usable():
			d.idle++
		case a.State == free && e.coming():
			d.pending++
		}
	}
	for _, e := range l.enis {
		d.pending += e.Count
		if e.Assign != nil {
			d.pending += e.Assign.Count
		}
	}
	return d
}

// A growth is one step of making the pool larger: more addresses on an ENI, or a new ENI when eni is empty.
type growth struct {
	eni   string // Token
	count int
}

func (g growth) String() string {
	if g.eni == "" {
		return fmt.Sprintf("create an ENI with %d addresses", g.count)
	}
	return fmt.Sprintf("assign %d addresses to ENI %s", g.count, g.eni)
}

// spread turns a number of addresses into steps: ENIs that are there are filled first, the emptiest first, then ENIs are
// created. An ENI that cannot be asked now (a call is in flight, or it is on its way) still counts for the room it will
// have, so that no ENI is created in its place. Those in blocked vSwitches are passed over. left is what no step and no ENI
// on its way will bring.
func (l *ledger) spread(n int, blocked func(vSwitchID string) bool) (steps []growth, left int) {
	for _, e := range l.byRoom() {
		room := l.room(e)
		if n <= 0 || room == 0 || blocked(e.VSwitchID) {
			continue
		}
		switch {
		case e.State == ENIInUse && e.Assign == nil && e.missing.IsZero():
			count := min(n, room, assignBatch)
			steps = append(steps, growth{e.Token, count})
			n -= room // what the batch leaves is for the ENI's next call
		case e.coming() || e.State == ENIInUse:
			n -= room
		}
	}
	for enis := len(l.enis); n > 0 && enis < l.limits.ENIs; enis++ {
		count := min(n, l.limits.AddressesPerENI)
		steps = append(steps, growth{"", count})
		n -= count
	}
	return steps, max(n, 0)
}

func (l *ledger) byRoom() []*eni {
	enis := make([]*eni, 0, len(l.enis))
	for _, e := range l.enis {
		enis = append(enis, e)
	}
	slices.SortFunc(enis, func(a, b *eni) int {
		return cmp.Or(cmp.Compare(l.room(b), l.room(a)), cmp.Compare(a.Slot, b.Slot), cmp.Compare(a.Token, b.Token))
	})
	return enis
}

// victims picks n free addresses to give back: from the ENI with the fewest in use, at least idle old, none primary.
func (l *ledger) victims(n int, now time.Time, idle time.Duration) []netip.Addr {
	var found []*address
	for _, a := range l.addrs {
		e := l.enis[a.ENI]
		if a.State == free && e.State == ENIInUse && a.Addr != e.Primary && now.Sub(a.Since) >= idle {
			found = append(found, a)
		}
	}
	slices.SortFunc(found, func(a, b *address) int {
		return cmp.Or(
			cmp.Compare(l.ownedOn(a.ENI), l.ownedOn(b.ENI)),
			cmp.Compare(a.ENI, b.ENI),
			a.Since.Compare(b.Since),
			a.Addr.Compare(b.Addr),
		)
	})
	addrs := make([]netip.Addr, 0, n)
	for _, a := range found[:min(n, len(found))] {
		addrs = append(addrs, a.Addr)
	}
	return addrs
}

// chooseVSwitch picks the one with the most free addresses in the zone, by ID among equals. promised counts addresses
// that intents not yet carried out will take.
func chooseVSwitch(all []aliyun.VSwitch, zone string, blocked func(id string) bool, promised map[string]int) (aliyun.VSwitch, bool) {
	var best aliyun.VSwitch
	found, most := false, 0
	for _, v := range all {
		left := v.AvailableIPs - promised[v.ID]
		if v.ZoneID != zone || left <= 0 || blocked(v.ID) {
			continue
		}
		if !found || left > most || left == most && v.ID < best.ID {
			best, most, found = v, left, true
		}
	}
	return best, found
}

// promised counts, by vSwitch, the addresses of creations that are only intended.
func (l *ledger) promised() map[string]int {
	counts := map[string]int{}
	for _, e := range l.enis {
		counts[e.VSwitchID] += e.Count
	}
	return counts
}
