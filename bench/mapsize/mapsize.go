// Package mapsize says what maps of the datapath take of the kernel's memory.
package mapsize

import (
	"errors"
	"path/filepath"

	"github.com/cilium/ebpf" //nolint:depguard // the size of maps is what is measured
)

// Bytes is what the kernel says of a pinned map (memlock in fdinfo; since 6.4 it is what is allocated).
func Bytes(pins, name string) (bytes uint64, err error) {
	paths, err := filepath.Glob(filepath.Join(pins, "*", name))
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
