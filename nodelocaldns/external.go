package nodelocaldns

import (
	"cmp"
	"context"
	"errors"
	"iter"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/miekg/dns"

	"github.com/nearpath/nearpath/bpf"
)

const (
	defaultExternalRoom = 8192
	defaultScopeRoom    = 64
	// maxAsking bounds the refreshes under way; one takes as long as the upstream, and userspace bounds that.
	maxAsking  = 32
	askTimeout = 5 * time.Second
	// maxFences bounds what is known of single names that were dropped; above it all questions under way are concerned.
	maxFences = 4096
	// A sweep reads every hit counter of the map, for which it may use a hundredth of a processor.
	minSweep, maxSweep = 2 * time.Second, 30 * time.Second
	sweepShare         = 100
)

// ExternalAnswers is the kernel's answer map; *bpf.Answers is one.
type ExternalAnswers interface {
	// Put returns bpf.ErrTooLarge for what the kernel cannot give, bpf.ErrFull when there is no room.
	Put(bpf.AnswerKey, []byte, bpf.AnswerLife) error
	Delete(bpf.AnswerKey) error
	Lookup(bpf.AnswerKey) (bpf.Answer, bool, error)
	All() iter.Seq2[bpf.Answer, error]
}

// An ExternalChain is what answers in userspace, one server block's.
type ExternalChain interface {
	// Ask asks as a pod of the key's scope would, through cache and upstream. An error means that there is no answer.
	Ask(context.Context, bpf.AnswerKey) (ExternalReply, error)
	// Forget makes answers to a folded name that were given before not be given again.
	Forget(name string)
}

// ExternalConfig configures an [External].
type ExternalConfig struct {
	Answers ExternalAnswers
	// Domains are the cluster's: their names are published by others, and here only under a scope.
	Domains []string
	// Searched is whether a pod's search may begin with a question, so that a negative answer to it must not be given to
	// every pod; nil means never.
	Searched func(name string, qtype uint16) bool
	Room     int // answers in the kernel, 0 means 8192
	PerScope int // of them for each scope, 0 means 64
	Log      *slog.Logger
}

// ExternalCounts are counters since the start, and what is held now.
type ExternalCounts struct {
	Held, Scoped, Stale int
	Published           uint64 // for a question of a pod
	Refreshed           uint64 // before the end of the answer they replace
	RefreshFailed       uint64
	Ended, Colder       uint64 // removed
	Forgotten           uint64 // removed by Flush and DropScoped
	Full                uint64 // the kernel's map had no room
	Failed              uint64 // the kernel's map could not be written
	Unfit               [unfits]uint64
}

// An External publishes answers of userspace that pods ask for again into the kernel, and keeps those fresh that are
// asked for often. It is a task; its methods are safe for concurrent use.
type External struct {
	config ExternalConfig
	ready  chan struct{}
	wake   chan struct{} // room for one

	mu     sync.Mutex // guards what follows, and writes to the map
	shelf  *shelf
	era    uint64                   // counts Flush and all that drops
	fence  uint64                   // what was asked before this era is not published
	fences map[bpf.AnswerKey]uint64 // the same of single names
	chains []*attached
	counts ExternalCounts
}

type attached struct {
	zones []string
	chain ExternalChain
}

// NewExternal returns an External that is to run before it publishes anything.
func NewExternal(c ExternalConfig) *External {
	for i, domain := range c.Domains {
		c.Domains[i] = foldName(domain)
	}
	return &External{
		config: c, ready: make(chan struct{}), wake: make(chan struct{}, 1),
		fences: map[bpf.AnswerKey]uint64{},
		shelf:  newShelf(cmp.Or(c.Room, defaultExternalRoom), cmp.Or(c.PerScope, defaultScopeRoom)),
	}
}

func (e *External) String() string { return "external answers" }

// Ready is closed when what the map holds is adopted.
func (e *External) Ready() <-chan struct{} { return e.ready }

