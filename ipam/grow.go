package ipam

import (
	"cmp"
	"net/netip"
	"slices"
	"time"

	"github.com/nearpath/nearpath/internal/aliyun"
)

// minENIAge is how long an ENI lives at least: creating and attaching one takes as long as a burst of pods does.
const minENIAge = time.Minute

// A situation is what the plan looks at beside the ledger.
type situation struct {
	marks, exclusive          Watermarks
	waiting, waitingExclusive int // callers
	minENIs                   int
	pace                      IdleReclaim
	reclaim                   bool // it is time to give something back
	noCreate                  bool // the cloud has refused ENIs lately
	now                       time.Time
	// ok says how many addresses an ENI may be asked for now; 0: its vSwitch is full, or it has refused lately.
	ok func(*eni, aliyun.Family) int
}

// A planner makes the steps of one plan.
type planner struct {
	*ledger
	situation
	demand, exclusives demand
	room               int // ENIs that may be created
	going              int // ENIs that make room when they are gone
	steps              []step
	taken              map[string]bool // ENIs that a step is about already
	ripe               time.Time       // see plan
}

// plan lists the steps that the marks and the callers ask for. unmet is what no step and no ENI on its way will bring.
// ripe is when the plan will be another one only because time has passed; zero: never.
func (l *ledger) plan(s situation) (steps []step, unmet int, ripe time.Time) {
	p := &planner{
		ledger: l, situation: s, demand: l.sharedDemand(s.waiting), exclusives: l.exclusiveDemand(s.waitingExclusive),
		room: l.limits.ENIs - len(l.enis), taken: map[string]bool{},
	}
	if s.noCreate {
		p.room = 0
	} else {
		p.going = len(l.byRoom(shared, ENIDetaching, ENIDeleting)) + len(l.byRoom(exclusive, ENIDetaching, ENIDeleting))
	}
	grow, shrink := s.marks.plan(p.demand)
	growExclusive, shrinkExclusive := s.exclusive.plan(p.exclusives)
	if s.waitingExclusive > 0 && s.waiting == 0 {
		unmet = p.growExclusive(growExclusive) + p.growShared(grow, shrinkExclusive)
	} else {
		unmet = p.growShared(grow, shrinkExclusive) + p.growExclusive(growExclusive)
	}
	for there := len(l.enis) + p.creations(); there < s.minENIs && p.room > 0; there++ {
		p.create(shared, 1)
	}
	p.steps = append(p.steps, l.follow(s.ok)...)
	if s.reclaim && grow+growExclusive == 0 {
		p.giveBack(shrink, shrinkExclusive)
	}
	return p.steps, unmet, p.ripe
}

func (p *planner) add(s step) {
	p.steps = append(p.steps, s)
	p.taken[s.eni] = true
}

func (p *planner) create(use purpose, leases int) {
	p.steps = append(p.steps, step{do: stepCreate, use: use, count: leases})
	p.room--
}

func (p *planner) creations() (n int) {
	for _, s := range p.steps {
		if s.do == stepCreate {
			n++
		}
	}
	return n
}

// growShared adds n addresses: it takes back ENIs that were about to go, fills those that are there, the emptiest first,
// converts exclusive ones that are too many, and creates. It returns what is left.
func (p *planner) growShared(n, surplusExclusive int) int {
	for _, e := range p.byRoom(shared, ENIDraining) {
		if n > 0 {
			p.add(step{do: stepRevive, eni: e.Token})
			n -= p.count(e, aliyun.IPv4)
		}
	}
	n = p.fill(n)
	for _, e := range p.idleENIs(exclusive) {
		needed := p.room <= 0 && p.waiting > 0 && p.waitingExclusive == 0
		if n > 0 && (surplusExclusive > 0 || needed) {
			p.add(step{do: stepConvert, eni: e.Token, use: shared})
			n -= p.perENI()
			surplusExclusive--
		}
	}
	for n > 0 && p.room > 0 {
		count := min(n, p.perENI(), maxCreated)
		p.create(shared, count)
		n -= count
	}
	for ; n > 0 && p.going > 0; p.going-- {
		n -= p.perENI() // one will be created in its place
	}
	return max(n, 0)
}

// fill asks the ENIs that are there. One that cannot be asked now, because a call is in flight or it is on its way, still
// counts for the room it will have, so that no ENI is created in its place. Those that must not be asked are passed over.
func (p *planner) fill(n int) int {
	for _, e := range p.byRoom(shared, ENIIntent, ENICreated, ENIAttaching, ENIInUse) {
		room, ok := p.ledger.room(e, aliyun.IPv4), p.ok(e, aliyun.IPv4)
		if n <= 0 || room == 0 || ok == 0 {
			continue
		}
		if e.State == ENIInUse && e.assigning(aliyun.IPv4).Count == 0 && e.missing.IsZero() {
			p.add(step{do: stepAssign, eni: e.Token, family: aliyun.IPv4, count: min(n, room, assignBatch, ok)})
		}
		n -= min(room, ok) // what the batch leaves is for the ENI's next call
	}
	return n
}

