package ipam

import (
	"fmt"
	"slices"
	"time"
)

// SetFault lets fault stand before and after each commit of the journal; its errors are the disk's. The journal no longer
// waits for the disk: a process that ends leaves the machine, and what was written, behind.
func (p *Pool) SetFault(fault func(committed bool) error) {
	p.journal.db.NoSync = true
	p.journal.fault = fault
}

// Resync makes a sync due. It is false while one is under way, which may have seen less than there is now.
func (p *Pool) Resync() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.lane(laneSync).busy {
		return false
	}
	p.resync = time.Time{}
	p.lane(laneSync).notBefore = time.Time{}
	p.kick()
	return true
}

// Resynced says that the sync that Resync asked for has succeeded.
func (p *Pool) Resynced() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return !p.resync.IsZero() && !p.lane(laneSync).busy
}

// Unrest says what of the pool's ENIs is under way, or nothing.
func (p *Pool) Unrest() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	for token, e := range p.ledger.enis {
		switch {
		case e.State != ENIInUse || !e.wired || len(e.Assigns) > 0 || p.atWork(token):
			return fmt.Sprintf("%s is %s, wired %v, assigns %v", e.name(), e.State, e.wired, e.Assigns)
		case !e.missing.IsZero():
			return e.name() + " is missing"
		}
	}
	for _, a := range p.ledger.addrs {
		if slices.Contains([]addressState{releasing, quarantine, reserved}, a.State) || a.Unproven {
			return fmt.Sprintf("%s is %s, unproven %v", a.Addr, a.State, a.Unproven)
		}
	}
	return ""
}
