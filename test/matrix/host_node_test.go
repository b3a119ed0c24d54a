//go:build node && !vm

package matrix

// datapaths are those that any kernel has: ipvlan is a module that not every machine has.
var datapaths = []string{veth, exclusive}
