package ipam

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"
	"time"
)

// lease runs under the lock; the key must have addresses.
func (p *Pool) lease(key Key) Lease {
	list := p.ledger.owned(key)
	e := p.ledger.enis[list[0].ENI]
	lease := Lease{Key: key, Pod: list[0].Pod, ENI: e.lease(), Exclusive: e.Purpose == exclusive}
	for _, a := range list {
		lease.Addrs = append(lease.Addrs, a.Addr)
	}
	return lease
}

// Lookup returns the lease of a key.
func (p *Pool) Lookup(key Key) (Lease, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if list := p.ledger.owned(key); len(list) == 0 || list[0].State != assigned {
		return Lease{}, false
	}
	return p.lease(key), true
}

// Leases returns every lease, by address.
func (p *Pool) Leases() []Lease {
	p.mu.Lock()
	defer p.mu.Unlock()
	leases := make([]Lease, 0, len(p.ledger.byKey))
	for key := range p.ledger.byKey {
		if p.ledger.owned(key)[0].State == assigned {
			leases = append(leases, p.lease(key))
		}
	}
	slices.SortFunc(leases, func(a, b Lease) int { return a.Addrs[0].Compare(b.Addrs[0]) })
	return leases
}

// ENIs returns the pool's ENIs, those without an ID included, by slot.
func (p *Pool) ENIs() []ENI {
	p.mu.Lock()
	defer p.mu.Unlock()
	views := make([]ENI, 0, len(p.ledger.enis))
	for _, e := range p.ledger.enis {
		views = append(views, ENI{
			LeaseENI: e.lease(), VSwitchID: e.VSwitchID, State: e.State, Exclusive: e.Purpose == exclusive, Wired: e.wired,
			Queues: p.ledger.queues(e), Pods: p.ledger.podsOn(e.Token), Addresses: p.ledger.addressesOn(e.Token),
		})
	}
	slices.SortFunc(views, func(a, b ENI) int { return cmp.Or(cmp.Compare(a.Slot, b.Slot), cmp.Compare(a.ID, b.ID)) })
	return views
}

func (l *ledger) podsOn(token string) int {
	keys := map[Key]bool{}
	for _, a := range l.addrs {
		if a.ENI == token && a.owned() {
			keys[a.Key] = true
		}
	}
	return len(keys)
}

// A KeptAddress is one that waits for a pod of its name.
type KeptAddress struct {
	Namespace, Name string
	Addr            netip.Addr
	Until           time.Time
	Exclusive       bool // the pod is to have the whole ENI again
}

// Kept returns the addresses that are reserved for pods' names, by address.
func (p *Pool) Kept() []KeptAddress {
	p.mu.Lock()
	defer p.mu.Unlock()
	var list []KeptAddress
	for _, a := range p.ledger.addrs {
		if a.State == kept {
			list = append(list, KeptAddress{a.Pod.Namespace, a.Pod.Name, a.Addr, a.Until, p.ledger.enis[a.ENI].Purpose == exclusive})
		}
	}
	slices.SortFunc(list, func(a, b KeptAddress) int { return a.Addr.Compare(b.Addr) })
	return list
}

// Stats returns the pool's counts as of now.
func (p *Pool) Stats() Stats {
	p.mu.Lock()
	defer p.mu.Unlock()
	d, x := p.demand(false), p.demand(true)
	s := Stats{
		Idle: d.idle, Cooling: d.cooling, Pending: d.pending, Waiting: d.waiting, Capacity: d.atMost, ENIs: len(p.ledger.enis),
		Exclusive: ExclusiveStats{Idle: x.idle, Cooling: x.cooling, Pending: x.pending, Waiting: x.waiting, Capacity: x.atMost},
	}
	for token, t := range p.ledger.census() {
		isExclusive := p.ledger.enis[token].Purpose == exclusive
		for f, n := range t {
			s.Unproven += n.unproven
			if f != p.config.Families[0] {
				continue
			}
			if isExclusive {
				s.Exclusive.Used += min(n.leased, 1)
				s.Exclusive.Kept += min(n.kept, 1)
			} else {
				s.Used += n.leased
				s.Kept += n.kept
				s.Cooling -= n.unproven
			}
		}
	}
	for _, a := range p.ledger.addrs {
		if a.State == quarantine {
			s.Quarantined++
		}
	}
	return s
}

// Capacity says how many pods fit on the node. It is zero until the cloud has described the instance once.
func (p *Pool) Capacity() Capacity {
	p.mu.Lock()
	defer p.mu.Unlock()
	l := p.ledger
	return Capacity{Shared: l.limits.ENIs * l.perENI(), Exclusive: l.limits.ENIs}
}

// A VSwitchView is what the pool knows of a vSwitch, for operators.
type VSwitchView struct {
	ID string
	// Zone, Free and Asked are of the last time the pool asked the cloud; Asked is zero before that.
	Zone    string
	Free    int
	Asked   time.Time
	Breaker BreakerState
	Until   time.Time // when an open breaker lets one address be asked for
	Err     error     // the last refusal for lack of addresses, nil after a success
	ENIs    int       // of the pool, in the vSwitch
}

// VSwitches returns those that are configured or in use, by ID.
func (p *Pool) VSwitches() []VSwitchView {
	p.mu.Lock()
	defer p.mu.Unlock()
	enis := map[string]int{}
	for _, id := range p.vSwitchIDs() {
		enis[id] = 0
	}
	for _, e := range p.ledger.enis {
		enis[e.VSwitchID]++
	}
	delete(enis, "") // the instance's own, while that is not known
	var views []VSwitchView
	for _, id := range slices.Sorted(maps.Keys(enis)) {
		b, d := p.breakers[id], p.described[id]
		views = append(views, VSwitchView{
			ID: id, Zone: d.ZoneID, Free: d.AvailableIPs, Asked: d.asked,
			Breaker: b.state(time.Now()), Until: b.until, Err: b.err, ENIs: enis[id],
		})
	}
	return views
}
