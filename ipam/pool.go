package ipam

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/nearpath/nearpath/internal/aliyun"
)

// A Cloud is the part of the ECS API that the pool uses. Its errors are matched with errors.Is against the sentinels of
// internal/aliyun. Calls must be safe for concurrent use and end with their context.
type Cloud interface {
	DescribeInstance(ctx context.Context, id string) (aliyun.Instance, error)
	DescribeInstanceType(ctx context.Context, id string) (aliyun.InstanceType, error)
	DescribeVSwitches(ctx context.Context, ids []string) ([]aliyun.VSwitch, error)
	DescribeENIs(ctx context.Context, filter aliyun.ENIFilter) ([]aliyun.ENI, error)
	CreateENI(ctx context.Context, request aliyun.CreateENI) (aliyun.ENI, error)
	AttachENI(ctx context.Context, eniID, instanceID string) error
	DetachENI(ctx context.Context, eniID, instanceID string) error
	DeleteENI(ctx context.Context, eniID string) error
	AssignIPs(ctx context.Context, request aliyun.Assign) ([]netip.Addr, error)
	UnassignIPs(ctx context.Context, eniID string, addrs []netip.Addr) error
}

// Links makes the node's side of an ENI. Both methods are idempotent.
type Links interface {
	// EnsureENI returns when the ENI's link is up and routed. It is called before an address of the ENI is leased.
	EnsureENI(ctx context.Context, e LeaseENI) error
	// RemoveENI undoes it, before the ENI is detached.
	RemoveENI(ctx context.Context, e LeaseENI) error
}

// Config configures a Pool.
type Config struct {
	// Path of the database; its directory must exist.
	Path  string
	Cloud Cloud
	Links Links
	// InstanceID is the machine the pool is for; Owner the value of the tag "nearpath" on its ENIs, empty: InstanceID.
	InstanceID, Owner string
	// VSwitches and SecurityGroups for new ENIs; empty means those of the instance. Only vSwitches of the instance's
	// zone are used.
	VSwitches, SecurityGroups []string
	Watermarks                Watermarks
	// Cooldown is how long a released address rests; zero means 30 seconds. IdleReclaim is how long an address must have
	// been free before it is given back; zero means 5 minutes.
	Cooldown, IdleReclaim time.Duration
	Log                   *slog.Logger
}

// node is what the cloud says of the instance; the journal keeps it for starts without a cloud.
type node struct {
	ZoneID         string   `json:"zoneID"`
	VSwitchID      string   `json:"vSwitchID"`
	SecurityGroups []string `json:"securityGroups"`
	Limits         limits   `json:"limits"`
}

// A Pool leases addresses. Allocate, Release and the views are safe for concurrent use, also while Run is not running;
// then Allocate serves what the journal holds but the pool does not grow.
type Pool struct {
	config   Config
	identity identity
	journal  *journal
	log      *slog.Logger
	ready    chan struct{}
	wake     chan struct{} // capacity 1: there is something to do

	mu      sync.Mutex // guards what follows; never held while waiting for the cloud, the disk or the links
	ledger  *ledger
	node    node
	settled bool          // the first sync was tried: free addresses may be leased
	waiting int           // callers of Allocate without an address
	changed chan struct{} // closed and replaced when an address may have become free
	lanes   map[string]*lane
	synced  bool             // a sync succeeded: the pool may grow and change ENIs
	learned bool             // the instance was described by the cloud, not only by the journal
	resync  time.Time        // when the next sync is due
	again   bool             // a sync was asked for since the last one began
	blocked map[string]*lane // vSwitches without free addresses
}

