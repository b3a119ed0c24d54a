package ipam

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/nearpath/nearpath/internal/aliyun"
)

// errNoneFree says that every usable address has an owner.
var errNoneFree = errors.New("no usable address is free")

// limits are what the instance type allows.
type limits struct {
	ENIs            int `json:"enis"` // the primary one not counted
	AddressesPerENI int `json:"addressesPerENI"`
}

func (l limits) capacity() int { return l.ENIs * l.AddressesPerENI }

// A ledger is the state of the pool. It is pure: its methods check and change, the caller journals what became dirty.
// It is not safe for concurrent use.
type ledger struct {
	limits limits
	enis   map[string]*eni // by Token
	addrs  map[netip.Addr]*address
	byKey  map[Key]netip.Addr // owned addresses
	gone   map[string]time.Time

	dirtyENIs  map[string]struct{}
	dirtyAddrs map[netip.Addr]struct{}
}

func newLedger() *ledger {
	return &ledger{
		enis:       map[string]*eni{},
		addrs:      map[netip.Addr]*address{},
		byKey:      map[Key]netip.Addr{},
		gone:       map[string]time.Time{},
		dirtyENIs:  map[string]struct{}{},
		dirtyAddrs: map[netip.Addr]struct{}{},
	}
}

// restore puts a journalled record back. Two records of one key cannot be written, but if they are there the younger
// one is the owner and the older one cools.
func (l *ledger) restore(a address, cooldown time.Duration) {
	l.addrs[a.Addr] = &a
	if !a.owned() {
		return
	}
	if other, ok := l.byKey[a.Key]; ok {
		loser := l.addrs[other]
		if a.Since.Before(loser.Since) {
			loser = &a
		}
		loser.State, loser.Until, loser.Key, loser.Pod = cooling, loser.Since.Add(cooldown), Key{}, Pod{}
		l.dirtyAddrs[loser.Addr] = struct{}{}
		if loser == &a {
			return
		}
	}
	l.byKey[a.Key] = a.Addr
}

func (l *ledger) touchENI(e *eni)      { l.dirtyENIs[e.Token] = struct{}{} }
func (l *ledger) touchAddr(a *address) { l.dirtyAddrs[a.Addr] = struct{}{} }

// owner returns the record of a key, or nil.
func (l *ledger) owner(key Key) *address {
	if addr, ok := l.byKey[key]; ok {
		return l.addrs[addr]
	}
	return nil
}

// reserve takes the usable address that has been free the longest, so that an address rests as long as it can between
// two owners.
func (l *ledger) reserve(key Key, pod Pod, now time.Time) (*address, error) {
	if a := l.owner(key); a != nil {
		return nil, fmt.Errorf("reserve an address for %s: it has %s", key, a.Addr)
	}
	var best *address
	for _, a := range l.addrs {
		if a.State != free || !a.missing.IsZero() || !l.enis[a.ENI].usable() {
			continue
		}
		if best == nil || a.Since.Before(best.Since) || a.Since.Equal(best.Since) && a.Addr.Less(best.Addr) {
			best = a
		}
	}
	if best == nil {
		return nil, errNoneFree
	}
	if err := best.move(reserved, now); err != nil {
		return nil, err
	}
	best.Key, best.Pod = key, pod
	l.byKey[key] = best.Addr
	l.touchAddr(best)
	return best, nil
}

// confirm ends a reservation that is on disk.
func (l *ledger) confirm(addr netip.Addr, now time.Time) error {
	a, ok := l.addrs[addr]
	if !ok {
		return fmt.Errorf("confirm %s: unknown address", addr)
	}
	return a.move(assigned, now) // on disk already, see onDisk
}

// cancel ends a reservation that could not be journalled.
func (l *ledger) cancel(addr netip.Addr, now time.Time) error {
	a, ok := l.addrs[addr]
	if !ok || a.State != reserved {
		return fmt.Errorf("cancel reservation of %s: not reserved", addr)
	}
	delete(l.byKey, a.Key)
	a.Key, a.Pod = Key{}, Pod{}
	l.touchAddr(a)
	return a.move(free, now)
}

