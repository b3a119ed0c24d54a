package ipam

import (
	"errors"
	"net/netip"
	"slices"
	"time"

	"github.com/nearpath/nearpath/internal/aliyun"
)

// secondLook is how long something must have been missing before its absence is believed.
const secondLook = 30 * time.Second

// Tags of the ENIs that the pool creates. An ENI is the pool's when the first one has the pool's value and the ENI is
// attached to this instance or, being unattached, the second one names it.
const (
	tagOwner    = "nearpath"
	tagInstance = "nearpath-instance"
	tagIntent   = "nearpath-intent"
)

// errNoPrimary marks a listing that cannot be whole: the instance always has its primary ENI.
var errNoPrimary = errors.New("the listing does not hold the instance's primary ENI")

// identity is what tells the pool's ENIs from others.
type identity struct {
	owner      string // value of tagOwner
	instanceID string
	block      map[string]string // ENIs with one of these tags are left alone
	filter     map[string]string // unknown ENIs without all of these tags are not adopted
}

func (id identity) ours(e aliyun.ENI) bool {
	if e.Type == aliyun.TypePrimary || e.Tags[tagOwner] != id.owner || blocks(id.block, e.Tags) {
		return false
	}
	if e.InstanceID != "" {
		return e.InstanceID == id.instanceID
	}
	return e.Tags[tagInstance] == id.instanceID
}

// adopts says whether an ENI of ours that the journal does not know becomes one of the pool's.
func (id identity) adopts(e aliyun.ENI) bool {
	for key, value := range id.filter {
		if have, ok := e.Tags[key]; !ok || have != value {
			return false
		}
	}
	return true
}

func (id identity) tags(intent string) map[string]string {
	return map[string]string{tagOwner: id.owner, tagInstance: id.instanceID, tagIntent: intent}
}

// An observation is what the cloud showed in one sync.
type observation struct {
	enis []aliyun.ENI
	// vSwitches of the ENIs that the ledger does not know.
	vSwitches map[string]aliyun.VSwitch
	// versions of the ledger's ENIs from before the cloud was asked: an ENI that was worked on since is not judged.
	versions map[string]int
	started  time.Time
	// unproven says that addresses which the journal does not know may be in use.
	unproven bool
}

// A finding is a difference that a sync saw, for the log.
type finding struct {
	what string
	eni  string
	addr netip.Addr
}

// observe brings the ledger in line with the cloud. The cloud is the authority on what exists, but what it does not show
// must be missing twice before it is forgotten, and an address with an owner is never forgotten.
// ENIs that were worked on meanwhile are not judged; skipped counts them.
func (l *ledger) observe(o observation, id identity, now time.Time) (found []finding, skipped int) {
	seen := map[string]bool{}
	for _, shown := range o.enis {
		if id.ours(shown) && (l.match(shown) != nil || id.adopts(shown)) {
			seen[shown.ID] = true
			found = append(found, l.see(o, shown, now)...)
		}
	}
	for _, e := range l.enis {
		switch {
		case !o.judges(e):
			skipped++
		case e.ID != "" && !seen[e.ID] || e.doubt:
			found = append(found, l.lose(e, now)...)
		}
	}
	for eniID, left := range l.gone {
		if left.Before(o.started) {
			delete(l.gone, eniID)
		}
	}
	return found, skipped
}

// judges says that the ENI was known before the cloud was asked and has not been worked on since.
func (o observation) judges(e *eni) bool {
	version, ok := o.versions[e.Token]
	return ok && version == e.version
}

func (l *ledger) see(o observation, shown aliyun.ENI, now time.Time) []finding {
	if left, ok := l.gone[shown.ID]; ok && !left.Before(o.started) {
		return nil // deleted after the cloud was asked
	}
	e := l.match(shown)
	if e == nil {
		e = l.adopt(shown, o.vSwitches[shown.VSwitchID], now)
		return append([]finding{{what: "ENI adopted", eni: e.ID}}, l.compare(e, shown, o, now)...)
	}
	if !o.judges(e) {
		return nil
	}
	return l.compare(e, shown, o, now)
}

// match finds the record of an ENI by its ID, or the intent that it answers.
func (l *ledger) match(shown aliyun.ENI) *eni {
	if e := l.eniByID(shown.ID); e != nil {
		return e
	}
	if e, ok := l.enis[shown.Tags[tagIntent]]; ok && e.ID == "" {
		return e
	}
	return nil
}

