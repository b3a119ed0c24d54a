// Package measure is the frame of the benchmarks: it runs what is compared by turns in one run, keeps every raw sample,
// and judges by what was measured, the machine's own noise included.
//
// A [Benchmark] sets up a [Bed]. A bed has one or more [Series]; a series compares its [Case]s, of which one is
// nearpath, some are peers and one is the physical floor: what the machine needs for the least work of that kind. [Run]
// executes one timed round of every case before the next round of any, in turning order, so that what else goes on on
// the machine meets all of them. When the floor itself drifts, no figure of the run counts, see [Result.Drifts].
package measure

import (
	"context"
	"io"
)

// A Role says what a case is for.
type Role string

// The roles. A series has one Subject. Of several floors the lowest is the one that figures are compared with.
const (
	Subject Role = "nearpath"
	Peer    Role = "peer"
	Floor   Role = "floor"
)

// A Metric is one kind of figure that rounds give.
type Metric struct {
	Name string `json:"name"`
	What string `json:"what"`
	Unit string `json:"unit"`
	// HigherIsBetter is for rates; the zero value is for times and counts.
	HigherIsBetter bool `json:"higherIsBetter,omitempty"`
}

// Samples are the figures of one round, by name of metric. A round may give any number for each.
type Samples map[string][]float64

// A Case is one of the things compared.
type Case struct {
	Name string
	Role Role
	// Round does the work once and times it. Preparing and clearing up are not timed.
	Round func(context.Context) (Samples, error)
}

// A Series is a comparison under one condition.
type Series struct {
	Name, What string
	Scale      Scale
	Rounds     int
	// Unmeasured rounds go first and are not kept: they fill caches and page in programs.
	Unmeasured int
	Metrics    []Metric
	Cases      []Case
	// After is run after each round of all cases, untimed; nil: nothing.
	After func(context.Context) error
}

// A Bed is where a benchmark's series run.
type Bed struct {
	Series []Series
	// Close removes everything the bed has made. It does not depend on a context: it also runs after an interrupt.
	Close func() error
}

// A Benchmark is a set of series that share a bed.
type Benchmark struct {
	Name, What string
	Setup      func(context.Context, Env) (*Bed, error)
}

// Env is what benchmarks may use.
type Env struct {
	// Quick asks for fewer rounds: the same figures with less certainty.
	Quick bool
	// Version is nearpath's.
	Version string
	// Bin holds the project's programs, Peers those it is compared with. Both are absolute.
	Bin, Peers string
	// Progress gets lines for people.
	Progress io.Writer
}