// cool takes the address from its owner. It is true when the key had one.
func (l *ledger) cool(key Key, now time.Time, cooldown time.Duration) (bool, error) {
	a := l.owner(key)
	if a == nil {
		return false, nil
	}
	if err := a.move(cooling, now); err != nil {
		return false, err
	}
	delete(l.byKey, key)
	a.Key, a.Pod, a.Until = Key{}, Pod{}, now.Add(cooldown)
	l.touchAddr(a)
	return true, nil
}

// expire frees the addresses whose cooling is over, and says when the next one is due (zero: none cools).
func (l *ledger) expire(now time.Time) (freed int, next time.Time) {
	for _, a := range l.addrs {
		if a.State != cooling {
			continue
		}
		if now.Before(a.Until) {
			if next.IsZero() || a.Until.Before(next) {
				next = a.Until
			}
			continue
		}
		a.State, a.Since, a.Until = free, now, time.Time{}
		l.touchAddr(a)
		freed++
	}
	return freed, next
}

// intend plans the creation of an ENI with count addresses, the primary one included.
func (l *ledger) intend(token string, v aliyun.VSwitch, count int, now time.Time) error {
	if len(l.enis) >= l.limits.ENIs {
		return fmt.Errorf("plan an ENI: the instance type allows %d beside the primary one and %d are there", l.limits.ENIs, len(l.enis))
	}
	if count < 1 || count > l.limits.AddressesPerENI {
		return fmt.Errorf("plan an ENI with %d addresses: the instance type allows 1 to %d", count, l.limits.AddressesPerENI)
	}
	if _, ok := l.enis[token]; ok {
		return fmt.Errorf("plan an ENI: token %s is taken", token)
	}
	e := &eni{Token: token, State: ENIIntent, Since: now, VSwitchID: v.ID, Subnet: v.CIDR, Gateway: gateway(v.CIDR), Count: count}
	l.enis[token] = e
	l.touchENI(e)
	return nil
}

// created records what the cloud made of an intent.
func (l *ledger) created(token string, made aliyun.ENI, now time.Time) error {
	e, err := l.eni(token)
	if err != nil {
		return err
	}
	if err := e.move(ENICreated, now); err != nil {
		return err
	}
	e.ID, e.MAC, e.Primary, e.Count, e.Slot = made.ID, made.MAC, made.PrimaryIP, 0, l.freeSlot()
	l.touchENI(e)
	for _, addr := range made.PrivateIPs {
		l.learn(e, addr, now)
	}
	return nil
}

// planAssign announces an AssignIPs call.
func (l *ledger) planAssign(eniToken, token string, count int, now time.Time) error {
	e, err := l.eni(eniToken)
	if err != nil {
		return err
	}
	if e.State != ENIInUse || e.Assign != nil {
		return fmt.Errorf("plan %d more addresses on %s: it is %s, or a call is in flight", count, e.name(), e.State)
	}
	if room := l.room(e); count < 1 || count > room {
		return fmt.Errorf("plan %d more addresses on %s: it has room for %d", count, e.name(), room)
	}
	e.Assign = &assignment{Token: token, Count: count, Since: now}
	l.touchENI(e)
	return nil
}

// assigned ends an AssignIPs call; no addresses means that the cloud refused.
func (l *ledger) assigned(eniToken string, addrs []netip.Addr, now time.Time) error {
	e, err := l.eni(eniToken)
	if err != nil {
		return err
	}
	e.Assign = nil
	l.touchENI(e)
	for _, addr := range addrs {
		l.learn(e, addr, now)
	}
	return nil
}

// learn records an address that the cloud says is on the ENI; a known one is left as it is.
func (l *ledger) learn(e *eni, addr netip.Addr, now time.Time) bool {
	if _, ok := l.addrs[addr]; ok {
		return false
	}
	a := &address{Addr: addr, ENI: e.Token, State: free, Since: now}
	l.addrs[addr] = a
	l.touchAddr(a)
	return true
}

