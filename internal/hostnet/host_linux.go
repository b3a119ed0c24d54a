package hostnet

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/containernetworking/plugins/pkg/ns"
)

// ErrLinkAbsent says that the node has no link with an ENI's MAC address (yet).
var ErrLinkAbsent = errors.New("no link with the ENI's MAC address")

// settle is how long changes in the kernel are collected before the state is compared again.
const settle = 100 * time.Millisecond

// Config configures a Host.
type Config struct {
	// NetNS is the path of the node's network namespace; empty means that of the process.
	NetNS string
	// NodeDNS are the addresses to keep on lo, as far as the kernel has their families.
	NodeDNS []netip.Addr
	// Egress is how pods reach the outside until SetEgress says otherwise.
	Egress Egress
	// HostNetworks are networks that pods of every datapath reach through the node.
	HostNetworks []netip.Prefix
	// NodePorts says where the node serves node ports.
	NodePorts NodePorts
	// ENIs are the MAC addresses of all secondary ENIs that are ours, wanted or not, see Wanted.Known; nil means that there
	// are no others than the wanted ones. It is asked in each comparison, "" counts for nothing.
	ENIs func() []string
	// Programs are attached to links; nil means none.
	Programs Programs
	// Unmanage is the root of the node's file system, where drop-ins keep network managers off the ENIs, see DropIns; empty
	// means none.
	Unmanage string
	// Root is where the node's /proc/irq and /sys are to be found, which SpreadIRQs is about; empty means /.
	Root string
	// Report tells of changes by others that were undone, for an event on the node; nil means that they are only logged.
	Report func(reason, message string)
	// SpreadIRQs spreads the interrupts of each ENI over the CPUs when its link comes up, unless irqbalance runs.
	SpreadIRQs bool
	// Interval is how often the state is compared without an event; zero means 10 seconds.
	Interval time.Duration
	Log      *slog.Logger
}

// A Host keeps the node's network as wanted, a Task. Its methods are safe for concurrent use.
type Host struct {
	netns    ns.NetNS
	interval time.Duration
	log      *slog.Logger
	ready    chan struct{}

	known        func() []string
	programs     Programs
	report       func(reason, message string)
	unmanaged    string // root of the drop-ins
	hostNetworks []netip.Prefix
	nodePorts    NodePorts
	spreadIRQs   bool
	root         string        // of the files that Spread is about
	events       chan struct{} // capacity 1: Run has a reason to compare

	passes      atomic.Int64 // comparisons that were started
	pass        sync.Mutex   // one comparison at a time; guards what follows
	last        outcome      // of the last comparison
	spreadLinks []int        // indices of links whose interrupts were spread
	node        *SetNode     // what the programs were told
	nodeTold    time.Time
	attached    []Attachment // after the last comparison
	detached    map[Attachment]bool
	memory      memory
	again       time.Duration // until what was held back is due; 0: nothing was
	untold      []string      // paths of drop-ins that a manager was not told of
	lastTold    time.Time     // when that was tried

	mu         sync.Mutex // guards what follows
	enis       map[string]ENI
	parents    []string             // MAC addresses of ENIs that are to be ipvlan parents
	companions map[string]Companion // of those that are, without a failure
	dns        []netip.Addr
	egress     Egress
	services   []netip.Prefix // networks, never changed in place; nor are the next
	spared     []netip.Prefix
	mtu        int
	addrs      []netip.Addr
	local      []LocalAddr   // of the last comparison; not changed in place
	links      map[int]bool  // indices of links whose changes are of interest; nil before the first comparison
	eniLinks   map[int]bool  // those of ENIs
	changed    chan struct{} // closed and replaced after an event
}

// New returns a Host that wants no ENI yet. Close releases its namespace.
func New(c Config) (*Host, error) {
	if err := c.Egress.Check(); err != nil {
		return nil, err
	}
	open := ns.GetCurrentNS
	if c.NetNS != "" {
		open = func() (ns.NetNS, error) { return ns.GetNS(c.NetNS) }
	}
	netns, err := open()
	if err != nil {
		return nil, fmt.Errorf("open the node's network namespace: %w", err)
	}
	return &Host{
		netns: netns, interval: cmp.Or(c.Interval, 10*time.Second), log: c.Log, ready: make(chan struct{}),
		known: c.ENIs, programs: c.Programs, report: c.Report, unmanaged: c.Unmanage, hostNetworks: c.HostNetworks, nodePorts: c.NodePorts, spreadIRQs: c.SpreadIRQs,
		root: cmp.Or(c.Root, "/"), detached: map[Attachment]bool{}, enis: map[string]ENI{}, dns: c.NodeDNS, egress: c.Egress, changed: make(chan struct{}), events: make(chan struct{}, 1),
	}, nil
}

