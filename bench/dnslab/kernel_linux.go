package dnslab

import (
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"

	"github.com/cilium/ebpf" //nolint:depguard // the size of maps is what is measured
)

// pins is where the agent's maps are, as the node sees it.
const pins = "/sys/fs/bpf/nearpath/*"

// mapBytes is what the kernel says of pinned maps, together (memlock in fdinfo; since 6.4 it is what is allocated).
func mapBytes(names []string) (total uint64, err error) {
	for _, name := range names {
		m, err := openPin(name)
		if err != nil {
			return 0, err
		}
		info, err := m.Info()
		if err := errors.Join(err, m.Close()); err != nil {
			return 0, err
		}
		bytes, ok := info.Memlock()
		if !ok {
			return 0, fmt.Errorf("the kernel does not tell the size of map %s", name)
		}
		total += bytes
	}
	return total, nil
}

func openPin(name string) (*ebpf.Map, error) {
	paths, err := filepath.Glob(filepath.Join(pins, name))
	if err != nil || len(paths) != 1 {
		return nil, errors.Join(err, fmt.Errorf("map %s has %d pins", name, len(paths)))
	}
	return ebpf.LoadPinnedMap(paths[0], &ebpf.LoadPinOptions{ReadOnly: true})
}

// kernelHits is how many questions of all pods the kernel has answered with something: the first of the outcomes.
func kernelHits() (total uint64, err error) {
	m, err := openPin("dns_counts")
	if err != nil {
		return 0, err
	}
	var pod uint32
	var outcomes [][5]uint64 // of each processor
	all := m.Iterate()
	for all.Next(&pod, &outcomes) {
		for _, o := range outcomes {
			total += o[0]
		}
	}
	return total, errors.Join(all.Err(), m.Close())
}

// serveMaps is the verb that asks for mapBytes.
func serveMaps(argument json.RawMessage) (any, error) {
	var names []string
	if err := json.Unmarshal(argument, &names); err != nil {
		return nil, err
	}
	return mapBytes(names)
}
