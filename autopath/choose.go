package autopath

import (
	"context"

	"github.com/miekg/dns"
)

// A Status is what a lookup found.
type Status uint8

// The statuses. Unknown is everything else: SERVFAIL, REFUSED, no reply.
const (
	Unknown Status = iota
	Data           // records of the type asked for
	NoData         // the name exists, without records of the type
	Alias          // a CNAME, but no records of the type where it leads
	NoName         // NXDOMAIN
)

// A Lookup asks for a candidate of a Plan, by its index. Choose may call it for several candidates at once, and calls
// it at most once for each candidate and type.
type Lookup func(ctx context.Context, candidate int, qtype uint16) Status

// An Outcome is how a search ends.
type Outcome uint8

// The outcomes.
const (
	// Undecided: a lookup failed before anything was found, and every resolver deals with that in its own way.
	Undecided Outcome = iota
	// Found: the candidate has records of the type asked for.
	Found
	// OtherType: it has records of the other address type only, and the search ends there.
	OtherType
	// Empty: no candidate has records of either type, but this one exists.
	Empty
	// Nothing: no candidate exists.
	Nothing
	outcomesCount = iota
)

// Outcomes returns all of them.
func Outcomes() []Outcome {
	var all []Outcome
	for o := range Outcome(outcomesCount) {
		all = append(all, o)
	}
	return all
}

func (o Outcome) String() string {
	return [...]string{"undecided", "found", "other_type", "empty", "nothing"}[o]
}

// A Choice is the end of a search. The candidate is the first one, whose reply stands, unless something was found or
// is known to exist.
type Choice struct {
	Outcome   Outcome
	Candidate int
}

// Choose does the search: the first candidate that has records of either address type, in order. It depends on the
// statuses alone, not on when lookups return.
//
// The other type is asked where the one in question has no records. NXDOMAIN is about a name, whatever the type
// (RFC 2308, 2.1; RFC 8020), and taken at its word outside the cluster; in the cluster, where asking is free, it is not,
// since templates that refuse one type with NXDOMAIN are common there.
//
// Local candidates are asked one after the other, so that nothing is asked outside that the cluster knows. Neighbours
// among the others are asked at the same time when spawn, which must not block, agrees to run them; nil never does.
// Lookups that turn out not to matter are not waited for.
func (p Plan) Choose(ctx context.Context, lookup Lookup, spawn func(func()) bool) Choice {
	s := search{plan: p, lookup: lookup, empty: -1}
	for n := 0; n < len(p.Candidates); {
		run := s.start(ctx, n, spawn)
		for i, found := range run {
			if choice, done := s.take(n+i, found()); done {
				return choice
			}
		}
		n += len(run)
	}
	if s.empty >= 0 {
		return Choice{Empty, s.empty}
	}
	return Choice{Outcome: Nothing}
}

// A search is the progress of Choose.
type search struct {
	plan   Plan
	lookup Lookup
	empty  int // the first candidate that exists without records, or -1
}

// take goes on to a candidate, whose predecessors have been taken.
func (s *search) take(candidate int, found Outcome) (Choice, bool) {
	switch found {
	case Found, OtherType:
		return Choice{found, candidate}, true
	case Undecided:
		return Choice{Outcome: Undecided}, true
	case Empty:
		if s.empty < 0 {
			s.empty = candidate
		}
	}
	return Choice{}, false
}

// start begins to look at what may be looked at together from candidate n on, one local candidate or a run of others,
// and returns what waits for each.
func (s *search) start(ctx context.Context, n int, spawn func(func()) bool) []func() Outcome {
	end := n + 1
	for ; end < len(s.plan.Candidates) && !s.plan.Candidates[n].Local && !s.plan.Candidates[end].Local; end++ {
	}
	run := make([]func() Outcome, 0, end-n)
	for i := n; i < end; i++ {
		look := func() Outcome { return s.look(ctx, i) }
		if end-n > 1 && spawn != nil {
			look = elsewhere(look, spawn)
		}
		run = append(run, look)
	}
	return run
}

// elsewhere runs look by spawn and returns what waits for it, or look itself when spawn refuses. A panic becomes one of
// the waiter, where the server deals with it.
func elsewhere(look func() Outcome, spawn func(func()) bool) func() Outcome {
	type result struct {
		found    Outcome
		panicked any
	}
	results := make(chan result, 1)
	spawned := spawn(func() {
		var r result
		defer func() {
			r.panicked = recover()
			results <- r
		}()
		r.found = look()
	})
	if !spawned {
		return look
	}
	return func() Outcome {
		r := <-results
		if r.panicked != nil {
			panic(r.panicked)
		}
		return r.found
	}
}

// look asks for one candidate.
func (s *search) look(ctx context.Context, i int) Outcome {
	c := s.plan.Candidates[i]
	if c.Disputed {
		return Undecided
	}
	status := s.lookup(ctx, i, s.plan.Type)
	switch {
	case status == Data:
		return Found
	case status == Unknown:
		return Undecided
	case status == NoName && !c.Local:
		return Nothing
	case i == len(s.plan.Candidates)-1 && !c.Local: // nothing follows that the other type could prevent
		return Empty
	}
	other := s.lookup(ctx, i, otherType(s.plan.Type))
	switch {
	case other == Data && status == NoName: // the server contradicts itself
		return Undecided
	case other == Data:
		return OtherType
	case other == Unknown || other == Alias || status == Alias: // glibc ends at a CNAME that leads nowhere, Go does not
		return Undecided
	case status == NoData:
		return Empty
	}
	return Nothing
}

func otherType(qtype uint16) uint16 {
	if qtype == dns.TypeA {
		return dns.TypeAAAA
	}
	return dns.TypeA
}
