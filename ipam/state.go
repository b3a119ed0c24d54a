package ipam

import (
	"fmt"
	"net/netip"
	"slices"
	"time"
)

// An ENIState is a step of an ENI's life; the empty state is gone.
type ENIState string

// The states of an ENI. A state names what was journalled; the call it announces may or may not have been made.
const (
	ENIIntent    ENIState = "intent"
	ENICreated   ENIState = "created"
	ENIAttaching ENIState = "attaching"
	ENIInUse     ENIState = "in-use"
	ENIDraining  ENIState = "draining"
	ENIDetaching ENIState = "detaching"
	ENIDeleting  ENIState = "deleting"
	eniGone      ENIState = ""
)

// An addressState is a step of an address's life; the empty state is gone.
type addressState string

const (
	free       addressState = "free"
	reserved   addressState = "reserved"
	assigned   addressState = "assigned"
	cooling    addressState = "cooling"
	releasing  addressState = "releasing"
	quarantine addressState = "quarantine"
	gone       addressState = ""
)

// eniMoves lists the legal moves. InUse -> Created is an ENI that somebody else detached; it is attached again.
var eniMoves = map[ENIState][]ENIState{
	ENIIntent:    {ENICreated, eniGone},
	ENICreated:   {ENIAttaching, ENIDeleting, eniGone},
	ENIAttaching: {ENIInUse, ENIDetaching, eniGone},
	ENIInUse:     {ENIDraining, ENICreated, eniGone},
	ENIDraining:  {ENIDetaching, eniGone},
	ENIDetaching: {ENIDeleting, eniGone},
	ENIDeleting:  {eniGone},
}

// addressMoves lists the legal moves. A reserved or assigned address has an owner and so never goes to quarantine:
// only its owner can end the ownership.
var addressMoves = map[addressState][]addressState{
	free:       {reserved, releasing, quarantine},
	reserved:   {assigned, free},
	assigned:   {cooling},
	cooling:    {free},
	releasing:  {gone, quarantine},
	quarantine: {free, gone},
}

// An eni is the journal's record of one ENI. The exported fields are what is on disk.
type eni struct {
	// Token is the ClientToken of the creation and the key of the record; adopted ENIs get one from their ID.
	Token     string       `json:"token"`
	ID        string       `json:"id,omitempty"`
	MAC       string       `json:"mac,omitempty"`
	State     ENIState     `json:"state"`
	Since     time.Time    `json:"since"`
	Slot      int          `json:"slot,omitempty"`
	VSwitchID string       `json:"vSwitchID"`
	Subnet    netip.Prefix `json:"subnet"`
	Gateway   netip.Addr   `json:"gateway"`
	Primary   netip.Addr   `json:"primary,omitzero"`
	// Count is how many addresses the creation asks for, the primary one included.
	Count int `json:"count,omitempty"`
	// Assign is the AssignIPs call in flight, at most one per ENI.
	Assign *assignment `json:"assign,omitempty"`

	wired   bool
	missing time.Time // when a sync first did not see the ENI; zero: it is there
	version int       // grows with each cloud call's start and end, so that a sync can tell that its view is stale
}

type assignment struct {
	Token string    `json:"token"`
	Count int       `json:"count"`
	Since time.Time `json:"since"`
}

// An address is the journal's record of one address.
type address struct {
	Addr  netip.Addr   `json:"addr"`
	ENI   string       `json:"eni"` // Token of the ENI
	State addressState `json:"state"`
	Since time.Time    `json:"since"`
	Key   Key          `json:"key,omitzero"`
	Pod   Pod          `json:"pod,omitzero"`
	Until time.Time    `json:"until,omitzero"` // end of cooling

	missing time.Time
}

// onDisk is the record as the journal holds it. A reservation is written as the assignment it is about to become: if
// the process dies before the caller hears of it, the owner is known and the address is not handed out again.
func (a address) onDisk() address {
	if a.State == reserved {
		a.State = assigned
	}
	return a
}

func (a *address) owned() bool { return a.State == reserved || a.State == assigned }

func (e *eni) move(to ENIState, now time.Time) error {
	if !slices.Contains(eniMoves[e.State], to) {
		return fmt.Errorf("move ENI %s from %q to %q: not a legal move", e.name(), e.State, to)
	}
	e.State, e.Since = to, now
	return nil
}

func (a *address) move(to addressState, now time.Time) error {
	if !slices.Contains(addressMoves[a.State], to) {
		return fmt.Errorf("move address %s from %q to %q: not a legal move", a.Addr, a.State, to)
	}
	a.State, a.Since = to, now
	return nil
}

// name is for errors and logs: the ID, or the token of an ENI that has none yet.
func (e *eni) name() string {
	if e.ID == "" {
		return "of intent " + e.Token
	}
	return e.ID
}

// usable says that traffic of the ENI's addresses flows, so its free addresses may be leased.
func (e *eni) usable() bool { return e.State == ENIInUse && e.wired && e.missing.IsZero() }

// coming says that the ENI is on its way to being usable.
func (e *eni) coming() bool {
	switch e.State {
	case ENIIntent, ENICreated, ENIAttaching:
		return true
	case ENIInUse:
		return !e.wired
	default:
		return false
	}
}

func (e *eni) lease() LeaseENI {
	return LeaseENI{ID: e.ID, MAC: e.MAC, Slot: e.Slot, Gateway: e.Gateway, Subnet: e.Subnet}
}