// Open reads the journal. Close must be called after Run has returned.
func Open(c Config) (*Pool, error) {
	if err := c.Watermarks.validate(); err != nil {
		return nil, err
	}
	if c.InstanceID == "" {
		return nil, errors.New("open pool: the instance ID is missing")
	}
	c.Cooldown = cmp.Or(c.Cooldown, 30*time.Second)
	c.IdleReclaim = cmp.Or(c.IdleReclaim, 5*time.Minute)
	j, err := openJournal(c.Path)
	if err != nil {
		return nil, err
	}
	l, n, err := j.load(c.Cooldown, time.Now())
	if err != nil {
		return nil, errors.Join(err, j.close())
	}
	return &Pool{
		config:   c,
		identity: identity{owner: cmp.Or(c.Owner, c.InstanceID), instanceID: c.InstanceID},
		journal:  j,
		log:      c.Log,
		ready:    make(chan struct{}),
		wake:     make(chan struct{}, 1),
		ledger:   l,
		node:     n,
		changed:  make(chan struct{}),
		lanes:    map[string]*lane{},
		blocked:  map[string]*lane{},
	}, nil
}

// Close closes the journal.
func (p *Pool) Close() error { return p.journal.close() }

// Ready is closed when the pool has compared its journal with the cloud, or, if the cloud does not answer, when an
// address can be leased from what the journal knows.
func (p *Pool) Ready() <-chan struct{} { return p.ready }

func (p *Pool) String() string { return "address pool of " + p.config.InstanceID }

// Allocate leases an address to the key. A key that has one gets the same again. The lease is on disk when Allocate
// returns. When no address is free it waits for one, until the context ends or until it is clear that none will come;
// the error then matches ErrExhausted and says why.
func (p *Pool) Allocate(ctx context.Context, key Key, pod Pod) (Lease, error) {
	w := &waiter{pool: p}
	defer w.leave()
	for {
		offer, err := w.ask(key, pod)
		p.kick() // the pool may be below its marks now
		switch {
		case err != nil:
			return Lease{}, fmt.Errorf("allocate for %s: %w", key, err)
		case offer.write != nil:
			return p.settle(offer.lease, offer.write)
		case offer.lease.Addr.IsValid():
			return offer.lease, nil
		}
		select {
		case <-offer.changed:
		case <-ctx.Done():
			return Lease{}, fmt.Errorf("allocate for %s: %w: %w", key, ErrExhausted, errors.Join(ctx.Err(), p.trouble()))
		}
	}
}

// A waiter is one call of Allocate; while it waits, the watermarks count it.
type waiter struct {
	pool  *Pool
	waits bool
}

// An offer is a lease, or a reservation with the write that makes it durable, or the channel to wait on.
type offer struct {
	lease   Lease
	write   *write
	changed <-chan struct{}
}

func (w *waiter) ask(key Key, pod Pod) (offer, error) {
	p := w.pool
	p.mu.Lock()
	defer p.mu.Unlock()
	got, err := p.take(key, pod)
	switch wait := err == nil && !got.lease.Addr.IsValid(); {
	case wait && !w.waits:
		p.waiting++
		w.waits = true
	case !wait:
		w.leaveLocked()
	}
	return got, err
}

func (w *waiter) leave() {
	w.pool.mu.Lock()
	defer w.pool.mu.Unlock()
	w.leaveLocked()
}

func (w *waiter) leaveLocked() {
	if w.waits {
		w.pool.waiting--
		w.waits = false
	}
}

// take runs under the lock.
func (p *Pool) take(key Key, pod Pod) (offer, error) {
	if a := p.ledger.owner(key); a != nil {
		if a.State == reserved {
			return offer{changed: p.changed}, nil // another call for the same key is about to finish
		}
		return offer{lease: p.lease(a)}, nil
	}
	if !p.settled {
		return offer{changed: p.changed}, p.hopeless()
	}
	a, err := p.ledger.reserve(key, pod, time.Now())
	if errors.Is(err, errNoneFree) {
		return offer{changed: p.changed}, p.hopeless()
	}
	if err != nil {
		return offer{}, err
	}
	return offer{lease: p.lease(a), write: p.journal.enqueue(p.ledger.changes())}, nil
}

// settle waits for the disk and then makes the reservation a lease.
func (p *Pool) settle(lease Lease, w *write) (Lease, error) {
	writeErr := p.journal.wait(w)
	p.mu.Lock()
	defer p.mu.Unlock()
	defer p.announce()
	if writeErr != nil {
		p.ledger.redo()
		return Lease{}, errors.Join(
			fmt.Errorf("allocate for %s: %w", lease.Key, writeErr),
			p.ledger.cancel(lease.Addr, time.Now()))
	}
	if err := p.ledger.confirm(lease.Addr, time.Now()); err != nil {
		return Lease{}, err
	}
	return lease, nil
}

