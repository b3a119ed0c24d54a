//go:build node && vm

package matrix

import "time"

// streamEvery is the time between requests of a stream, and streamTimeout how long one waits for its answer. Requests come whether or not
// those of before were answered, so on a slow processor a fast pace, or giving up what is on its way, ends with no answers at all.
const (
	streamEvery   = 300 * time.Millisecond
	streamTimeout = 5 * time.Second
)

var datapaths = []string{veth, ipvlan, exclusive}

// vainTimeout is longer than an answer takes that should not come.
const vainTimeout = time.Second

// churned is how many pods TestChurn runs of each datapath, a tenth of that of exclusive ones.
const churned = 40

// gapLimit is how long traffic may stand still. A second would hold the guest's processor to account, not the agent.
const gapLimit = 15 * time.Second

// damaged says which damages are done: those that the node lane cannot do.
func damaged(d damage) bool { return d.only != "" }