// adopt records an ENI of ours that the journal does not know: its creation was answered after the record was lost or
// dropped. If there are more than allowed, it is deleted instead.
func (l *ledger) adopt(shown aliyun.ENI, v aliyun.VSwitch, now time.Time) *eni {
	e := &eni{
		Token: "adopted-" + shown.ID, ID: shown.ID, MAC: shown.MAC, State: stateShown(shown.Status), Since: now,
		Slot: l.slotOf(shown.MAC), VSwitchID: shown.VSwitchID, Nets: netsOf(v, l.families), Primary: shown.PrimaryIP,
	}
	if e.State == ENICreated && len(l.enis) >= l.limits.ENIs {
		e.State = ENIDeleting
	}
	l.enis[e.Token] = e
	l.touchENI(e)
	return e
}

func stateShown(status string) ENIState {
	switch status {
	case aliyun.StatusInUse:
		return ENIInUse
	case aliyun.StatusAttaching:
		return ENIAttaching
	case aliyun.StatusDetaching:
		return ENIDetaching
	case aliyun.StatusDeleting:
		return ENIDeleting
	default:
		return ENICreated
	}
}

// compare takes one ENI's addresses and state from the cloud.
func (l *ledger) compare(e *eni, shown aliyun.ENI, o observation, now time.Time) []finding {
	var found []finding
	e.missing = time.Time{}
	e.shown = &eniShown{groups: shown.SecurityGroupIDs, deleteOnRelease: shown.DeleteOnRelease}
	if e.State == ENIIntent {
		// The answer to the creation was lost. The move is legal, so there is no error.
		_ = l.created(e.Token, shown, now)
		return append(found, finding{what: "lost answer to a creation found", eni: shown.ID})
	}
	if e.State == ENIInUse && shown.Status == aliyun.StatusAvailable {
		found = append(found, finding{what: "ENI was detached by somebody else, attaching it again", eni: e.ID})
		_ = l.moveENI(e.Token, ENICreated, now)
	}
	if shown.QueueNumber > 0 && shown.QueueNumber != e.Queues {
		e.Queues = shown.QueueNumber
		l.touchENI(e)
	}
	for _, addr := range l.wanted(shown) {
		if a := l.learn(e, addr, now); a != nil {
			a.Unproven = o.unproven && shown.Status == aliyun.StatusInUse
			found = append(found, finding{what: "address adopted", eni: e.ID, addr: addr})
		}
	}
	for _, addr := range l.addressesOn(e.Token) {
		a := l.addrs[addr]
		if slices.Contains(shown.PrivateIPs, addr) || slices.Contains(shown.IPv6s, addr) {
			found = append(found, l.confirmed(a, now)...)
		} else {
			found = append(found, l.missed(e, a, now)...)
		}
	}
	return found
}

func (l *ledger) confirmed(a *address, now time.Time) []finding {
	a.missing = time.Time{}
	if a.State != quarantine {
		return nil
	}
	_ = a.move(free, now)
	l.touchAddr(a)
	return []finding{{what: "address is back", addr: a.Addr}}
}

// missed handles an address that the cloud does not show on its ENI. One that is kept or cools is judged when that is
// over.
func (l *ledger) missed(e *eni, a *address, now time.Time) []finding {
	first := a.missing.IsZero()
	if first {
		a.missing = now
	}
	switch a.State {
	case free:
		_ = a.move(quarantine, now)
		l.touchAddr(a)
		return []finding{{what: "free address is not on its ENI", eni: e.ID, addr: a.Addr}}
	case quarantine, releasing:
		if a.State == releasing || now.Sub(a.missing) >= secondLook {
			_ = a.move(gone, now)
			l.forget(a)
			return []finding{{what: "address forgotten", eni: e.ID, addr: a.Addr}}
		}
	case assigned:
		if first {
			return []finding{{what: "address of a pod is not on its ENI", eni: e.ID, addr: a.Addr}}
		}
	}
	return nil
}

// lose handles an ENI that the cloud does not show.
func (l *ledger) lose(e *eni, now time.Time) []finding {
	if e.missing.IsZero() {
		e.missing = now
		return []finding{{what: "ENI is missing", eni: e.ID}}
	}
	if now.Sub(e.missing) < secondLook || l.busyOn(e.Token) > 0 {
		return nil
	}
	l.touchENI(e)
	l.drop(e, now)
	return []finding{{what: "ENI forgotten", eni: e.ID}}
}

// doubtful says that something is missing and waits for a second look.
func (l *ledger) doubtful() bool {
	for _, e := range l.enis {
		if !e.missing.IsZero() {
			return true
		}
	}
	for _, a := range l.addrs {
		if a.State == quarantine {
			return true
		}
	}
	return false
}
