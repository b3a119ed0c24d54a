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

	"github.com/prometheus/client_golang/prometheus"

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
	ModifyENI(ctx context.Context, eniID string, change aliyun.ModifyENI) error
	AttachENI(ctx context.Context, eniID, instanceID string) error
	DetachENI(ctx context.Context, eniID, instanceID string) error
	DeleteENI(ctx context.Context, eniID string) error
	AssignIPs(ctx context.Context, request aliyun.Assign) ([]netip.Addr, error)
	UnassignIPs(ctx context.Context, eniID string, addrs []netip.Addr) error
}

// Links makes the node's side of ENIs. All methods are idempotent.
type Links interface {
	// ExpectENI is called before an ENI, which Pool.ENIs tells with its MAC address, is attached: its link is to be kept from
	// the programs that configure any link of a node.
	ExpectENI(ctx context.Context, e LeaseENI)
	// EnsureENI returns when the link of a shared ENI is up and routed. It is called before an address of the ENI is leased
	// and never for an exclusive ENI.
	EnsureENI(ctx context.Context, e LeaseENI) error
	// RemoveENI undoes it. It is called before an ENI is detached and before an exclusive ENI is leased, also for one that
	// was never routed. Whoever has the lease waits for the link and takes it.
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
	// Families that every lease has an address of: IPv4, or IPv4 and IPv6; empty means IPv4.
	Families []aliyun.Family
	Settings Settings
	// InUse lists the addresses that pods on the node use, as its kernel and runtime know them. The pool asks before it
	// leases an address that was adopted: one on its ENIs that its journal does not know. No such address is leased while
	// InUse fails. Without InUse (nil) adopted addresses count as free, unless a broken journal was put aside; then they
	// are never leased.
	InUse func(context.Context) ([]InUse, error)
	// Slots says which slots ENIs have, by MAC address, as the node's routing knows them. It is asked once by Open, and only
	// while the pool is rebuilt: pods have rules about the slot of their ENI, so the ENI must get the same one again. Nil:
	// nobody knows.
	Slots func() (map[string]int, error)
	// Settled says that nothing on the node sends to an address any more because of the pod that had it: it is asked when the
	// cooldown is over, and again until it says yes, for settleLimit at most. It is called under the pool's lock: it must
	// neither wait nor call the pool. Nil: always yes.
	Settled func(netip.Addr) bool
	// Metrics gets the pool's metrics; nil: none.
	Metrics prometheus.Registerer
	Log     *slog.Logger
}

// node is what the cloud says of the instance; the journal keeps it for starts without a cloud.
type node struct {
	ZoneID         string   `json:"zoneID"`
	VSwitchID      string   `json:"vSwitchID"`
	SecurityGroups []string `json:"securityGroups"`
	Limits         limits   `json:"limits"`
}

// A Pool leases addresses. Allocate, Release, Configure and the views are safe for concurrent use, also while Run is not
// running; then Allocate serves what the journal holds but the pool does not grow.
type Pool struct {
	config  Config
	journal *journal
	metrics *metrics
	log     *slog.Logger
	ready   chan struct{}
	wake    chan struct{} // capacity 1: there is something to do

	mu        sync.Mutex // guards what follows; never held while waiting for the cloud, the disk or the links
	ledger    *ledger
	settings  Settings
	node      node
	settled   bool      // the first sync was tried, for a while at least: free addresses may be leased
	queue     []*waiter // callers of Allocate without a lease, in the order in which they came
	lanes     map[string]*lane
	synced    bool      // a sync succeeded: the pool may grow and change ENIs
	learned   bool      // the instance was described by the cloud, not only by the journal
	rebuild   bool      // the journal was lost, and what is in use is not known yet
	unsettled int       // addresses that cool on because they are not settled
	resync    time.Time // when the next sync is due
	again     bool      // a sync was asked for since the last one began
	foreign   int       // attached ENIs of others, the primary one not counted
	warmed    bool      // Watermarks.WarmUp was reached
	reclaim   time.Time // when something may be given back again
	breakers  breakers
	// described are the vSwitches as of the last time they were asked for.
	described map[string]describedVSwitch
	noCreate  inhibition
	asked     gathering
}

type describedVSwitch struct {
	aliyun.VSwitch
	asked time.Time
}

// An inhibition holds something back for a time.
type inhibition struct {
	until time.Time
	err   error
}

