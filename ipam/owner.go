package ipam

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/nearpath/nearpath/internal/aliyun"
)

// errNoneFree says that every usable address has an owner; errNotWired that the addresses kept for the pod are on an ENI
// that the node is not ready for yet.
var (
	errNoneFree = errors.New("no usable address is free")
	errNotWired = errors.New("the ENI of the kept addresses is not ready")
)

// owned returns the records of a key, IPv4 first.
func (l *ledger) owned(key Key) []*address { return l.records(l.byKey[key]) }

func (l *ledger) records(addrs []netip.Addr) []*address {
	var list []*address
	for _, addr := range addrs {
		list = append(list, l.addrs[addr])
	}
	return list
}

// rules say how to choose among addresses.
type rules struct {
	policy ENIPolicy
	// reuse lets a cooling address be leased when nothing else can be.
	reuse bool
}

// reserve takes one address of each family, all on one ENI: those kept for the pod's name, else free ones, else cooling
// ones if that is allowed. Of an ENI's addresses it takes those that have rested the longest.
func (l *ledger) reserve(r Request, rules rules, now time.Time, cooldown time.Duration) error {
	if list := l.owned(r.Key); len(list) > 0 {
		return fmt.Errorf("reserve an address for %s: it has %s", r.Key, list[0].Addr)
	}
	found, err := l.keptFor(r)
	if err != nil {
		return err
	}
	if found == nil {
		found = l.best(r, rules.policy, (*address).leasable)
	}
	if found == nil && rules.reuse {
		found = l.best(r, rules.policy, func(a *address) bool {
			return a.leasable() || a.State == cooling && a.missing.IsZero()
		})
	}
	if found == nil {
		return errNoneFree
	}
	for _, a := range found {
		before := *a
		if err := a.move(reserved, now); err != nil {
			return err
		}
		a.Key, a.Pod, a.Until, a.before = r.Key, r.Pod, time.Time{}, &before
		l.byKey[r.Key] = append(l.byKey[r.Key], a.Addr)
		l.touchAddr(a)
	}
	l.unkeep(r.Pod.name(), now, cooldown)
	return nil
}

// keptFor finds what is kept for the pod's name, completed with free addresses where a family is missing.
func (l *ledger) keptFor(r Request) ([]*address, error) {
	addrs := l.byName[r.Pod.name()]
	if len(addrs) == 0 {
		return nil, nil
	}
	e := l.enis[l.addrs[addrs[0]].ENI]
	switch {
	case e.Purpose != purposeOf(r.Exclusive) || !e.missing.IsZero():
		return nil, nil
	case e.coming():
		return nil, errNotWired
	case !e.usable():
		return nil, nil
	}
	return l.pickOn(e, func(a *address) bool {
		return a.leasable() || slices.Contains(addrs, a.Addr) && a.missing.IsZero()
	}), nil
}

// best chooses the ENI and the addresses on it.
func (l *ledger) best(r Request, policy ENIPolicy, ok func(*address) bool) []*address {
	for _, e := range l.ranked(purposeOf(r.Exclusive), policy) {
		if e.Purpose == exclusive && !l.unowned(e) {
			continue
		}
		if found := l.pickOn(e, ok); found != nil {
			return found
		}
	}
	return nil
}

// unowned says that no pod has the ENI or may get it back.
func (l *ledger) unowned(e *eni) bool {
	for _, a := range l.addrs {
		if a.ENI == e.Token && (a.owned() || a.State == kept || a.Unproven) {
			return false
		}
	}
	return true
}

// pickOn takes one address of each family from the ENI, or nothing. Kept ones come first and cooling ones last; an
// exclusive ENI is leased with its primary address.
func (l *ledger) pickOn(e *eni, ok func(*address) bool) []*address {
	var picked []*address
	for _, f := range l.families {
		var best *address
		for addr, a := range l.addrs {
			primaryOnly := e.Purpose == exclusive && f == aliyun.IPv4 && addr != e.Primary
			if a.ENI != e.Token || aliyun.FamilyOf(addr) != f || primaryOnly || !ok(a) {
				continue
			}
			if best == nil || rest(a, best) < 0 {
				best = a
			}
		}
		if best == nil {
			return nil
		}
		picked = append(picked, best)
	}
	return picked
}

