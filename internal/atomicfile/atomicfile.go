// Package atomicfile replaces files so that a reader, or a machine that loses power, finds the old content or the new
// one and never a part.
package atomicfile

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// Write makes path hold data with the given permissions. It writes a temporary file in the same directory, whose name
// starts with a dot and ends in no extension that anyone reads, syncs it and renames it over path. A path that holds
// the same already is left alone, so a read-only directory with the right file in it is no error.
func Write(path string, data []byte, perm os.FileMode) error {
	if same(path, data, perm) {
		return nil
	}
	if err := replace(path, data, perm); err != nil {
		return fmt.Errorf("replace %s: %w", path, err)
	}
	return nil
}

func same(path string, data []byte, perm os.FileMode) bool {
	info, err := os.Lstat(path)
	if err != nil || info.Mode() != perm || info.Size() != int64(len(data)) {
		return false
	}
	have, err := os.ReadFile(path)
	return err == nil && bytes.Equal(have, data)
}

func replace(path string, data []byte, perm os.FileMode) (err error) {
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	f, err := os.CreateTemp(dir, ".nearpath-")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.Remove(f.Name()))
		}
	}()
	_, err = f.Write(data)
	// The mode is right before the name is: a runtime may execute the file the moment it appears.
	if err := errors.Join(err, f.Chmod(perm), f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return err
	}
	return syncDir(dir)
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