// growExclusive adds n exclusive ENIs. Converting an idle shared one costs less than creating one; that is done when the
// shared ones keep their marks without it, or when a caller waits and no ENI can be created.
func (p *planner) growExclusive(n int) int {
	for _, e := range p.byRoom(exclusive, ENIDraining) {
		if n > 0 {
			p.add(step{do: stepRevive, eni: e.Token})
			n--
		}
	}
	spare := p.marks.spare(p.demand)
	for _, e := range p.idleENIs(shared) {
		needed := p.room <= 0 && p.waitingExclusive > 0 && p.waiting == 0
		leases := p.leases(p.census()[e.Token])
		if n > 0 && (leases <= spare || needed) {
			p.add(step{do: stepConvert, eni: e.Token, use: exclusive})
			n, spare = n-1, spare-leases
		}
	}
	for ; n > 0 && p.room > 0; n-- {
		p.create(exclusive, 1)
	}
	for ; n > 0 && p.going > 0; p.going-- {
		n--
	}
	return max(n, 0)
}

// giveBack drains one ENI that is surplus as a whole, or else releases single addresses.
func (p *planner) giveBack(shrink, shrinkExclusive int) {
	if shrinkExclusive > 0 && p.drain(exclusive, 1) {
		return
	}
	if p.drain(shared, p.marks.spare(p.demand)) || shrink == 0 {
		return
	}
	addrs := p.victims(min(shrink, p.pace.Batch), func(a *address) bool {
		e := p.enis[a.ENI]
		return e.Purpose == shared && !p.taken[e.Token] && aliyun.FamilyOf(a.Addr) == aliyun.IPv4 && p.over(a.Since.Add(p.pace.After))
	})
	if len(addrs) > 0 {
		p.add(step{do: stepRelease, addrs: addrs})
	}
}

// drain picks the idle ENI with the most leases to spare that are all old enough.
func (p *planner) drain(use purpose, spare int) bool {
	if len(p.enis) <= p.minENIs || spare <= 0 {
		return false
	}
	census := p.census()
	for _, e := range slices.Backward(p.idleENIs(use)) {
		if p.leases(census[e.Token]) <= spare && p.over(p.matures(e)) {
			p.add(step{do: stepDrain, eni: e.Token})
			return true
		}
	}
	return false
}

// matures is when an ENI and all its addresses are old enough to be given back.
func (p *planner) matures(e *eni) time.Time {
	at := e.Since.Add(minENIAge)
	for _, addr := range p.addressesOn(e.Token) {
		if old := p.addrs[addr].Since.Add(p.pace.After); old.After(at) {
			at = old
		}
	}
	return at
}

// over reports whether a time has come that something to give back waits for. If not, it is one to plan again at.
func (p *planner) over(at time.Time) bool {
	if p.now.Before(at) && (p.ripe.IsZero() || at.Before(p.ripe)) {
		p.ripe = at
	}
	return !p.now.Before(at)
}

// idleENIs lists those that nothing is known or planned about, the ones with the fewest addresses first.
func (p *planner) idleENIs(use purpose) []*eni {
	var enis []*eni
	for _, e := range p.enis {
		if e.Purpose == use && e.usable() && !p.taken[e.Token] && p.idle(e) {
			enis = append(enis, e)
		}
	}
	slices.SortFunc(enis, func(a, b *eni) int {
		return cmp.Or(cmp.Compare(p.count(a, aliyun.IPv4), p.count(b, aliyun.IPv4)), cmp.Compare(a.Slot, b.Slot))
	})
	return enis
}

// byRoom lists the ENIs of a purpose in one of the states, the emptiest first.
func (l *ledger) byRoom(use purpose, states ...ENIState) []*eni {
	var enis []*eni
	for _, e := range l.enis {
		if e.Purpose == use && slices.Contains(states, e.State) {
			enis = append(enis, e)
		}
	}
	slices.SortFunc(enis, func(a, b *eni) int {
		return cmp.Or(
			cmp.Compare(l.room(b, aliyun.IPv4), l.room(a, aliyun.IPv4)),
			cmp.Compare(a.Slot, b.Slot),
			cmp.Compare(a.Token, b.Token),
		)
	})
	return enis
}

// victims picks n free addresses to give back, none primary: from the ENI with the fewest in use, the oldest first. ENIs
// with an assignment in flight are left out: an address may be of that assignment, adopted before its answer came, and a
// repeated call would name it again when it is long gone.
func (l *ledger) victims(n int, ok func(*address) bool) []netip.Addr {
	var found []*address
	busy := map[string]int{}
	for _, a := range l.addrs {
		e := l.enis[a.ENI]
		if a.busy() {
			busy[e.Token]++
		}
		inFlight := e.assigning(aliyun.FamilyOf(a.Addr)).Count > 0
		if a.leasable() && e.State == ENIInUse && a.Addr != e.Primary && !inFlight && ok(a) {
			found = append(found, a)
		}
	}
	slices.SortFunc(found, func(a, b *address) int {
		return cmp.Or(
			cmp.Compare(busy[a.ENI], busy[b.ENI]),
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
