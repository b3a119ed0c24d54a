package main

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/nearpath/nearpath/cni"
	"github.com/nearpath/nearpath/internal/service"
)

// newReaper makes what ends connected UDP sockets of backends that are gone.
func (a *agent) newReaper() (*service.Reaper, error) {
	records := cni.RecordsDir(a.cfg.Socket)
	return service.NewReaper(service.ReaperConfig{
		Open: func() (service.Sockets, error) {
			return a.datapath.NewReaper(func(inode uint64) (*os.File, error) { return openNetNS(inode, "/proc", records) })
		},
		Named: a.datapath.Services.Named, Synced: a.synced, Log: a.log, Metrics: a.metrics,
	})
}

// openNetNS opens a network namespace by its inode number: the node's, that of a pod in the records, or that of any
// process of which proc tells.
func openNetNS(inode uint64, proc, records string) (*os.File, error) {
	pod, recordErr := cni.NetNSOf(records, inode)
	candidates := []string{filepath.Join(proc, "self/ns/net")}
	if pod != "" {
		candidates = append(candidates, pod)
	}
	for _, path := range candidates {
		if f := openIf(path, inode); f != nil {
			return f, nil
		}
	}
	processes, err := filepath.Glob(filepath.Join(proc, "[0-9]*", "ns", "net"))
	if err != nil {
		return nil, err
	}
	for _, path := range processes {
		if f := openIf(path, inode); f != nil {
			return f, nil
		}
	}
	if recordErr != nil {
		return nil, recordErr
	}
	return nil, fmt.Errorf("network namespace %d is of no pod and no process: %w", inode, fs.ErrNotExist)
}

// openIf opens the namespace at a path if it is the one with the inode number, else it returns nil.
func openIf(path string, inode uint64) *os.File {
	var stat unix.Stat_t
	if unix.Stat(path, &stat) != nil || stat.Ino != inode {
		return nil
	}
	f, err := os.Open(path)
	if err != nil {
		return nil
	}
	var system unix.Statfs_t
	if unix.Fstat(int(f.Fd()), &stat) != nil || stat.Ino != inode || unix.Fstatfs(int(f.Fd()), &system) != nil || system.Type != unix.NSFS_MAGIC {
		f.Close()
		return nil
	}
	return f
}
