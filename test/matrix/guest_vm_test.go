//go:build node && vm

package matrix

var datapaths = []string{veth, ipvlan, exclusive}
