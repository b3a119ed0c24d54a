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
func RemoveDropIns(root string) error {
	changed, err := writeDropIns(root, nil)
	_, told := reload(root, changed)
	return errors.Join(err, told)
}

// unmanage keeps the managers off the ENIs. One that could not be told, as while the bus is not up yet, is told again
// after the interval. It needs h.pass.
func (h *Host) unmanage(macs []string, now time.Time) error {
	if h.unmanaged == "" {
		return nil
	}
	changed, err := writeDropIns(h.unmanaged, DropIns(macs, managersOf(h.unmanaged)))
	if len(changed) == 0 && (len(h.untold) == 0 || now.Sub(h.lastTold) < h.interval) {
		return err
	}
	var told error
	h.untold, told = reload(h.unmanaged, append(h.untold, changed...))
	h.lastTold = now
	return errors.Join(err, told)
}

// writeDropIns makes our files below the root what is wanted. The managers are to be told of those that have changed.
func writeDropIns(root string, wanted map[string]string) (changed []string, err error) {
	have, err := ownDropIns(root)
	if err != nil {
		return nil, fmt.Errorf("list drop-ins: %w", err)
	}
	var errs []error
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
	return changed, errors.Join(errs...)
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
// version 244), and those of itself when it starts, which is when it would delete rules. udev looks by itself. What a
// manager could not be told of is returned, once a path.
func reload(root string, changed []string) (untold []string, err error) {
	managers := managersOf(root)
	bus := filepath.Join(root, "run/dbus/system_bus_socket")
	var errs []error
	tell := func(runs bool, dir string, call dbusMethod) {
		paths := slices.DeleteFunc(slices.Clone(changed), func(p string) bool { return !strings.HasPrefix(p, dir) })
		if !runs || len(paths) == 0 {
			return
		}
		if err := dbusCall(bus, call, reloadPatience); err != nil {
			errs, untold = append(errs, err), append(untold, paths...)
		}
	}
	tell(managers.Networkd, "run/systemd/", reloadNetworkd)
	tell(managers.NetworkManager, "run/NetworkManager/", reloadNetworkManager)
	slices.Sort(untold)
	return slices.Compact(untold), errors.Join(errs...)
}
