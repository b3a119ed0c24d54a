package policy

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"
)

const (
	defaultNameRoom    = 32768
	defaultNamePerName = 1024
	// nameGrace is how long after its TTL an address is good: a client resolves, and connects a moment later; the kernel
	// gives stale answers for as long as a lease of 5 s.
	nameGrace = 15 * time.Second
)

// NamesConfig configures [Names].
type NamesConfig struct {
	Room    int // pairs of name and address, 0 means 32768
	PerName int // addresses of a name, 0 means 1024
}

// Learned is what an answer says of a name.
type Learned struct {
	Name  string        `json:"name"`
	Addrs []netip.Addr  `json:"addrs"`
	TTL   time.Duration `json:"ttl"` // from now
}

// Names are the addresses that names led to lately, for the names that policies have as peers. An address is one of a
// pattern from before a client has the answer until the answer's TTL has passed and no connection to it is left. It is safe
// for concurrent use.
type Names struct {
	config NamesConfig

	mu       sync.Mutex // guards what follows
	patterns map[string]*namePattern
	names    map[string]map[netip.Addr]time.Time // until when; only names of patterns
	pairs    int
	refused  uint64
	// serial counts additions to patterns; those up to applied are in the kernel. advanced is closed when applied grows.
	serial, applied uint64
	advanced        chan struct{}
}

// A namePattern is a name, or *.name for all names below it.
type namePattern struct {
	addrs   map[netip.Addr]named
	changed bool
}

// A named address is one of a pattern, by some names of it, since an addition.
type named struct {
	names int
	since uint64
}

// NewNames returns Names without patterns, which learn nothing.
func NewNames(c NamesConfig) *Names {
	c.Room, c.PerName = cmp.Or(c.Room, defaultNameRoom), cmp.Or(c.PerName, defaultNamePerName)
	return &Names{
		config: c, advanced: make(chan struct{}),
		patterns: map[string]*namePattern{}, names: map[string]map[netip.Addr]time.Time{},
	}
}

// FoldName returns a name or pattern as patterns are compared: in lower case, without the dot at the end.
func FoldName(name string) string { return strings.ToLower(strings.TrimSuffix(name, ".")) }

// SetPatterns says which names policies have as peers, and returns those that are new, folded. What a cache gives for their
// names may be from before, so it has to be asked for again. What is known of other names is forgotten.
func (n *Names) SetPatterns(patterns []string) (added []string) {
	wanted := make(map[string]bool, len(patterns))
	for _, p := range patterns {
		wanted[FoldName(p)] = true
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	maps.DeleteFunc(n.patterns, func(p string, _ *namePattern) bool { return !wanted[p] })
	for p := range wanted {
		if n.patterns[p] == nil {
			added = append(added, p)
			n.patterns[p] = n.collect(p)
		}
	}
	for name, addrs := range n.names {
		if len(n.matching(name)) == 0 {
			n.pairs -= len(addrs)
			delete(n.names, name)
		}
	}
	slices.Sort(added)
	return added
}

// collect returns a new pattern with what is known of its names.
func (n *Names) collect(pattern string) *namePattern {
	p := &namePattern{addrs: map[netip.Addr]named{}}
	for name, addrs := range n.names {
		if !MatchName(pattern, name) {
			continue
		}
		for addr := range addrs {
			n.add(p, addr)
		}
	}
	return p
}

// add adds an address of one more name to a pattern.
func (n *Names) add(p *namePattern, addr netip.Addr) {
	a := p.addrs[addr]
	if a.names++; a.names == 1 {
		n.serial++
		a.since, p.changed = n.serial, true
	}
	p.addrs[addr] = a
}

// MatchName is whether a folded pattern means a folded name. *.name means all names below name, at any depth, but not name.
func MatchName(pattern, name string) bool {
	if suffix, ok := strings.CutPrefix(pattern, "*"); ok {
		return len(name) > len(suffix) && strings.HasSuffix(name, suffix)
	}
	return pattern == name
}

// matching returns the patterns that mean a folded name.
func (n *Names) matching(name string) []*namePattern {
	var found []*namePattern
	if p := n.patterns[name]; p != nil {
		found = append(found, p)
	}
	for rest := name; ; {
		_, below, ok := strings.Cut(rest, ".")
		if !ok {
			return found
		}
		if p := n.patterns["*."+below]; p != nil {
			found = append(found, p)
		}
		rest = below
	}
}

// Means reports whether a pattern means the name.
func (n *Names) Means(name string) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return len(n.patterns) > 0 && len(n.matching(FoldName(name))) > 0
}

// Learn takes what an answer says that a client is about to get. When it does not return 0, patterns have addresses by the
// answer that the kernel may not know yet: [Names.Wait] waits for that. An address that there is no room for is not learned,
// and counted.
func (n *Names) Learn(now time.Time, answer []Learned) (serial uint64) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if len(n.patterns) == 0 {
		return 0
	}
	for i := range answer {
		name := FoldName(answer[i].Name)
		patterns := n.matching(name)
		if len(patterns) == 0 {
			continue
		}
		n.learn(name, &answer[i], now, patterns)
		for _, p := range patterns {
			for _, addr := range answer[i].Addrs {
				serial = max(serial, p.addrs[plain(addr)].since)
			}
		}
	}
	if serial <= n.applied {
		return 0
	}
	return serial
}