// moveENI changes the state of an ENI; gone drops the record, which must own no address.
func (l *ledger) moveENI(token string, to ENIState, now time.Time) error {
	e, err := l.eni(token)
	if err != nil {
		return err
	}
	if (to == ENIDetaching || to == ENIDeleting || to == eniGone) && l.ownedOn(token) > 0 {
		return fmt.Errorf("move ENI %s to %q: %d of its addresses are in use", e.name(), to, l.ownedOn(token))
	}
	if err := e.move(to, now); err != nil {
		return err
	}
	if to != ENIInUse && to != ENIDraining {
		e.wired = false
	}
	l.touchENI(e)
	if to == eniGone {
		l.drop(e, now)
	}
	return nil
}

func (l *ledger) drop(e *eni, now time.Time) {
	delete(l.enis, e.Token)
	if e.ID != "" {
		l.gone[e.ID] = now
	}
	for addr, a := range l.addrs {
		if a.ENI == e.Token {
			delete(l.addrs, addr)
			l.touchAddr(a)
		}
	}
}

// release announces that the addresses go back to the cloud.
func (l *ledger) release(addrs []netip.Addr, now time.Time) error {
	for _, addr := range addrs {
		a, ok := l.addrs[addr]
		if !ok {
			return fmt.Errorf("release %s: unknown address", addr)
		}
		if addr == l.enis[a.ENI].Primary {
			return fmt.Errorf("release %s: it is the primary address of %s", addr, l.enis[a.ENI].name())
		}
		if err := a.move(releasing, now); err != nil {
			return err
		}
		l.touchAddr(a)
	}
	return nil
}

// released records that the cloud has taken the addresses back.
func (l *ledger) released(addrs []netip.Addr, now time.Time) error {
	for _, addr := range addrs {
		a, ok := l.addrs[addr]
		if !ok {
			continue // a sync saw it first
		}
		if err := a.move(gone, now); err != nil {
			return err
		}
		delete(l.addrs, addr)
		l.touchAddr(a)
	}
	return nil
}

func (l *ledger) eni(token string) (*eni, error) {
	if e, ok := l.enis[token]; ok {
		return e, nil
	}
	return nil, fmt.Errorf("unknown ENI record %s", token)
}

func (l *ledger) eniByID(id string) *eni {
	for _, e := range l.enis {
		if e.ID == id {
			return e
		}
	}
	return nil
}

// ownedOn counts the addresses of an ENI that a pod has or may still use.
func (l *ledger) ownedOn(token string) (n int) {
	for _, a := range l.addrs {
		if a.ENI == token && (a.owned() || a.State == cooling) {
			n++
		}
	}
	return n
}

func (l *ledger) addressesOn(token string) []netip.Addr {
	var addrs []netip.Addr
	for addr, a := range l.addrs {
		if a.ENI == token {
			addrs = append(addrs, addr)
		}
	}
	slices.SortFunc(addrs, netip.Addr.Compare)
	return addrs
}

func (l *ledger) releasingOn(token string) []netip.Addr {
	var addrs []netip.Addr
	for _, addr := range l.addressesOn(token) {
		if l.addrs[addr].State == releasing {
			addrs = append(addrs, addr)
		}
	}
	return addrs
}

// room is how many addresses the ENI can still get, calls in flight counted.
func (l *ledger) room(e *eni) int {
	n := l.limits.AddressesPerENI - e.Count - len(l.addressesOn(e.Token))
	if e.Assign != nil {
		n -= e.Assign.Count
	}
	return max(n, 0)
}

// freeSlot is the lowest slot that no ENI has; slots start at 1.
func (l *ledger) freeSlot() int {
	taken := map[int]bool{}
	for _, e := range l.enis {
		taken[e.Slot] = true
	}
	slot := 1
	for taken[slot] {
		slot++
	}
	return slot
}

// gateway is the address of a vSwitch's router: the third address from its end (Alibaba Cloud, "vSwitch overview": the
// first and the last three addresses are reserved; x.x.x.253 for a /24).
func gateway(cidr netip.Prefix) netip.Addr {
	if !cidr.IsValid() {
		return netip.Addr{}
	}
	raw := cidr.Masked().Addr().AsSlice()
	for bit := cidr.Bits(); bit < len(raw)*8; bit++ {
		raw[bit/8] |= 1 << (7 - bit%8)
	}
	last, _ := netip.AddrFromSlice(raw)
	return last.Prev().Prev()
}
