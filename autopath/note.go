package autopath

import (
	"context"
	"time"
)

// Keep says who else an answer is for.
type Keep uint8

const (
	// KeepForAll says that the answer is that of the question alone.
	KeepForAll Keep = iota
	// KeepForScope says that it is the end of a search, found or not, and another client's search for the same name may end elsewhere.
	KeepForScope
	// KeepNot says that a lookup failed, and that the answer stands for what the client will find by itself.
	KeepNot
)

// A Note is what a Handler says of an answer to who stands before it in the chain and keeps answers. It is complete when
// the answer is written. The zero value is what is true without any Handler.
type Note struct {
	Keep  Keep
	Scope Scope         // with KeepForScope
	TTL   time.Duration // with KeepForScope: how long the search may be taken to end there
}

// noteOf is what is true of the end of a search. The first name of a search, where it is found, is found by everybody.
func noteOf(c Choice, s Scope, holds time.Duration) Note {
	switch {
	case c.Outcome == Undecided:
		return Note{Keep: KeepNot}
	case c.Outcome == Found && c.Candidate == 0:
		return Note{}
	case holds <= 0:
		return Note{Keep: KeepNot}
	}
	return Note{Keep: KeepForScope, Scope: s, TTL: holds}
}

type (
	noteKey  struct{}
	scopeKey struct{}
)

// WithNote returns a context whose Handler fills the Note.
func WithNote(ctx context.Context) (context.Context, *Note) {
	n := new(Note)
	return context.WithValue(ctx, noteKey{}, n), n
}

// takeNote fills the Note of the context, if there is one.
func takeNote(ctx context.Context, n Note) {
	if at, ok := ctx.Value(noteKey{}).(*Note); ok {
		*at = n
	}
}

// WithScope returns a context of a question that no client asks: it is searched for as clients of the Scope would,
// and afresh, so that the answer holds as long as one can.
func WithScope(ctx context.Context, s Scope) context.Context {
	return context.WithValue(ctx, scopeKey{}, s)
}

func scopeFrom(ctx context.Context) (Scope, bool) {
	s, ok := ctx.Value(scopeKey{}).(Scope)
	return s, ok
}
