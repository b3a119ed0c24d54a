package ipam

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"time"

	"github.com/nearpath/nearpath/internal/aliyun"
)

// limits are what the instance type and the settings allow.
type limits struct {
	ENIs            int `json:"enis"` // the primary one not counted
	AddressesPerENI int `json:"addressesPerENI"`
	IPv6PerENI      int `json:"ipv6PerENI,omitempty"`
	QueuesPerENI    int `json:"queuesPerENI,omitempty"`
}

// A ledger is the state of the pool. It is pure: its methods check and change, the caller journals what became dirty.
// It is not safe for concurrent use.
type ledger struct {
	limits   limits
	families []aliyun.Family
	enis     map[string]*eni // by Token
	addrs    map[netip.Addr]*address
	byKey    map[Key][]netip.Addr     // owned addresses, IPv4 first
	byName   map[podName][]netip.Addr // kept addresses, IPv4 first
	gone     map[string]time.Time
	// slots are those of ENIs that the ledger does not know yet, by MAC address, after the journal was lost.
	slots map[string]int

	dirtyENIs  map[string]struct{}
	dirtyAddrs map[netip.Addr]struct{}
}

func newLedger(families ...aliyun.Family) *ledger {
	return &ledger{
		families:   families,
		enis:       map[string]*eni{},
		addrs:      map[netip.Addr]*address{},
		byKey:      map[Key][]netip.Addr{},
		byName:     map[podName][]netip.Addr{},
		gone:       map[string]time.Time{},
		dirtyENIs:  map[string]struct{}{},
		dirtyAddrs: map[netip.Addr]struct{}{},
	}
}

func (l *ledger) touchENI(e *eni)      { l.dirtyENIs[e.Token] = struct{}{} }
func (l *ledger) touchAddr(a *address) { l.dirtyAddrs[a.Addr] = struct{}{} }

// perENI is how many leases fit on a shared ENI: as many as it can have addresses of every family.
func (l *ledger) perENI() int {
	n := l.limits.AddressesPerENI
	if slices.Contains(l.families, aliyun.IPv6) {
		n = min(n, l.limits.IPv6PerENI)
	}
	return n
}

// wishFor is what to ask of the creation of an ENI for n leases. The API gives at most 10 IPv6 addresses at once.
func (l *ledger) wishFor(n int) amount {
	w := amount{IPv4: n}
	if slices.Contains(l.families, aliyun.IPv6) {
		w.IPv6 = min(n, assignBatch)
	}
	return w
}

// intend plans the creation of an ENI for n leases.
func (l *ledger) intend(token string, v aliyun.VSwitch, n int, use purpose, now time.Time) error {
	if len(l.enis) >= l.limits.ENIs {
		return fmt.Errorf("plan an ENI: %d beside the primary one are allowed and %d are there", l.limits.ENIs, len(l.enis))
	}
	if most := min(l.perENI(), maxCreated); n < 1 || n > most || use == exclusive && n > 1 {
		return fmt.Errorf("plan an ENI for %d leases: 1 to %d are allowed, and 1 on an exclusive one", n, most)
	}
	if _, ok := l.enis[token]; ok {
		return fmt.Errorf("plan an ENI: token %s is taken", token)
	}
	e := &eni{Token: token, State: ENIIntent, Purpose: use, Since: now, VSwitchID: v.ID, Nets: netsOf(v, l.families), Wish: l.wishFor(n)}
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
	e.unclear, e.doubt, e.missing = false, false, time.Time{}
	e.ID, e.MAC, e.Primary, e.Queues, e.Wish, e.Slot = made.ID, made.MAC, made.PrimaryIP, made.QueueNumber, amount{}, l.freeSlot()
	l.touchENI(e)
	for _, addr := range l.wanted(made) {
		l.learn(e, addr, now)
	}
	return nil
}

// wanted are the addresses of an ENI that are the pool's business: those of its families.
func (l *ledger) wanted(shown aliyun.ENI) []netip.Addr {
	addrs := slices.Clone(shown.PrivateIPs)
	if slices.Contains(l.families, aliyun.IPv6) {
		addrs = append(addrs, shown.IPv6s...)
	}
	return addrs
}

// planAssign announces an AssignIPs call.
func (l *ledger) planAssign(eniToken, token string, f aliyun.Family, count int, now time.Time) error {
	e, err := l.eni(eniToken)
	if err != nil {
		return err
	}
	if e.State != ENIInUse || e.assigning(f).Count > 0 {
		return fmt.Errorf("plan %d more %v addresses on %s: it is %s, or a call is in flight", count, f, e.name(), e.State)
	}
	if room := l.room(e, f); count < 1 || count > room {
		return fmt.Errorf("plan %d more %v addresses on %s: it has room for %d", count, f, e.name(), room)
	}
	e.Assigns = append(slices.Clone(e.Assigns), assignment{Family: f, Token: token, Count: count, Since: now})
	l.touchENI(e)
	return nil
}

// assigned ends an AssignIPs call; no addresses means that the cloud refused.
func (l *ledger) assigned(eniToken string, f aliyun.Family, addrs []netip.Addr, now time.Time) error {
	e, err := l.eni(eniToken)
	if err != nil {
		return err
	}
	e.Assigns = slices.DeleteFunc(slices.Clone(e.Assigns), func(a assignment) bool { return a.Family == f })
	l.touchENI(e)
	for _, addr := range addrs {
		l.learn(e, addr, now)
	}
	return nil
}

