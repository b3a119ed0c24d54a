//go:build node && !vm

package policy

import "time"

// thirdDatapath is that of the pods which are neither veth nor exclusive where a kernel has another: ipvlan is a module that not every
// machine has.
const thirdDatapath = "veth"

// denied is how long nothing must be heard. Nothing waits for it that is allowed: who is not heard in this time is asked again,
// and given more of it each time.
const denied = 300 * time.Millisecond

// crowdStarts is how many pods are started that send before they may.
const crowdStarts = 100
