package bpf

import (
	"errors"
	"fmt"
	"maps"
	"runtime"
	"slices"

	"github.com/cilium/ebpf"
	"golang.org/x/sync/errgroup"
)

// loadAndAssign is spec.LoadAndAssign for specs whose maps hold neither maps nor programs, and in which everything is wanted: it
// loads as many programs at the same time as there are processors. The time of a load is the kernel's verifier, which works on the
// programs of callers with CAP_BPF without a common lock (bpf_check).
func loadAndAssign(spec *ebpf.CollectionSpec, to any, opts ebpf.CollectionOptions) (err error) {
	bare := spec.Copy()
	bare.Programs = nil
	loaded, err := ebpf.NewCollectionWithOptions(bare, opts)
	if err != nil {
		return err
	}
	defer loaded.Close() // what is assigned is no longer in it
	if loaded.Programs, err = loadPrograms(spec.Programs, loaded.Maps); err != nil {
		return err
	}
	return loaded.Assign(to)
}

// loadPrograms returns all of them or none.
func loadPrograms(specs map[string]*ebpf.ProgramSpec, onto map[string]*ebpf.Map) (map[string]*ebpf.Program, error) {
	names := slices.Collect(maps.Keys(specs))
	programs := make([]*ebpf.Program, len(names))
	var all errgroup.Group
	all.SetLimit(runtime.GOMAXPROCS(0))
	for i, name := range names {
		all.Go(func() (err error) {
			if programs[i], err = loadProgram(specs[name], onto); err != nil {
				return fmt.Errorf("program %s: %w", name, err)
			}
			return nil
		})
	}
	err := all.Wait()
	byName := make(map[string]*ebpf.Program, len(names))
	for i, p := range programs {
		if err != nil {
			err = errors.Join(err, p.Close())
			continue
		}
		byName[names[i]] = p
	}
	if err != nil {
		return nil, err
	}
	return byName, nil
}

func loadProgram(spec *ebpf.ProgramSpec, onto map[string]*ebpf.Map) (*ebpf.Program, error) {
	spec = spec.Copy()
	for i := range spec.Instructions {
		ins := &spec.Instructions[i]
		if !ins.IsLoadFromMap() || ins.Reference() == "" {
			continue
		}
		m, ok := onto[ins.Reference()]
		if !ok {
			return nil, fmt.Errorf("it uses the map %s, which there is not", ins.Reference())
		}
		if err := ins.AssociateMap(m); err != nil {
			return nil, fmt.Errorf("map %s: %w", ins.Reference(), err)
		}
	}
	return ebpf.NewProgram(spec)
}