func plain(addr netip.Addr) netip.Addr { return addr.Unmap().WithZone("") }

func (n *Names) learn(name string, l *Learned, now time.Time, patterns []*namePattern) {
	until := now.Add(max(l.TTL, 0) + nameGrace)
	for _, addr := range l.Addrs {
		addr = plain(addr)
		if known, ok := n.names[name][addr]; ok {
			if until.After(known) {
				n.names[name][addr] = until
			}
			continue
		}
		if n.pairs >= n.config.Room || len(n.names[name]) >= n.config.PerName {
			n.refused++
			continue
		}
		if n.names[name] == nil {
			n.names[name] = map[netip.Addr]time.Time{}
		}
		n.names[name][addr] = until
		n.pairs++
		for _, p := range patterns {
			n.add(p, addr)
		}
	}
}

// Wait returns when all that Learn spoke of is in the kernel, or with the context's error.
func (n *Names) Wait(ctx context.Context, serial uint64) error {
	for {
		n.mu.Lock()
		applied, advanced := n.applied, n.advanced
		n.mu.Unlock()
		if applied >= serial {
			return nil
		}
		select {
		case <-advanced:
		case <-ctx.Done():
			return fmt.Errorf("wait until policies know the addresses of an answer: %w", ctx.Err())
		}
	}
}

// Applied says that the kernel has all that Changed told of, together with this serial.
func (n *Names) Applied(serial uint64) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if serial > n.applied {
		n.applied = serial
		close(n.advanced)
		n.advanced = make(chan struct{})
	}
}

// Overdue reports whether the TTL of some address has passed.
func (n *Names) Overdue(now time.Time) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, addrs := range n.names {
		for _, until := range addrs {
			if !now.Before(until) {
				return true
			}
		}
	}
	return false
}

// Expire forgets addresses whose TTL has passed, but for those in use: a policy allows them for as long as a connection
// lasts. It reports whether a pattern has lost one.
func (n *Names) Expire(now time.Time, inUse func(netip.Addr) bool) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	lost := false
	for name, addrs := range n.names {
		for addr, until := range addrs {
			if now.Before(until) || inUse != nil && inUse(addr) {
				continue
			}
			delete(addrs, addr)
			n.pairs--
			for _, p := range n.matching(name) {
				lost = p.remove(addr) || lost
			}
		}
		if len(addrs) == 0 {
			delete(n.names, name)
		}
	}
	return lost
}

// remove removes an address of one name from a pattern, and reports whether it was the last one's.
func (p *namePattern) remove(addr netip.Addr) bool {
	a := p.addrs[addr]
	if a.names--; a.names > 0 {
		p.addrs[addr] = a
		return false
	}
	delete(p.addrs, addr)
	p.changed = true
	return true
}

// Addrs returns the addresses of a pattern, sorted.
func (n *Names) Addrs(pattern string) []netip.Addr {
	n.mu.Lock()
	defer n.mu.Unlock()
	p := n.patterns[FoldName(pattern)]
	if p == nil {
		return nil
	}
	return slices.SortedFunc(maps.Keys(p.addrs), netip.Addr.Compare)
}

// Changed returns the patterns, folded and sorted, whose addresses are others than at the last call, and the serial to be
// given to Applied once the kernel knows.
func (n *Names) Changed() (changed []string, serial uint64) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for name, p := range n.patterns {
		if p.changed {
			p.changed = false
			changed = append(changed, name)
		}
	}
	slices.Sort(changed)
	return changed, n.serial
}

// NameCounts say what is held.
type NameCounts struct {
	Patterns, Names, Pairs int
	// Refused counts addresses that there was no room for, since the start.
	Refused uint64
}

// Counts returns sizes.
func (n *Names) Counts() NameCounts {
	n.mu.Lock()
	defer n.mu.Unlock()
	return NameCounts{len(n.patterns), len(n.names), n.pairs, n.refused}
}

// Export returns what is known, sorted, for Import in the next life of the program.
func (n *Names) Export(now time.Time) []Learned {
	n.mu.Lock()
	defer n.mu.Unlock()
	var all []Learned
	for _, name := range slices.Sorted(maps.Keys(n.names)) {
		for _, addr := range slices.SortedFunc(maps.Keys(n.names[name]), netip.Addr.Compare) {
			all = append(all, Learned{Name: name, Addrs: []netip.Addr{addr}, TTL: n.names[name][addr].Sub(now) - nameGrace})
		}
	}
	return all
}

// Import takes what Export gave a while ago, before the first SetPatterns.
func (n *Names) Import(now time.Time, age time.Duration, all []Learned) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, l := range all {
		l.TTL -= age
		n.learn(FoldName(l.Name), &l, now, nil)
	}
}
