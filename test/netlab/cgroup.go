package netlab

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// cgroupEnd bounds the wait for a cgroup to empty after its processes were killed.
const cgroupEnd = 10 * time.Second

// CgroupRoot is where this machine has its cgroup2 hierarchy mounted: /sys/fs/cgroup, or /sys/fs/cgroup/unified where
// version 1 is in use as well.
func CgroupRoot() (string, error) {
	mounts, err := readMounts()
	if err != nil {
		return "", err
	}
	for _, m := range mounts {
		if m.Type == "cgroup2" {
			return m.Point, nil
		}
	}
	return "", errors.New("find cgroup2: not mounted (mount -t cgroup2 none /sys/fs/cgroup)")
}

// subCgroups lists path and the cgroups below it, parents first.
func subCgroups(path string) []string {
	var dirs []string
	_ = filepath.WalkDir(path, func(p string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() {
			dirs = append(dirs, p)
		}
		return nil // cgroups may go while they are listed
	})
	return dirs
}

// removeCgroup kills what is left in the cgroup at path and removes it with all below it.
func removeCgroup(path string) error {
	deadline := time.Now().Add(cgroupEnd)
	for {
		err := tryRemoveCgroup(path)
		if err == nil || errors.Is(err, os.ErrNotExist) {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("remove cgroup: %w", err)
		}
		time.Sleep(5 * time.Millisecond) // dying processes leave their cgroup in their own time
	}
}

func tryRemoveCgroup(path string) error {
	var err error
	for _, dir := range slices.Backward(subCgroups(path)) {
		killCgroup(dir)
		if e := os.Remove(dir); e != nil {
			err = e
		}
	}
	if _, e := os.Stat(path); e != nil {
		return e
	}
	return err
}

// killCgroup kills the processes of one cgroup: through cgroup.kill where the kernel has it (5.14), else one by one.
func killCgroup(dir string) {
	if os.WriteFile(filepath.Join(dir, "cgroup.kill"), []byte("1"), 0) == nil {
		return
	}
	for _, pid := range cgroupMembers(dir) {
		killMember(dir, pid)
	}
}

// killMember kills pid if it is in the cgroup at dir, by a handle taken before the check: the id may be reused.
func killMember(dir string, pid int) {
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return
	}
	defer unix.Close(fd)
	if slices.Contains(cgroupMembers(dir), pid) {
		_ = unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0)
	}
}

func cgroupMembers(dir string) []int {
	text, err := os.ReadFile(filepath.Join(dir, "cgroup.procs"))
	if err != nil {
		return nil
	}
	var pids []int
	for field := range strings.FieldsSeq(string(text)) {
		if pid, err := strconv.Atoi(field); err == nil && pid > 0 {
			pids = append(pids, pid)
		}
	}
	return pids
}
