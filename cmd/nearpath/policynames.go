package main

import (
	"context"
	"log/slog"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/miekg/dns"

	"github.com/nearpath/nearpath/internal/policy"
	"github.com/nearpath/nearpath/nodelocaldns"
)

const (
	// maxNameWait bounds how long a client waits for its answer until policies know the addresses. After it the answer goes out: a
	// connection that comes too early is denied, and tries again.
	maxNameWait = 500 * time.Millisecond
	// nameSweep is between two looks for addresses whose time is over.
	nameSweep = 10 * time.Second
	// nameSave is from a new address until the file has it and the journal is empty again, nameKeep until the file has that
	// known ones were given again.
	nameSave, nameKeep = time.Second, time.Minute
	// maxNameJournal bounds what the journal tells of addresses that are known already, in bytes.
	maxNameJournal = 1 << 20
)

// policyNames lets policies follow domain names: what the node's DNS answers becomes peers before the client has the answer.
// It is a task.
type policyNames struct {
	policyNamesConfig
	names *policy.Names
	ready chan struct{}
	wake  chan struct{} // room for one

	late atomic.Uint64 // answers that did not wait to the end

	file  sync.Mutex // guards what is on disk, and noted
	noted int        // bytes in the journal
	mu    sync.Mutex // guards what follows
	added []string   // patterns for which the kernel may have answers that nobody has looked at
}

// A policyNamesConfig configures policyNames.
type policyNamesConfig struct {
	Kernel kernelAnswers
	// Domains are the cluster's: its names are the business of selectors.
	Domains []string
	// Path is of the file that keeps what is known; that with journalSuffix has what came since.
	Path string
	// Refresh has policies follow names.Changed, and calls names.Applied when the kernel does.
	Refresh func(context.Context) error
	// InUse returns the peers of the connections there are.
	InUse func() (map[netip.Addr]bool, error)
	Log   *slog.Logger
}

// kernelAnswers is what *nodelocaldns.External has of it.
type kernelAnswers interface {
	Ready() <-chan struct{}
	DropMatching(match func(name string) bool) int
}

// newPolicyNames returns a task with what an earlier process has kept.
func newPolicyNames(c policyNamesConfig) *policyNames {
	p := &policyNames{policyNamesConfig: c, names: policy.NewNames(policy.NamesConfig{}), ready: make(chan struct{}), wake: make(chan struct{}, 1)}
	if err := p.load(time.Now()); err != nil {
		p.Log.Warn("policy names: what was known before is lost: connections by names may have to resolve them again", "err", err)
	}
	return p
}

func (p *policyNames) String() string { return "policy names" }

// Ready is closed when the task runs.
func (p *policyNames) Ready() <-chan struct{} { return p.ready }

// patterns follows the names that policies have as peers.
func (p *policyNames) patterns(list []string) {
	added := p.names.SetPatterns(list)
	if len(added) == 0 {
		return
	}
	p.mu.Lock()
	p.added = append(p.added, added...)
	p.mu.Unlock()
	p.rouse()
}

// changed and applied are for who plans.
func (p *policyNames) changed() ([]string, uint64) { return p.names.Changed() }
func (p *policyNames) applied(serial uint64)       { p.names.Applied(serial) }

func (p *policyNames) rouse() {
	select {
	case p.wake <- struct{}{}:
	default:
	}
}

// beforeReply returns when policies know the addresses of an answer that a client is about to get.
func (p *policyNames) beforeReply(m *dns.Msg) {
	all := p.learned(m)
	if len(all) == 0 {
		return
	}
	now := time.Now()
	serial := p.names.Learn(now, all)
	p.note(now, all, serial == 0)
	if serial == 0 {
		return
	}
	p.rouse()
	ctx, cancel := context.WithTimeout(context.Background(), maxNameWait)
	defer cancel()
	if err := p.names.Wait(ctx, serial); err != nil && p.late.Add(1) == 1 { // the counter tells of the others
		p.Log.Warn("policy names: an answer goes out before policies know its addresses", "err", err)
	}
}

// learned is what an answer says of names that policies have and that are not the cluster's.
func (p *policyNames) learned(m *dns.Msg) []policy.Learned {
	var all []policy.Learned
	for _, n := range nodelocaldns.Addresses(m) {
		if p.names.Means(n.Name) && !p.owned(n.Name) {
			all = append(all, policy.Learned{Name: n.Name, Addrs: n.Addrs, TTL: n.TTL})
		}
	}
	return all
}

func (p *policyNames) owned(name string) bool {
	for _, domain := range p.Domains {
		if dns.IsSubDomain(dns.Fqdn(domain), name) {
			return true
		}
	}
	return false
}

// Run follows names until the context ends.
func (p *policyNames) Run(ctx context.Context) error {
	close(p.ready)
	sweep, keep, adopted := time.NewTicker(nameSweep), time.NewTicker(nameKeep), p.Kernel.Ready()
	defer sweep.Stop()
	defer keep.Stop()
	var save <-chan time.Time
	for {
		select {
		case <-ctx.Done():
			p.save()
			return nil
		case <-adopted:
			adopted = nil
		case <-p.wake:
			p.refresh(ctx)
			if save == nil {
				save = time.After(nameSave)
			}
		case <-save:
			save = nil
			p.save()
		case <-keep.C:
			p.save()
		case <-sweep.C:
			p.sweep(ctx)
		}
		if adopted == nil {
			p.dropUnseen()
		}
	}
}

func (p *policyNames) refresh(ctx context.Context) {
	if err := p.Refresh(ctx); err != nil && ctx.Err() == nil {
		p.Log.Warn("policy names: policies cannot follow", "err", err)
	}
}

// dropUnseen takes answers from the kernel that were put there before a policy named their names: the next question for them
// comes by us.
func (p *policyNames) dropUnseen() {
	p.mu.Lock()
	added := p.added
	p.added = nil
	p.mu.Unlock()
	if len(added) == 0 {
		return
	}
	p.Kernel.DropMatching(func(name string) bool {
		name = policy.FoldName(name)
		for _, pattern := range added {
			if policy.MatchName(pattern, name) {
				return true
			}
		}
		return false
	})
}

// sweep forgets addresses whose time is over, unless somebody has a connection to them.
func (p *policyNames) sweep(ctx context.Context) {
	now := time.Now()
	if !p.names.Overdue(now) {
		return
	}
	used, err := p.InUse()
	if err != nil {
		p.Log.Warn("policy names: nothing is forgotten, as connections cannot be read", "err", err)
		return
	}
	if p.names.Expire(now, func(addr netip.Addr) bool { return used[addr] }) {
		p.refresh(ctx)
	}
}
