package autopath

import (
	"context"
	"net"
	"net/netip"
	"time"

	"github.com/coredns/coredns/plugin"
	"github.com/coredns/coredns/plugin/metadata"
	"github.com/coredns/coredns/request"
	"github.com/miekg/dns"
)

// maxSpawned bounds the lookups that a Handler has under way beyond one for each question; above it, searches ask for
// one name after the other.
const maxSpawned = 1024

// Scopes knows how clients search. It is asked for every question about an address, so it must be quick.
type Scopes interface {
	// Scope returns the Scope of the client at an address as it is now, or false when that is not known for certain:
	// a client of another Scope would get wrong answers, one without any just asks more often.
	Scope(ctx context.Context, client netip.Addr) (Scope, bool)
}

// An Event is what became of a question.
type Event struct {
	Reason  Reason  // why it was not searched for
	Outcome Outcome // of the search, when Reason is NoReason
	// Elsewhere is whether the answer is that of another name of the search.
	Elsewhere bool
}

// Config configures a [Handler].
type Config struct {
	Scopes Scopes
	// Told says that Forget is called whenever names of the cluster come into being or go. What is not there is then taken
	// for so until it is, within 30 s, and not just as long as negative answers say.
	Told bool
	// Left is called, unless nil, with names that clients of the Scope ask for next as they are, because their search has failed
	// here. Who keeps answers to searches that begin with one of them must not give them to these clients for a minute.
	Left func(Scope, []string)
	// Observe is called after every question, unless nil. It must be quick and safe for concurrent use.
	Observe func(context.Context, Event)
}

// A Handler is a plugin.Handler that searches for clients. The plugins behind it see every name of a search, and should
// have a cache among them.
type Handler struct {
	Next plugin.Handler

	config  Config
	memory  memory
	spawned chan struct{}
}

// New returns a Handler, whose Next is to be set before it serves.
func New(c Config) *Handler {
	return &Handler{config: c, memory: memory{limit: maxRemembered}, spawned: make(chan struct{}, maxSpawned)}
}

// Name implements plugin.Handler.
func (h *Handler) Name() string { return "autopath" }

// Forget drops what is remembered of searches, all of which is at most a minute old. Call it when names have come into being
// and must be found at once, after the plugins behind answer so.
func (h *Handler) Forget() { h.memory.clear() }

// ServeDNS implements plugin.Handler.
func (h *Handler) ServeDNS(ctx context.Context, w dns.ResponseWriter, r *dns.Msg) (int, error) {
	if reason := Searchable(r); reason != NoReason {
		return h.pass(ctx, w, r, reason)
	}
	return h.ServeScope(ctx, w, r, h.scope(ctx, request.Request{W: w, Req: r}))
}

func (h *Handler) scope(ctx context.Context, state request.Request) Scope {
	if scope, ok := scopeFrom(ctx); ok {
		return scope
	}
	client, ok := addrOf(state)
	if !ok {
		return Scope{}
	}
	scope, _ := h.config.Scopes.Scope(ctx, client.Unmap().WithZone(""))
	return scope
}

// addrOf is the client's address. Those of our own listeners are not written out to be read again: that would take longer than
// all else here.
func addrOf(state request.Request) (netip.Addr, bool) {
	switch at := state.W.RemoteAddr().(type) {
	case *net.UDPAddr:
		return netip.AddrFromSlice(at.IP)
	case *net.TCPAddr:
		return netip.AddrFromSlice(at.IP)
	}
	client, err := netip.ParseAddr(state.IP())
	return client, err == nil
}

// ServeScope serves a question of a client whose Scope the caller knows; the zero Scope is one that nobody knows.
func (h *Handler) ServeScope(ctx context.Context, w dns.ResponseWriter, r *dns.Msg, scope Scope) (int, error) {
	if reason := Searchable(r); reason != NoReason {
		return h.pass(ctx, w, r, reason)
	}
	plan, reason := scope.Plan(r.Question[0].Name, r.Question[0].Qtype)
	switch {
	case reason == EnoughDots:
		h.leave(scope, plan.Base, time.Now()) // the name as it is has failed
	case reason == NoReason && h.continued(scope, r):
		reason = Continued
	}
	if reason != NoReason {
		return h.pass(ctx, w, r, reason)
	}
	s := &session{h: h, w: w, r: r, asked: newAsked(ctx, w, r), plan: plan, of: searched{scope, lower(plan.Base)}, clears: h.memory.cleared()}
	s.replies = make([][2]reply, len(plan.Candidates))
	choice, holds, ttl := s.search(ctx)
	h.observe(ctx, Event{Outcome: choice.Outcome, Elsewhere: choice.Candidate > 0})
	if h.memory.cleared() != s.clears { // it may have seen what is no longer true
		holds = 0
	}
	takeNote(ctx, noteOf(choice, scope, holds))
	return s.write(ctx, choice, ttl)
}

// leave remembers what a client will ask for that goes on with a search for base. It does so for longer than anybody may
// keep the end of that search, and answer in our place.
func (h *Handler) leave(scope Scope, base string, now time.Time) {
	v := scope.value()
	names := v.continuations(base)
	for _, name := range names {
		h.memory.keep(searched{scope, name}, asAsked, now, 2*maxTTL, h.memory.cleared())
	}
	if h.config.Left != nil && len(names) > 0 {
		h.config.Left(scope, names)
	}
}

func (h *Handler) continued(scope Scope, r *dns.Msg) bool {
	candidate, _, ok := h.memory.recall(searched{scope, lower(r.Question[0].Name)}, time.Now())
	return ok && candidate == asAsked
}

