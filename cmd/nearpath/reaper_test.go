package main

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

func inodeAt(t *testing.T, path string) uint64 {
	t.Helper()
	var stat unix.Stat_t
	if err := unix.Stat(path, &stat); err != nil {
		t.Fatal(err)
	}
	return stat.Ino
}

func TestOpenNetNS(t *testing.T) {
	t.Parallel()
	own := inodeAt(t, "/proc/self/ns/net")
	f, err := openNetNS(own, "/proc", t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var stat unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &stat); err != nil || stat.Ino != own {
		t.Errorf("opened %d (%v), want %d", stat.Ino, err, own)
	}
}

// A number is of a namespace only if the file is one: other file systems have the same numbers.
func TestOpenNetNSRefusesOtherFiles(t *testing.T) {
	t.Parallel()
	proc := t.TempDir()
	path := filepath.Join(proc, "17", "ns", "net")
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if f, err := openNetNS(inodeAt(t, path), proc, t.TempDir()); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("opened %v, %v", f, err)
	}
}
