package hostnet

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/nearpath/nearpath/internal/atomicfile"
)

// managersOf looks at the directories that the managers make when they start.
func managersOf(root string) Managers {
	has := func(path string) bool {
		info, err := os.Stat(filepath.Join(root, path))
		return err == nil && info.IsDir()
	}
	return Managers{Networkd: has("run/systemd/netif"), NetworkManager: has("run/NetworkManager")}
}

// RemoveDropIns removes our files below the root, and tells the managers.
func RemoveDropIns(root string) error { return writeDropIns(root, nil) }

// unmanage keeps the managers off the wanted ENIs. It needs h.pass.
func (h *Host) unmanage(enis []ENI) error {
	if h.unmanaged == "" {
		return nil
	}
	macs := make([]string, len(enis))
	for i, e := range enis {
		macs[i] = e.MAC
	}
	return writeDropIns(h.unmanaged, DropIns(macs, managersOf(h.unmanaged)))
}

// writeDropIns makes our files below the root what is wanted, and tells the managers whose files have changed.
func writeDropIns(root string, wanted map[string]string) error {
	have, err := ownDropIns(root)
	if err != nil {
		return fmt.Errorf("list drop-ins: %w", err)
	}
	var errs []error
	var changed []string
	for path, content := range wanted {
		if have[path] == content {
			continue
		}
		changed = append(changed, path)
		errs = append(errs, atomicfile.Write(filepath.Join(root, path), []byte(content), 0o644))
	}
	for path := range have {
		if _, ok := wanted[path]; !ok {
			changed = append(changed, path)
			errs = append(errs, os.Remove(filepath.Join(root, path)))
		}
	}
	return errors.Join(append(errs, reload(root, changed))...)
}

// ownDropIns are our files and their contents, by path below the root.
func ownDropIns(root string) (map[string]string, error) {
	paths, err := filepath.Glob(filepath.Join(root, networkDir, networkPrefix+"*"))
	if err != nil {
		return nil, err
	}
	paths = append(paths, filepath.Join(root, networkdConf), filepath.Join(root, networkManConf))
	files := map[string]string{}
	for _, p := range paths {
		content, err := os.ReadFile(p)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		rel, err := filepath.Rel(root, p)
		if err != nil {
			return nil, err
		}
		files[rel] = string(content)
	}
	return files, nil
}

// reloadPatience is for a manager's answer.
const reloadPatience = time.Second

// reload tells the managers that are running to read their files again: networkd heeds those of interfaces then (since
// version 244), and those of itself when it starts, which is when it would delete rules. udev looks by itself.
func reload(root string, changed []string) error {
	managers := managersOf(root)
	bus := filepath.Join(root, "run/dbus/system_bus_socket")
	below := func(dir string) bool {
		return slices.ContainsFunc(changed, func(p string) bool { return strings.HasPrefix(p, dir) })
	}
	var errs []error
	if managers.Networkd && below("run/systemd/") {
		errs = append(errs, dbusCall(bus, reloadNetworkd, reloadPatience))
	}
	if managers.NetworkManager && below("run/NetworkManager/") {
		errs = append(errs, dbusCall(bus, reloadNetworkManager, reloadPatience))
	}
	return errors.Join(errs...)
}
