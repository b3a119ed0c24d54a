//go:build node && vm

package matrix

import "time"

// streamEvery is the time between requests of a stream, with a slow processor's care.
const streamEvery = 100 * time.Millisecond

var datapaths = []string{veth, ipvlan, exclusive}

// churned is how many pods TestChurn runs of each datapath, a tenth of that of exclusive ones.
const churned = 40
