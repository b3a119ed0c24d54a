//go:build node && vm

package matrix

import "time"

// streamEvery is the time between requests of a stream, with a slow processor's care.
const streamEvery = 100 * time.Millisecond

var datapaths = []string{veth, ipvlan, exclusive}

// vainTimeout is longer than an answer takes that should not come.
const vainTimeout = time.Second

// churned is how many pods TestChurn runs of each datapath, a tenth of that of exclusive ones.
const churned = 40

// gapLimit is how long traffic may stand still. A second would hold the guest's processor to account, not the agent.
const gapLimit = 15 * time.Second

// damaged says which damages are done: those that the node lane cannot do.
func damaged(d damage) bool { return d.only != "" }
