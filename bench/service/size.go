package service

import "github.com/nearpath/nearpath/bench/mapsize"

// A mapSize is kernel memory in bytes: what is in use, and what is taken, reserved cells included.
type mapSize struct {
	Used     uint64 `json:"used"`
	Reserved uint64 `json:"reserved"`
}

// serviceMaps are those whose size follows the cluster's. The first ones are allocated as they fill, the others at once.
var serviceMaps = struct{ growing, fixed []string }{[]string{"frontends"}, []string{"records", "blocks"}}

// cellBytes is a record's word or a cell of a block.
const cellBytes = 8

// size asks the kernel what maps take, and of those that it allocates at once what is in use.
func (n *pathNode) size() (s mapSize, err error) {
	for _, name := range serviceMaps.growing {
		bytes, err := mapsize.Bytes(datapathPins, name)
		if err != nil {
			return s, err
		}
		s.Used, s.Reserved = s.Used+bytes, s.Reserved+bytes
	}
	for _, name := range serviceMaps.fixed {
		bytes, err := mapsize.Bytes(datapathPins, name)
		if err != nil {
			return s, err
		}
		s.Reserved += bytes
	}
	services := n.workload.datapath.Services
	s.Used += cellBytes * uint64(len(services.Records())+services.UsedCells())
	return s, nil
}