// rest orders addresses by how gladly they are leased.
func rest(a, b *address) int {
	order := map[addressState]int{kept: 1, free: 2, cooling: 3}
	return cmp.Or(cmp.Compare(order[a.State], order[b.State]), a.Since.Compare(b.Since), a.Addr.Compare(b.Addr))
}

// confirm ends a reservation that is on disk.
func (l *ledger) confirm(key Key, now time.Time) error {
	list := l.owned(key)
	if len(list) == 0 {
		return fmt.Errorf("confirm the reservation of %s: it has none", key)
	}
	for _, a := range list {
		a.before = nil
		if err := a.move(assigned, now); err != nil { // on disk already, see onDisk
			return err
		}
	}
	return nil
}

// cancel undoes a reservation that could not be journalled.
func (l *ledger) cancel(key Key, now time.Time) error {
	for _, a := range l.owned(key) {
		before := a.before
		if a.State != reserved || before == nil {
			return fmt.Errorf("cancel the reservation of %s: %s is %s", key, a.Addr, a.State)
		}
		if err := a.move(before.State, now); err != nil {
			return err
		}
		a.Key, a.Pod, a.Until, a.before = before.Key, before.Pod, before.Until, nil
		if a.State == kept {
			l.byName[a.Pod.name()] = append(l.byName[a.Pod.name()], a.Addr)
		}
		l.touchAddr(a)
	}
	delete(l.byKey, key)
	return nil
}

// A term says what becomes of released addresses: they stay reserved for the pod's name, and then they cool.
type term struct{ keep, cooldown time.Duration }

// end takes the addresses from their owner. It is true when the key had any.
func (l *ledger) end(key Key, t term, now time.Time) (bool, error) {
	list := l.owned(key)
	if len(list) == 0 {
		return false, nil
	}
	name := list[0].Pod.name()
	keeps := t.keep > 0 && name.name != ""
	if keeps {
		l.unkeep(name, now, t.cooldown) // the younger lease is the one to keep
	}
	for _, a := range list {
		to, until := cooling, now.Add(t.cooldown)
		if keeps {
			to, until = kept, now.Add(t.keep)
		}
		if err := a.move(to, now); err != nil {
			return false, err
		}
		a.Key, a.Until = Key{}, until
		if keeps {
			a.Pod.UID = ""
			l.byName[name] = append(l.byName[name], a.Addr)
		} else {
			a.Pod = Pod{}
		}
		l.touchAddr(a)
	}
	delete(l.byKey, key)
	return true, nil
}

// unkeep lets what is still kept for a name cool.
func (l *ledger) unkeep(name podName, now time.Time, cooldown time.Duration) {
	for _, a := range l.records(l.byName[name]) {
		if a.State == kept {
			l.chill(a, now, now.Add(cooldown))
		}
	}
	delete(l.byName, name)
}

func (l *ledger) chill(a *address, now, until time.Time) {
	a.State, a.Since, a.Until, a.Key, a.Pod = cooling, now, until, Key{}, Pod{}
	l.touchAddr(a)
}

// settleRetry is how soon an address whose cooldown is over is asked about again, and settleLimit how long after its
// cooldown it is leased all the same: a pool must not run dry because somebody's Service names an address for ever.
const (
	settleRetry = 500 * time.Millisecond
	settleLimit = 5 * time.Minute
)

// An expiry is what came of expire.
type expiry struct {
	ended     int          // keepings and coolings
	next      time.Time    // when to look again; zero: never
	unsettled int          // addresses that go on cooling because they are not settled
	overdue   []netip.Addr // addresses that are free though they are not settled
}