// Attach adds a chain, which answers for names of its zones, and returns what removes it. When there is another one for them
// by then, all that the kernel holds is asked for again: a new configuration may answer otherwise.
func (e *External) Attach(zones []string, chain ExternalChain) (detach func()) {
	a := &attached{chain: chain}
	for _, zone := range zones {
		a.zones = append(a.zones, foldName(zone))
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.chains = append(e.chains, a)
	return func() {
		e.mu.Lock()
		defer e.mu.Unlock()
		e.chains = slices.DeleteFunc(e.chains, func(other *attached) bool { return other == a })
		if slices.ContainsFunc(a.zones, func(zone string) bool { return e.chainOf(zone) != nil }) {
			e.era++
			e.fence = e.era
			clear(e.fences)
			e.shelf.doubt(time.Now())
			e.rouse()
		}
	}
}

// chainOf returns the chain whose zone is the longest that a name is in, the newest of several: a configuration that
// replaces another one is attached before the other one ends.
func (e *External) chainOf(name string) ExternalChain {
	var found ExternalChain
	longest := -1
	for _, a := range e.chains {
		for _, zone := range a.zones {
			if labels := dns.CountLabel(zone); labels >= longest && dns.IsSubDomain(zone, name) {
				found, longest = a.chain, labels
			}
		}
	}
	return found
}

// Era is to be taken before a question is answered, and given to Observe: what was answered before a Flush is not
// published after it.
func (e *External) Era() uint64 {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.era
}

// Observe tells of a question of a pod that userspace answered, and publishes the answer when the name was asked before.
func (e *External) Observe(era uint64, key bpf.AnswerKey, r ExternalReply) {
	key.Scope = r.Scope
	if key.Scope == 0 && e.owned(key.Name) {
		return
	}
	answer, unfit := newExternalAnswer(key, r)
	if unfit == Fits && answer.negative && key.Scope == 0 && e.searched(key) {
		unfit = UnfitSearched
	}
	now := time.Now()
	e.mu.Lock()
	defer e.mu.Unlock()
	if unfit != Fits {
		e.counts.Unfit[unfit]++
		return
	}
	if e.current(era, key) && e.shelf.asked(now, key, now.Add(answer.kept()), answer.stale) && e.put(now, key, answer) {
		e.counts.Published++
	}
}

// current is whether what was asked in an era may be published still.
func (e *External) current(era uint64, key bpf.AnswerKey) bool {
	return era >= e.fence && era >= e.fences[key]
}

// fenceOff keeps answers to a question that are under way from being published.
func (e *External) fenceOff(key bpf.AnswerKey) {
	if len(e.fences) >= maxFences {
		clear(e.fences)
		e.fence = e.era
	}
	e.fences[key] = e.era
}

func (e *External) owned(name string) bool {
	return slices.ContainsFunc(e.config.Domains, func(domain string) bool { return dns.IsSubDomain(domain, name) })
}

func (e *External) searched(key bpf.AnswerKey) bool {
	return e.config.Searched != nil && (key.Type == dns.TypeA || key.Type == dns.TypeAAAA) &&
		e.config.Searched(key.Name, key.Type)
}

// kept is how long the kernel may give an answer before userspace must be asked.
func (a externalAnswer) kept() time.Duration {
	if a.stale {
		return min(a.life, staleLease)
	}
	return a.life
}

// put writes to the map, with mu held: else what is put may be what Flush has just removed.
func (e *External) put(now time.Time, key bpf.AnswerKey, a externalAnswer) bool {
	life := bpf.AnswerLife{Aged: !a.stale, Expires: a.kept()}
	whole, short, err := a.pack(key)
	if err != nil {
		e.counts.Unfit[UnfitFormat]++
		return false
	}
	err = e.config.Answers.Put(key, whole, life)
	if errors.Is(err, bpf.ErrTooLarge) && short != nil {
		err = e.config.Answers.Put(key, short, life)
	}
	switch {
	case err == nil:
		e.shelf.placed(now, key, now.Add(a.kept()), a.stale, otherNames(key.Name, a.msg))
		e.rouse()
		return true
	case errors.Is(err, bpf.ErrTooLarge):
		e.counts.Unfit[UnfitSize]++
	case errors.Is(err, bpf.ErrFull):
		e.counts.Full++
		e.shelf.full(now, key)
	default:
		e.failed("put", key, err)
	}
	return false
}

func (e *External) failed(verb string, key bpf.AnswerKey, err error) {
	if e.counts.Failed++; e.counts.Failed == 1 && e.config.Log != nil { // the counter tells of the others
		e.config.Log.Warn("external answers: the kernel's map cannot be written", "verb", verb, "name", key.Name, "err", err)
	}
}

// rouse makes Run look when it must look next.
func (e *External) rouse() {
	select {
	case e.wake <- struct{}{}:
	default:
	}
}

// remove takes an answer from the map, with mu held. What cannot be removed stays known, and is tried again.
func (e *External) remove(key bpf.AnswerKey) bool {
	if err := e.config.Answers.Delete(key); err != nil {
		e.failed("delete", key, err)
		return false
	}
	e.shelf.gone(key)
	return true
}

// Flush removes a name everywhere: its answers of all types and scopes, those that it is part of, and what the
// userspace cache would give. The next question for it goes to the upstream. It returns how many answers the kernel had.
func (e *External) Flush(name string) int {
	name = foldName(name)
	e.mu.Lock()
	for _, a := range e.chains {
		a.chain.Forget(name)
	}
	e.mu.Unlock()
	return e.drop(func(s *shelved) bool { return s.key.Name == name || slices.Contains(s.names, name) })
}

// DropNames removes the addresses of names under a scope, and is quick: it may be called for every change of a Service.
func (e *External) DropNames(scope uint32, names []string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.era++
	for _, name := range names {
		for _, qtype := range [...]uint16{dns.TypeA, dns.TypeAAAA} {
			key := bpf.AnswerKey{Name: foldName(name), Type: qtype, Scope: scope}
			e.shelf.unsee(key)
			e.fenceOff(key)
			if e.shelf.held[key] != nil && e.remove(key) {
				e.counts.Forgotten++
			}
		}
	}
}

// DropScoped removes the answers under a scope that match: the search that made them would end elsewhere now.
func (e *External) DropScoped(match func(scope uint32, name string) bool) int {
	return e.drop(func(s *shelved) bool { return s.key.Scope != 0 && match(s.key.Scope, s.key.Name) })
}

// DropMatching removes the answers to names that match, and those that lead through one: the next questions for them come by
// userspace again. The cache there keeps them.
func (e *External) DropMatching(match func(name string) bool) int {
	return e.drop(func(s *shelved) bool { return match(s.key.Name) || slices.ContainsFunc(s.names, match) })
}

func (e *External) drop(match func(*shelved) bool) int {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.era++
	e.fence = e.era
	clear(e.fences)
	e.shelf.forget()
	var keys []bpf.AnswerKey
	for key, s := range e.shelf.held {
		if match(s) {
			keys = append(keys, key)
		}
	}
	removed := 0
	for _, key := range keys {
		if e.remove(key) {
			removed++
		}
	}
	e.counts.Forgotten += uint64(removed)
	return removed
}

// Counts returns counters and sizes.
func (e *External) Counts() ExternalCounts {
	e.mu.Lock()
	defer e.mu.Unlock()
	c := e.counts
	c.Held = len(e.shelf.held)
	for key, s := range e.shelf.held {
		if key.Scope != 0 {
			c.Scoped++
		}
		if s.stale {
			c.Stale++
		}
	}
	return c
}

// An ExternalName is an answer that the kernel holds.
type ExternalName struct {
	bpf.AnswerKey
	Hits  uint64        // since the answer was put or refreshed
	Heat  float64       // hits, of which those of a minute ago count half
	Left  time.Duration // of its life, negative when it has ended
	Stale bool
}

// Top returns the hottest answers that the kernel holds, at most n.
func (e *External) Top(n int) []ExternalName {
	now := time.Now()
	e.mu.Lock()
	defer e.mu.Unlock()
	names := make([]ExternalName, 0, len(e.shelf.held))
	for key, s := range e.shelf.held {
		names = append(names, ExternalName{key, s.hits, s.heat.now(now), s.ends.Sub(now), s.stale})
	}
	slices.SortFunc(names, func(a, b ExternalName) int {
		return cmp.Or(cmp.Compare(b.Heat, a.Heat), compareKeys(a.AnswerKey, b.AnswerKey))
	})
	return slices.Clip(names[:min(n, len(names))])
}
