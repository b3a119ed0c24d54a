//go:build node && vm

package matrix

import "time"

// streamEvery is the time between requests of a stream, with a slow processor's care.
const streamEvery = 100 * time.Millisecond

var datapaths = []string{veth, ipvlan, exclusive}
