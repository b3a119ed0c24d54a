package netlab

import (
	"fmt"
	"io/fs"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// An Inventory lists what a test could leave behind on the machine: named network namespaces, links of the network
// namespace it was taken in, mounts, cgroups, BPF pins and labs. Take one before and one after, and compare.
type Inventory struct {
	items map[string]bool // "kind name"
}

// TakeInventory lists what the machine has now.
func TakeInventory() (Inventory, error) {
	inv := Inventory{items: make(map[string]bool)}
	links, err := net.Interfaces()
	if err != nil {
		return inv, fmt.Errorf("list links: %w", err)
	}
	for _, l := range links {
		inv.add("link", l.Name)
	}
	mounts, err := readMounts()
	if err != nil {
		return inv, err
	}
	for _, m := range mounts {
		inv.add("mount", m.Point+" ("+m.Type+")")
		switch m.Type {
		case "bpf":
			inv.addBelow("pin", m.Point)
		case "cgroup2":
			for _, dir := range subCgroups(m.Point) {
				inv.add("cgroup", dir)
			}
		}
	}
	inv.addEntries("netns", netnsDir)
	inv.addEntries("lab", labsDir)
	return inv, nil
}

func (inv Inventory) add(kind, name string) { inv.items[kind+" "+name] = true }

// addEntries adds what the directory at dir has, if there is one.
func (inv Inventory) addEntries(kind, dir string) {
	entries, _ := os.ReadDir(dir)
	for _, e := range entries {
		inv.add(kind, filepath.Join(dir, e.Name()))
	}
}

// addBelow adds everything below dir; what goes while it is listed is left out.
func (inv Inventory) addBelow(kind, dir string) {
	_ = filepath.WalkDir(dir, func(p string, _ fs.DirEntry, err error) error {
		if err == nil && p != dir {
			inv.add(kind, p)
		}
		return nil
	})
}

// Containing keeps the items that have text in them. A machine where other tests run at the same time changes by
// itself; a lab's prefix tells its own items apart.
func (inv Inventory) Containing(text string) Inventory {
	kept := Inventory{items: make(map[string]bool)}
	for item := range inv.items {
		if strings.Contains(item, text) {
			kept.items[item] = true
		}
	}
	return kept
}

// Items lists the inventory in order.
func (inv Inventory) Items() []string { return slices.Sorted(maps.Keys(inv.items)) }

// Diff says what changed from inv to later: "+ kind name" for what came, "- kind name" for what went.
func (inv Inventory) Diff(later Inventory) []string {
	var diff []string
	for _, item := range later.Items() {
		if !inv.items[item] {
			diff = append(diff, "+ "+item)
		}
	}
	for _, item := range inv.Items() {
		if !later.items[item] {
			diff = append(diff, "- "+item)
		}
	}
	return diff
}
