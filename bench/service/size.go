package service

import (
	"errors"
	"path/filepath"

	"github.com/cilium/ebpf" //nolint:depguard // the size of maps is what is measured
)

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
		bytes, err := mapBytes(name)
		if err != nil {
			return s, err
		}
		s.Used, s.Reserved = s.Used+bytes, s.Reserved+bytes
	}
	for _, name := range serviceMaps.fixed {
		bytes, err := mapBytes(name)
		if err != nil {
			return s, err
		}
		s.Reserved += bytes
	}
	services := n.workload.datapath.Services
	s.Used += cellBytes * uint64(len(services.Records())+services.UsedCells())
	return s, nil
}

// mapBytes is what the kernel says of a pinned map (memlock in fdinfo; since 6.4 it is what is allocated).
func mapBytes(name string) (bytes uint64, err error) {
	paths, err := filepath.Glob(filepath.Join(pinDir, "nearpath", "*", name))
	if err != nil || len(paths) != 1 {
		return 0, errors.Join(err, errors.New("no pin, or several, of map "+name))
	}
	m, err := ebpf.LoadPinnedMap(paths[0], &ebpf.LoadPinOptions{ReadOnly: true})
	if err != nil {
		return 0, err
	}
	info, err := m.Info()
	if err := errors.Join(err, m.Close()); err != nil {
		return 0, err
	}
	bytes, ok := info.Memlock()
	if !ok {
		return 0, errors.New("the kernel does not tell the size of map " + name)
	}
	return bytes, nil
}