// Release ends the key's lease; a key without one is no error. The address cools down before its next owner. Release
// waits for the disk but never for the cloud.
func (p *Pool) Release(_ context.Context, key Key) error {
	p.mu.Lock()
	had, err := p.ledger.cool(key, time.Now(), p.config.Cooldown)
	if err != nil || !had {
		p.mu.Unlock()
		if err != nil {
			return fmt.Errorf("release %s: %w", key, err)
		}
		return nil
	}
	w := p.journal.enqueue(p.ledger.changes())
	p.mu.Unlock()
	if err := p.flush(w); err != nil {
		return fmt.Errorf("release %s: %w", key, err)
	}
	p.kick() // the cooling must be ended some time
	return nil
}

// update changes the ledger and returns when the change is on disk.
func (p *Pool) update(change func(*ledger) error) error {
	p.mu.Lock()
	err := change(p.ledger)
	w := p.journal.enqueue(p.ledger.changes())
	p.announce()
	p.mu.Unlock()
	return errors.Join(err, p.flush(w))
}

func (p *Pool) flush(w *write) error {
	err := p.journal.wait(w)
	if err != nil {
		p.mu.Lock()
		p.ledger.redo()
		p.mu.Unlock()
	}
	return err
}

// announce runs under the lock and wakes the callers of Allocate.
func (p *Pool) announce() {
	close(p.changed)
	p.changed = make(chan struct{})
}

// kick wakes Run.
func (p *Pool) kick() {
	select {
	case p.wake <- struct{}{}:
	default:
	}
}

func (p *Pool) lease(a *address) Lease {
	return Lease{Key: a.Key, Pod: a.Pod, Addr: a.Addr, ENI: p.ledger.enis[a.ENI].lease()}
}

// Lookup returns the lease of a key.
func (p *Pool) Lookup(key Key) (Lease, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	a := p.ledger.owner(key)
	if a == nil || a.State != assigned {
		return Lease{}, false
	}
	return p.lease(a), true
}

// Leases returns every lease, by address.
func (p *Pool) Leases() []Lease {
	p.mu.Lock()
	defer p.mu.Unlock()
	leases := make([]Lease, 0, len(p.ledger.byKey))
	for _, a := range p.ledger.addrs {
		if a.State == assigned {
			leases = append(leases, p.lease(a))
		}
	}
	slices.SortFunc(leases, func(a, b Lease) int { return a.Addr.Compare(b.Addr) })
	return leases
}

// ENIs returns the pool's ENIs, those without an ID included, by slot.
func (p *Pool) ENIs() []ENI {
	p.mu.Lock()
	defer p.mu.Unlock()
	views := make([]ENI, 0, len(p.ledger.enis))
	for _, e := range p.ledger.enis {
		views = append(views, ENI{
			LeaseENI: e.lease(), VSwitchID: e.VSwitchID, State: e.State, Wired: e.wired,
			Addresses: p.ledger.addressesOn(e.Token),
		})
	}
	slices.SortFunc(views, func(a, b ENI) int { return cmp.Or(cmp.Compare(a.Slot, b.Slot), cmp.Compare(a.ID, b.ID)) })
	return views
}

// Stats returns the pool's counts as of now.
func (p *Pool) Stats() Stats {
	p.mu.Lock()
	defer p.mu.Unlock()
	d := p.ledger.demand(p.waiting)
	s := Stats{Used: d.used, Idle: d.idle, Cooling: d.cooling, Pending: d.pending, Waiting: d.waiting, Capacity: d.capacity, ENIs: len(p.ledger.enis)}
	for _, a := range p.ledger.addrs {
		if a.State == quarantine {
			s.Quarantined++
		}
	}
	return s
}

// newToken makes a ClientToken: 32 characters, of which the API allows 64.
func newToken() string {
	var raw [16]byte
	rand.Read(raw[:]) // never fails (crypto/rand, Go 1.24)
	return hex.EncodeToString(raw[:])
}
