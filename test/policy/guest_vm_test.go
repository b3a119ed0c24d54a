//go:build node && vm

package policy

import "time"

// thirdDatapath: kernels in guests have all modules.
const thirdDatapath = "ipvlan"

// denied is how long nothing must be heard. Nothing waits for it that is allowed: who is not heard in this time is asked again,
// and given more of it each time.
const denied = time.Second

// crowdStarts is how many pods are started that send before they may.
const crowdStarts = 40
