package main

import (
	"debug/elf"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
)

// moduleIndex knows a kernel's modules by name. Debian's packages have no modules.dep, depmod makes it at installation;
// the modules themselves say what they need.
type moduleIndex struct {
	files   map[string]string // path of the .ko by name
	builtin map[string]bool
}

// moduleName is the name the kernel knows the module of a file by.
func moduleName(file string) string {
	return strings.ReplaceAll(strings.TrimSuffix(path.Base(file), ".ko"), "-", "_")
}

// indexModules reads a directory like /lib/modules/<release>.
func indexModules(dir string) (moduleIndex, error) {
	index := moduleIndex{files: map[string]string{}, builtin: map[string]bool{}}
	builtin, err := os.ReadFile(filepath.Join(dir, "modules.builtin"))
	if err != nil {
		return index, err
	}
	for file := range strings.Lines(string(builtin)) {
		index.builtin[moduleName(strings.TrimSpace(file))] = true
	}
	err = filepath.WalkDir(dir, func(file string, _ fs.DirEntry, err error) error {
		if strings.HasSuffix(file, ".ko") {
			index.files[moduleName(file)] = file
		}
		return err
	})
	return index, err
}

// resolve returns the files of the named modules and of what they need, in an order to load them in. Those that are
// built in are not there; a name that the kernel knows in no form is an error.
func (index moduleIndex) resolve(names []string) ([]string, error) {
	var order []string
	seen := map[string]bool{}
	var visit func(name, by string) error
	visit = func(name, by string) error {
		if seen[name] || index.builtin[name] {
			return nil
		}
		seen[name] = true
		file, ok := index.files[name]
		if !ok {
			return fmt.Errorf("no module %s (wanted by %s)", name, by)
		}
		needs, err := needsOf(file)
		if err != nil {
			return fmt.Errorf("module %s: %w", name, err)
		}
		for _, needed := range needs {
			if err := visit(needed, name); err != nil {
				return err
			}
		}
		order = append(order, file)
		return nil
	}
	for _, name := range names {
		if err := visit(name, "the table"); err != nil {
			return nil, err
		}
	}
	return order, nil
}

// needsOf reads the "depends" of a module.
func needsOf(file string) ([]string, error) {
	module, err := elf.Open(file)
	if err != nil {
		return nil, err
	}
	defer func() { _ = module.Close() }()
	section := module.Section(".modinfo")
	if section == nil {
		return nil, fmt.Errorf("%s has no section .modinfo", file)
	}
	info, err := section.Data()
	if err != nil {
		return nil, err
	}
	for field := range strings.SplitSeq(string(info), "\x00") {
		if needs, ok := strings.CutPrefix(field, "depends="); ok && needs != "" {
			return strings.Split(strings.ReplaceAll(needs, "-", "_"), ","), nil
		}
	}
	return nil, nil
}