// Close must be called after Run has returned.
func (h *Host) Close() error { return h.netns.Close() }

// Ready is closed when what every ENI needs of the node (PartNode) has been brought into the wanted state once.
func (h *Host) Ready() <-chan struct{} { return h.ready }

func (h *Host) String() string { return "host network" }

// MTU is that of the uplink, 0 while unknown. Pods get the same.
func (h *Host) MTU() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.mtu
}

// Addrs are the node's own addresses, those of its uplinks, IPv4 first; nil while none is known. Later changes do not
// change the slice.
func (h *Host) Addrs() []netip.Addr {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.addrs
}

// NodePortAddrs are the node's addresses that node ports are served on now; all says that none of its addresses is left out.
func (h *Host) NodePortAddrs() (addrs []netip.Addr, all bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, l := range h.local {
		if l.NodePorts {
			addrs = append(addrs, l.Addr)
		}
	}
	return addrs, !h.nodePorts.Primary && len(h.nodePorts.Networks) == 0
}

// Want wants the ENI from now on, without waiting for its link. Before Run it must be told of every ENI that an earlier
// process wired: routes of ENIs that nobody wants are deleted, and pods use them.
func (h *Host) Want(e ENI) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.enis[e.MAC] = e
}

// EnsureENI wants the ENI from now on and returns when its link is up, carries frames and is routed. It waits for the
// link to appear for as long as the context lasts; the error then matches ErrLinkAbsent.
func (h *Host) EnsureENI(ctx context.Context, e ENI) error {
	if err := e.Check(); err != nil {
		return err
	}
	h.Want(e)
	for {
		h.mu.Lock()
		changed := h.changed
		h.mu.Unlock()
		result := h.compare()
		if err := result.ofENI(e.MAC); err != nil {
			return err
		}
		if !slices.ContainsFunc(result.absent, func(a ENI) bool { return a.MAC == e.MAC }) {
			return nil
		}
		// The interval is for a Host whose Run has not been started.
		if !AwaitEvent(ctx, changed, time.Second) {
			return fmt.Errorf("wait for ENI %s: %w: %w", e.MAC, ErrLinkAbsent, ctx.Err())
		}
	}
}

// RemoveENI wants the ENI no more and deletes its routes. The error is that of these alone; Run goes on trying.
func (h *Host) RemoveENI(_ context.Context, mac string) error {
	h.mu.Lock()
	table := Table(h.enis[mac].Slot)
	delete(h.enis, mac)
	h.mu.Unlock()
	h.unparent(mac)
	result := h.compare()
	return result.ofTable(table)
}

// Refresh is for a new ENI that Config.ENIs tells: when it returns, network managers have been told to leave it alone. Run
// goes on trying.
func (h *Host) Refresh() { h.compare() }

// SetEgress changes how pods reach the outside, from now on. Connections to the outside that are open when the mode
// changes break. The error is that of the way out alone; Run goes on trying.
func (h *Host) SetEgress(e Egress) error {
	if err := e.Check(); err != nil {
		return err
	}
	h.mu.Lock()
	h.egress = e
	h.mu.Unlock()
	result := h.compare()
	return result.of(PartEgress)
}

// SetServiceNetworks says where Services have their addresses. What is sent to an address there that no Service has is dropped,
// but for what is spared: that is another's to serve, and goes through the node. It does not wait: Run tells the programs soon.
func (h *Host) SetServiceNetworks(networks, spared []netip.Prefix) {
	h.mu.Lock()
	same := slices.Equal(h.services, networks) && slices.Equal(h.spared, spared)
	h.services, h.spared = slices.Clone(networks), slices.Clone(spared)
	h.mu.Unlock()
	if !same {
		h.wake()
	}
}

// wake has Run compare soon.
func (h *Host) wake() {
	select {
	case h.events <- struct{}{}:
	default:
	}
}

// Run keeps the state until the context ends. It leaves everything in place: pods go on without the agent.
func (h *Host) Run(ctx context.Context) error {
	stop, err := h.subscribe()
	if err != nil {
		return err
	}
	defer stop()
	if h.programs != nil {
		ended := make(chan struct{})
		defer func() { <-ended }() // after the context
		go func() {
			defer close(ended)
			h.watchPrograms(ctx)
		}()
	}
	var known []ENI
	for {
		result := h.compare()
		if err := result.all(); err != nil {
			h.log.Error("host network not as wanted", "err", err)
		}
		if !slices.EqualFunc(result.absent, known, func(a, b ENI) bool { return a.MAC == b.MAC }) {
			h.log.Info("ENI links awaited", "absent", result.absent)
			known = result.absent
		}
		if result.of(PartNode) == nil {
			h.closeReady()
		}
		if !AwaitEvent(ctx, h.events, h.patience()) {
			return nil
		}
	}
}

