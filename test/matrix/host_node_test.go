//go:build node && !vm

package matrix

import "time"

// streamEvery is the time between requests of a stream, and streamTimeout how long one waits for its answer: shorter than the time after
// which TCP sends a SYN again, so that a lost one counts as lost.
const (
	streamEvery   = 20 * time.Millisecond
	streamTimeout = 700 * time.Millisecond
)

// datapaths are those that any kernel has: ipvlan is a module that not every machine has.
var datapaths = []string{veth, exclusive}

// vainTimeout is longer than an answer takes that should not come.
const vainTimeout = 150 * time.Millisecond

// churned is how many pods TestChurn runs of each datapath, a tenth of that of exclusive ones.
const churned = 500

// gapLimit is how long traffic may stand still.
const gapLimit = time.Second

// damaged says which damages are done.
func damaged(d damage) bool { return d.only == "" }