// Searchable returns why a message is not one that a search makes, or NoReason.
func Searchable(r *dns.Msg) Reason {
	if r.Response || r.Opcode != dns.OpcodeQuery || r.CheckingDisabled || len(r.Question) != 1 || r.Question[0].Qclass != dns.ClassINET {
		return NotQuery
	}
	if t := r.Question[0].Qtype; t != dns.TypeA && t != dns.TypeAAAA {
		return NotAddress
	}
	return NoReason
}

func (h *Handler) pass(ctx context.Context, w dns.ResponseWriter, r *dns.Msg, reason Reason) (int, error) {
	h.observe(ctx, Event{Reason: reason})
	return plugin.NextOrFailure(h.Name(), h.Next, ctx, w, r)
}

func (h *Handler) observe(ctx context.Context, e Event) {
	if h.config.Observe != nil {
		h.config.Observe(ctx, e)
	}
}

func (h *Handler) spawn(f func()) bool {
	select {
	case h.spawned <- struct{}{}:
		go func() {
			defer func() { <-h.spawned }()
			f()
		}()
		return true
	default:
		return false
	}
}

// A session is the search for one question.
type session struct {
	h     *Handler
	w     dns.ResponseWriter // for the server's goroutine alone, as is r
	r     *dns.Msg
	asked asked // for lookups, which may outlive the session
	plan  Plan
	of    searched
	// clears is how often the Handler was told to forget before the search began.
	clears uint64
	// replies has one place for each candidate and type. A lookup writes its own and nobody reads it before Choose has
	// taken its status.
	replies [][2]reply
}

// search returns the end of the search, how long it may be remembered, and how long clients may take it for known.
func (s *session) search(ctx context.Context) (choice Choice, holds, ttl time.Duration) {
	now := time.Now()
	if _, afresh := scopeFrom(ctx); !afresh {
		if choice, ttl, ok := s.recall(ctx, now); ok {
			return choice, ttl, ttl
		}
	}
	choice = s.plan.Choose(ctx, s.lookup, s.h.spawn)
	if choice.Outcome != Found {
		s.h.leave(s.of.scope, s.plan.Base, now)
	}
	holds, ttl = s.holds(choice)
	// An empty candidate ends the search for both types only where nothing follows.
	if choice.Candidate > 0 && (choice.Outcome != Empty || choice.Candidate == len(s.plan.Candidates)-1) {
		s.h.memory.keep(s.of, choice.Candidate, now, holds, s.clears)
	}
	return choice, holds, ttl
}

// recall ends the search where it ended before, when the name there still exists.
func (s *session) recall(ctx context.Context, now time.Time) (Choice, time.Duration, bool) {
	candidate, ttl, ok := s.h.memory.recall(s.of, now)
	if !ok {
		return Choice{}, 0, false
	}
	switch s.lookup(ctx, candidate, s.plan.Type) {
	case Data:
		return Choice{Found, candidate}, ttl, true
	case NoData, Alias:
		return Choice{Empty, candidate}, ttl, true
	}
	s.h.memory.drop(s.of)
	return Choice{}, 0, false
}

// holds returns how long the end of the search may be remembered, zero when a reply does not say, and how long clients
// may take it for known.
func (s *session) holds(c Choice) (remember, ttl time.Duration) {
	remember, ttl = maxTTL, maxTTL
	upTo := c.Candidate + 1
	switch c.Outcome {
	case Undecided: // lookups may still be under way
		return 0, 0
	case Empty, Nothing:
		upTo = len(s.replies)
	}
	for i, both := range s.replies[:upTo] {
		for _, r := range both {
			if r.msg == nil {
				continue
			}
			if s.h.config.Told && i != c.Candidate && s.plan.Candidates[i].Local {
				continue
			}
			l := lifetime(r.msg)
			remember = min(remember, l)
			if l > 0 || i == c.Candidate {
				ttl = min(ttl, l)
			}
		}
	}
	return remember, ttl
}

// lookup asks the plugins behind us, with everything of the question but the name and the type.
func (s *session) lookup(ctx context.Context, candidate int, qtype uint16) Status {
	r := s.asked.msg.Copy()
	r.Question[0].Name, r.Question[0].Qtype = s.plan.Candidates[candidate].Name, qtype
	w, ctx := s.asked.capture(), s.asked.ownMetadata(ctx)
	code, err := plugin.NextOrFailure(s.h.Name(), s.h.Next, ctx, w, r)
	got := reply{w.msg, code, err, metadata.ValueFuncs(ctx)}
	s.replies[candidate][slot(qtype)] = got
	return got.status(qtype)
}

func slot(qtype uint16) int {
	if qtype == dns.TypeA {
		return 0
	}
	return 1
}

// write answers with the reply of the choice. That of the first candidate is the answer to the question as it was
// asked, whatever it is.
func (s *session) write(ctx context.Context, c Choice, ttl time.Duration) (int, error) {
	got := s.replies[c.Candidate][slot(s.plan.Type)]
	for label, value := range got.metadata {
		metadata.SetValueFunc(ctx, label, value)
	}
	if c.Candidate == 0 {
		if got.msg == nil || !plugin.ClientWrite(got.code) {
			return got.code, got.err
		}
		if err := s.w.WriteMsg(got.msg); err != nil {
			return got.code, err
		}
		return got.code, got.err
	}
	m := compose(s.r, got.msg, s.plan.Candidates[c.Candidate].Name, ttl)
	return m.Rcode, s.w.WriteMsg(m)
}