// expire ends what is over: keeping, then cooling. A cooling address must also be settled; see Config.Settled.
func (l *ledger) expire(now time.Time, cooldown time.Duration, settled func(netip.Addr) bool) (e expiry) {
	due := func(t time.Time) {
		if e.next.IsZero() || t.Before(e.next) {
			e.next = t
		}
	}
	for _, a := range l.addrs {
		if a.State == kept && !now.Before(a.Until) {
			l.unkeep(a.Pod.name(), now, cooldown)
			e.ended++
		}
	}
	for _, a := range l.addrs {
		switch {
		case a.State != cooling && a.State != kept:
		case now.Before(a.Until):
			due(a.Until)
		case settled == nil || settled(a.Addr):
			l.warm(a, now)
			e.ended++
		case now.Before(a.Until.Add(settleLimit)):
			e.unsettled++
			due(now.Add(settleRetry))
		default:
			e.overdue = append(e.overdue, a.Addr)
			l.warm(a, now)
			e.ended++
		}
	}
	return e
}

// warm ends a cooling.
func (l *ledger) warm(a *address, now time.Time) {
	a.State, a.Since, a.Until = free, now, time.Time{}
	l.touchAddr(a)
}

// prove ends the doubt about adopted addresses: those that are in use get their owner, the others can be leased. What
// cannot be brought under one of the two stays in doubt and is returned.
func (l *ledger) prove(inUse []InUse, now time.Time) (doubtful []netip.Addr) {
	users := map[netip.Addr]InUse{}
	for _, u := range inUse {
		users[u.Addr] = u
	}
	for _, addr := range l.unproven() {
		a := l.addrs[addr]
		u, used := users[addr]
		switch {
		case !used:
			a.Unproven = false
		case a.State == free && l.fits(u, a):
			l.enis[a.ENI].Purpose = purposeOf(u.Exclusive)
			l.touchENI(l.enis[a.ENI])
			a.State, a.Since, a.Key, a.Pod, a.Unproven = assigned, now, u.Key, u.Pod, false
			l.byKey[u.Key] = sorted(append(l.byKey[u.Key], addr))
		default:
			doubtful = append(doubtful, addr)
			continue
		}
		l.touchAddr(a)
	}
	return doubtful
}

// fits says that an address can join what its user has: nothing yet, or an address of the other family on the same ENI.
func (l *ledger) fits(u InUse, a *address) bool {
	if u.Key == (Key{}) {
		return false
	}
	for _, other := range l.owned(u.Key) {
		if other.ENI != a.ENI || aliyun.FamilyOf(other.Addr) == aliyun.FamilyOf(a.Addr) {
			return false
		}
	}
	return true
}

func (l *ledger) unproven() []netip.Addr {
	var addrs []netip.Addr
	for addr, a := range l.addrs {
		if a.Unproven {
			addrs = append(addrs, addr)
		}
	}
	return sorted(addrs)
}

func sorted(addrs []netip.Addr) []netip.Addr {
	slices.SortFunc(addrs, netip.Addr.Compare)
	return addrs
}

// restore puts a journalled record back. Two records of one owner and family cannot be written, but if they are there
// the younger one is the owner's and the older one cools.
func (l *ledger) restore(a address, cooldown time.Duration) {
	l.addrs[a.Addr] = &a
	var same []netip.Addr
	switch {
	case a.owned():
		same = l.byKey[a.Key]
	case a.State == kept:
		same = l.byName[a.Pod.name()]
	default:
		return
	}
	for i, addr := range same {
		loser := l.addrs[addr]
		if aliyun.FamilyOf(addr) != aliyun.FamilyOf(a.Addr) {
			continue
		}
		if a.Since.Before(loser.Since) {
			l.chill(&a, a.Since, a.Since.Add(cooldown))
			return
		}
		l.chill(loser, loser.Since, loser.Since.Add(cooldown))
		same = slices.Delete(slices.Clone(same), i, i+1)
		break
	}
	if a.State == kept {
		l.byName[a.Pod.name()] = sorted(append(same, a.Addr))
	} else {
		l.byKey[a.Key] = sorted(append(same, a.Addr))
	}
}
