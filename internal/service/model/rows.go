package model

import "strings"

// Break returns the rules with one mutation: a row turned off or made wrong in one way. Mutations lists them.
func (r Rules) Break(mutation string) Rules {
	r.broken = mutation
	return r
}

// Breaks reports whether that mutation is on.
func (r Rules) Breaks(mutation string) bool { return r.broken == mutation }

// A Mutation makes a row wrong in one way.
type Mutation struct {
	// Name is the row, and one more word where the row has several mutations.
	Name string
	What string // is wrong then
}

// Row is the row that the mutation is of.
func (m Mutation) Row() string {
	row, _, _ := strings.Cut(m.Name, " ")
	return row
}