// Open reads the journal. Close must be called after Run has returned. A journal that cannot be read is put aside, under
// a name with the time, and the pool starts from what the cloud and InUse say.
func Open(c Config) (*Pool, error) {
	if len(c.Families) == 0 {
		c.Families = []aliyun.Family{aliyun.IPv4}
	}
	settings := c.Settings.withDefaults()
	if err := errors.Join(c.validate(), settings.validate()); err != nil {
		return nil, fmt.Errorf("open pool: %w", err)
	}
	p := &Pool{
		config:    c,
		metrics:   newMetrics(),
		log:       c.Log,
		ready:     make(chan struct{}),
		wake:      make(chan struct{}, 1),
		settings:  settings,
		lanes:     map[string]*lane{},
		breakers:  breakers{},
		described: map[string]describedVSwitch{},
	}
	var err error
	if p.journal, p.ledger, p.node, err = restoreJournal(c, settings.Cooldown, time.Now()); err != nil {
		return nil, err
	}
	p.rebuild = p.journal.rebuild
	if p.rebuild && c.Slots != nil {
		if p.ledger.slots, err = c.Slots(); err != nil {
			return nil, errors.Join(fmt.Errorf("learn the slots of ENIs from the node: %w", err), p.journal.close())
		}
	}
	p.relimit()
	if c.Metrics != nil {
		if err := p.metrics.register(c.Metrics, p); err != nil {
			return nil, errors.Join(fmt.Errorf("register metrics of the pool: %w", err), p.journal.close())
		}
	}
	return p, nil
}

func (c Config) validate() error {
	var errs []error
	if c.InstanceID == "" {
		errs = append(errs, errors.New("the instance ID is empty: name the instance"))
	}
	if !slices.Equal(c.Families, []aliyun.Family{aliyun.IPv4}) && !slices.Equal(c.Families, []aliyun.Family{aliyun.IPv4, aliyun.IPv6}) {
		errs = append(errs, fmt.Errorf("families are %v: use IPv4, or IPv4 and IPv6", c.Families))
	}
	return errors.Join(errs...)
}

// Close closes the journal.
func (p *Pool) Close() error { return p.journal.close() }

// Ready is closed when the pool has compared its journal with the cloud, or, if the cloud does not answer, when an
// address can be leased from what the journal knows.
func (p *Pool) Ready() <-chan struct{} { return p.ready }

// Rebuilding says that the journal was lost and that what pods use is not known yet.
func (p *Pool) Rebuilding() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.rebuild
}

func (p *Pool) String() string { return "address pool of " + p.config.InstanceID }

// Configure replaces the settings while the pool works. With an error, which names every fault, the old ones stay.
func (p *Pool) Configure(s Settings) error {
	s = s.withDefaults()
	if err := s.validate(); err != nil {
		return fmt.Errorf("configure pool: %w", err)
	}
	p.mu.Lock()
	p.settings = s
	p.relimit()
	p.noCreate = inhibition{} // the refusal may have been about the old settings
	p.growAgain()
	p.announce()
	p.mu.Unlock()
	p.kick()
	return nil
}

// relimit runs under the lock and bounds what the instance type allows by the settings and by the ENIs of others.
func (p *Pool) relimit() {
	l := p.node.Limits
	l.ENIs = max(min(p.settings.ENIs.limit(l.ENIs), l.ENIs-p.foreign), 0)
	p.ledger.limits = l
}

// identity runs under the lock.
func (p *Pool) identity() identity {
	return identity{
		owner: cmp.Or(p.config.Owner, p.config.InstanceID), instanceID: p.config.InstanceID,
		block: p.settings.TagBlock, filter: p.settings.TagFilter,
	}
}

// groups runs under the lock: the security groups that ENIs should have.
func (p *Pool) groups() []string {
	if len(p.settings.SecurityGroups) > 0 {
		return p.settings.SecurityGroups
	}
	return p.node.SecurityGroups
}

// vSwitchIDs runs under the lock: where new ENIs may be.
func (p *Pool) vSwitchIDs() []string {
	if len(p.settings.VSwitches) > 0 {
		return p.settings.VSwitches
	}
	return []string{p.node.VSwitchID}
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
		p.ledger.redo(w.changes)
		p.mu.Unlock()
	}
	return err
}

// kick wakes Run.
func (p *Pool) kick() {
	select {
	case p.wake <- struct{}{}:
	default:
	}
}

// newToken makes a ClientToken: 32 characters, of which the API allows 64.
func newToken() string {
	var raw [16]byte
	rand.Read(raw[:]) // never fails (crypto/rand, Go 1.24)
	return hex.EncodeToString(raw[:])
}