// patience is how long Run waits for an event.
func (h *Host) patience() time.Duration {
	h.pass.Lock()
	defer h.pass.Unlock()
	return min(h.interval, cmp.Or(h.again, h.interval))
}

func (h *Host) closeReady() {
	select {
	case <-h.ready:
	default:
		close(h.ready)
	}
}

// AwaitEvent returns false when the context has ended, and true after the interval or shortly after an event: changes come
// in bursts.
func AwaitEvent(ctx context.Context, events <-chan struct{}, interval time.Duration) bool {
	timer := time.NewTimer(interval)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	case <-events:
	}
	timer.Reset(settle)
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}

// compare brings the kernel into the wanted state as far as it can. Those who wait for the same event do so together:
// a comparison that somebody else started after the call is as good as an own one.
func (h *Host) compare() outcome {
	before := h.passes.Load()
	h.pass.Lock()
	defer h.pass.Unlock()
	if h.passes.Load() == before {
		h.passes.Add(1)
		h.last = h.compareOnce()
	}
	return h.last
}

// maxRounds is one more than there are kinds of links that are added.
const maxRounds = 2

// compareOnce needs h.pass. A link that was added is looked at again, for what it needs beside.
func (h *Host) compareOnce() (o outcome) {
	wanted := h.wanted()
	unmanaged := h.unmanage(wanted.macs(), time.Now())
	err := h.netns.Do(func(ns.NetNS) error {
		for round := range maxRounds {
			found, steps, last, err := h.round(wanted, round > 0)
			if err != nil {
				return err
			}
			h.tell(wanted, found, steps, last, round > 0)
			last.companions = found.companions(wanted.ENIs)
			if o = last; !o.added(steps) {
				h.note(wanted, found, &o)
				h.spread(wanted, found)
				return nil
			}
		}
		return errors.New("links that were added are not there")
	})
	if err != nil {
		o.add(Step{Part: PartNode}, err)
	}
	if unmanaged != nil {
		o.add(Step{Part: PartRest}, unmanaged)
	}
	return o
}

// round reads, builds and applies once. A further one is for what the round before has made.
func (h *Host) round(wanted Wanted, further bool) (found Found, steps []Step, o outcome, err error) {
	if found, err = read(wanted); err != nil {
		return found, nil, o, err
	}
	if found.NAT, err = readNAT(); err != nil {
		o.add(Step{Part: PartEgress}, err)
		wanted.Egress = Egress{} // what it would replace is not known
	}
	if err = readStuck(&found, h.last.absent); err != nil {
		return found, nil, o, err
	}
	h.readPrograms(wanted, &found, &o)
	steps, o.absent = Build(wanted, found)
	if !further {
		steps, h.again = h.memory.hold(found.bases(wanted), found, steps, h.interval, time.Now())
	}
	for _, s := range steps {
		h.log.Info("host network change", "op", s.String())
	}
	apply(steps, h.programs, &o)
	h.notePrograms(found, steps, o)
	return found, steps, o, nil
}

// tell reports what others changed and what became of that.
func (h *Host) tell(wanted Wanted, found Found, steps []Step, o outcome, further bool) {
	for _, r := range h.memory.judge(wanted, found, steps, o, further, time.Now()) {
		h.log.Warn("host network changed by others", "reason", r.reason, "message", r.message)
		if h.report != nil {
			h.report(r.reason, r.message)
		}
	}
}

func (h *Host) wanted() Wanted {
	var known []string
	if h.known != nil { // not under the lock: it has its own
		known = slices.DeleteFunc(h.known(), func(mac string) bool { return mac == "" })
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	return Wanted{
		ENIs: sorted(slices.Collect(maps.Values(h.enis))), Known: known, NodeDNS: h.dns, Egress: h.egress, Parents: slices.Clone(h.parents),
		HostNetworks: h.hostNetworks, ServiceNetworks: h.services, Spared: h.spared, NodePorts: h.nodePorts, SpreadIRQs: h.spreadIRQs,
	}
}

// note keeps what callers ask for. What is not known for a moment, as while a DHCP client restarts, stays as it was.
func (h *Host) note(wanted Wanted, found Found, o *outcome) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.mtu = cmp.Or(found.mtu(), h.mtu)
	if addrs := found.nodeAddrs(); len(addrs) > 0 && !slices.Equal(addrs, h.addrs) {
		h.addrs = addrs
	}
	h.local = found.local(Wanted{NodePorts: h.nodePorts, NodeDNS: h.dns})
	h.interestIn(wanted, found)
	h.companions = map[string]Companion{}
	for mac, c := range o.companions {
		if _, wanted := h.enis[mac]; wanted && o.ofParent(mac) == nil {
			h.companions[mac] = c
		}
		if !slices.Contains(h.parents, mac) {
			h.parents = append(h.parents, mac)
		}
	}
}
