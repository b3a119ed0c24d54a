package ipam

import (
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/nearpath/nearpath/internal/aliyun"
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
	kept       addressState = "kept"
	cooling    addressState = "cooling"
	releasing  addressState = "releasing"
	quarantine addressState = "quarantine"
	gone       addressState = ""
)

// eniMoves lists the legal moves. InUse -> Created is an ENI that somebody else detached; it is attached again.
// Draining -> InUse is one that is needed after all.
var eniMoves = map[ENIState][]ENIState{
	ENIIntent:    {ENICreated, eniGone},
	ENICreated:   {ENIAttaching, ENIDeleting, eniGone},
	ENIAttaching: {ENIInUse, ENIDetaching, eniGone},
	ENIInUse:     {ENIDraining, ENICreated, eniGone},
	ENIDraining:  {ENIInUse, ENIDetaching, eniGone},
	ENIDetaching: {ENIDeleting, eniGone},
	ENIDeleting:  {eniGone},
}

// addressMoves lists the legal moves. A reserved or assigned address has an owner and so never goes to quarantine:
// only its owner can end the ownership. A cooling address is reserved only for lack of others.
var addressMoves = map[addressState][]addressState{
	free:       {reserved, releasing, quarantine},
	reserved:   {assigned, free, kept, cooling},
	assigned:   {cooling, kept},
	kept:       {reserved, cooling},
	cooling:    {free, reserved},
	releasing:  {gone, quarantine},
	quarantine: {free, gone},
}

// A purpose is what an ENI is for.
type purpose string

const (
	shared    purpose = "" // many pods, each with an address
	exclusive purpose = "exclusive"
)

func purposeOf(isExclusive bool) purpose {
	if isExclusive {
		return exclusive
	}
	return shared
}

// An eni is the journal's record of one ENI. The exported fields are what is on disk.
type eni struct {
	// Token is the ClientToken of the creation and the key of the record; adopted ENIs get one from their ID.
	Token     string     `json:"token"`
	ID        string     `json:"id,omitempty"`
	MAC       string     `json:"mac,omitempty"`
	State     ENIState   `json:"state"`
	Purpose   purpose    `json:"purpose,omitempty"`
	Since     time.Time  `json:"since"`
	Slot      int        `json:"slot,omitempty"`
	VSwitchID string     `json:"vSwitchID"`
	Nets      []Net      `json:"nets,omitempty"`
	Primary   netip.Addr `json:"primary,omitzero"`
	Queues    int        `json:"queues,omitempty"`
	// Wish is how many addresses the creation asks for, the primary one included; it ends with the creation.
	Wish amount `json:"wish,omitzero"`
	// Assigns are the AssignIPs calls in flight, at most one of each family. The slice is replaced, never changed.
	Assigns []assignment `json:"assigns,omitempty"`

	wired   bool
	missing time.Time // when a sync first did not see the ENI; zero: it is there
	version int       // grows with each cloud call's start and end, so that a sync can tell that its view is stale
	// unclear says of an intent that a call may have made the ENI; doubt, that no further call will tell, but only what the
	// cloud shows.
	unclear, doubt bool
	// ending says that the cloud has begun to delete the ENI.
	ending bool
	// shown is what the cloud was last seen to have, for repairs; nil: not seen since the start.
	shown *eniShown
}

type eniShown struct {
	groups          []string
	deleteOnRelease bool
}

// An amount counts addresses of each family.
type amount struct {
	IPv4 int `json:"ipv4,omitempty"`
	IPv6 int `json:"ipv6,omitempty"`
}

func (a amount) of(f aliyun.Family) int {
	if f == aliyun.IPv6 {
		return a.IPv6
	}
	return a.IPv4
}

type assignment struct {
	Family aliyun.Family `json:"family"`
	Token  string        `json:"token"`
	Count  int           `json:"count"`
	Since  time.Time     `json:"since"`
}

// An address is the journal's record of one address.
type address struct {
	Addr  netip.Addr   `json:"addr"`
	ENI   string       `json:"eni"` // Token of the ENI
	State addressState `json:"state"`
	Since time.Time    `json:"since"`
	Key   Key          `json:"key,omitzero"`
	Pod   Pod          `json:"pod,omitzero"`
	Until time.Time    `json:"until,omitzero"` // end of cooling or keeping
	// Unproven says that the address was adopted, and that a pod may use it that the journal does not know.
	Unproven bool `json:"unproven,omitempty"`

	missing time.Time
	before  *address // the record from before a reservation
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

// busy says that a pod has the address, may get it back, or may still use it.
func (a *address) busy() bool {
	return a.owned() || a.State == kept || a.State == cooling || a.Unproven
}

// leasable says that nothing about the address itself keeps it from being leased.
func (a *address) leasable() bool { return a.State == free && a.missing.IsZero() && !a.Unproven }

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

// usable says that the node is ready for leases of the ENI's addresses.
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

// assigning is the call in flight for a family, the zero value if there is none.
func (e *eni) assigning(f aliyun.Family) assignment {
	for _, a := range e.Assigns {
		if a.Family == f {
			return a
		}
	}
	return assignment{}
}

// awaited counts the addresses of a family that were asked for and have not come.
func (e *eni) awaited(f aliyun.Family) int { return e.Wish.of(f) + e.assigning(f).Count }

func (e *eni) lease() LeaseENI {
	return LeaseENI{ID: e.ID, MAC: e.MAC, Slot: e.Slot, Nets: slices.Clone(e.Nets)}
}