// learn records an address that the cloud says is on the ENI; a known one is left as it is, and the result is nil.
func (l *ledger) learn(e *eni, addr netip.Addr, now time.Time) *address {
	if _, ok := l.addrs[addr]; ok {
		return nil
	}
	a := &address{Addr: addr, ENI: e.Token, State: free, Since: now}
	l.addrs[addr] = a
	l.touchAddr(a)
	return a
}

// moveENI changes the state of an ENI; gone drops the record, which must own no address.
func (l *ledger) moveENI(token string, to ENIState, now time.Time) error {
	e, err := l.eni(token)
	if err != nil {
		return err
	}
	if (to == ENIDetaching || to == ENIDeleting || to == eniGone) && l.busyOn(token) > 0 {
		return fmt.Errorf("move ENI %s to %q: %d of its addresses are in use", e.name(), to, l.busyOn(token))
	}
	if to == ENIDraining && !l.idle(e) {
		return fmt.Errorf("drain ENI %s: it has addresses that are in use or on their way", e.name())
	}
	if err := e.move(to, now); err != nil {
		return err
	}
	if to != ENIDraining {
		e.wired = false
	}
	l.touchENI(e)
	if to == eniGone {
		l.drop(e, now)
	}
	return nil
}

// restart lets the time of the ENI's state begin anew.
func (l *ledger) restart(token string, now time.Time) error {
	e, err := l.eni(token)
	if err != nil {
		return err
	}
	e.Since = now
	l.touchENI(e)
	return nil
}

// convert changes what an idle ENI is for.
func (l *ledger) convert(token string, use purpose) error {
	e, err := l.eni(token)
	if err != nil {
		return err
	}
	if e.State != ENIInUse || e.Purpose == use || !l.idle(e) {
		return fmt.Errorf("convert ENI %s: it is %s, of that kind already, or has addresses that are in use or on their way", e.name(), e.State)
	}
	e.Purpose, e.wired = use, false
	l.touchENI(e)
	return nil
}

func (l *ledger) drop(e *eni, now time.Time) {
	delete(l.enis, e.Token)
	if e.ID != "" {
		l.gone[e.ID] = now
	}
	for _, addr := range l.addressesOn(e.Token) {
		l.forget(l.addrs[addr])
	}
}

// forget drops the record of an address without an owner.
func (l *ledger) forget(a *address) {
	delete(l.addrs, a.Addr)
	l.touchAddr(a)
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
		l.forget(a)
	}
	return nil
}

func (l *ledger) eni(token string) (*eni, error) {
	if e, ok := l.enis[token]; ok {
		return e, nil
	}
	return nil, fmt.Errorf("no ENI with token %s", token)
}

func (l *ledger) eniByID(id string) *eni {
	for _, e := range l.enis {
		if e.ID == id {
			return e
		}
	}
	return nil
}

// busyOn counts the addresses of an ENI that a pod has, may get back or may still use.
func (l *ledger) busyOn(token string) (n int) {
	for _, a := range l.addrs {
		if a.ENI == token && a.busy() {
			n++
		}
	}
	return n
}

// idle says that nobody has or awaits an address of the ENI, and no call about its addresses is under way.
func (l *ledger) idle(e *eni) bool {
	return l.busyOn(e.Token) == 0 && len(e.Assigns) == 0 && len(l.releasingOn(e.Token)) == 0
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
	for addr, a := range l.addrs {
		if a.ENI == token && a.State == releasing {
			addrs = append(addrs, addr)
		}
	}
	slices.SortFunc(addrs, netip.Addr.Compare)
	return addrs
}

// count is how many addresses of a family are on the ENI, whatever their state.
func (l *ledger) count(e *eni, f aliyun.Family) (n int) {
	for addr, a := range l.addrs {
		if a.ENI == e.Token && aliyun.FamilyOf(addr) == f {
			n++
		}
	}
	return n
}

// room is how many addresses of a family the ENI can still get, calls in flight counted.
func (l *ledger) room(e *eni, f aliyun.Family) int {
	most := l.perENI()
	if e.Purpose == exclusive {
		most = min(most, 1)
	}
	return max(most-l.count(e, f)-e.awaited(f), 0)
}

// slotOf is the slot for an ENI that is adopted: the one it had, unless another has it now.
func (l *ledger) slotOf(mac string) int {
	had, ok := l.slots[mac]
	if !ok {
		return l.freeSlot()
	}
	l.slots = maps.Clone(l.slots)
	delete(l.slots, mac)
	for _, e := range l.enis {
		if e.Slot == had {
			return l.freeSlot()
		}
	}
	return had
}

// freeSlot is the lowest slot that no ENI has or had; slots start at 1.
func (l *ledger) freeSlot() int {
	taken := map[int]bool{}
	for _, e := range l.enis {
		taken[e.Slot] = true
	}
	for _, slot := range l.slots {
		taken[slot] = true
	}
	slot := 1
	for taken[slot] {
		slot++
	}
	return slot
}
