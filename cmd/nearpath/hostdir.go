package main

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// A hostDir is a directory of the node that container runtimes read at any time. A file in it is the old one or the new
// one, whole, whatever happens to the writer or to the machine. One process writes at a time: the directory is locked
// until close, and so a temporary file found in it is of a writer that did not get done.
//
// Names never lead out of the directory: a symbolic link in the place of a file is replaced and not followed.
type hostDir struct {
	path string
	root *os.Root
	dir  *os.File
}

// lockPatience bounds how long a writer waits for another one.
const lockPatience = 10 * time.Second

// openHostDir makes the directory if it is missing. The caller closes it soon.
func openHostDir(ctx context.Context, path string) (*hostDir, error) {
	if err := os.MkdirAll(path, 0o755); err != nil {
		return nil, err
	}
	root, err := os.OpenRoot(path)
	if err != nil {
		return nil, err
	}
	dir, err := root.Open(".")
	if err != nil {
		return nil, errors.Join(err, root.Close())
	}
	d := &hostDir{path: path, root: root, dir: dir}
	if err := d.lock(ctx); err != nil {
		d.close()
		return nil, err
	}
	return d, nil
}

func (d *hostDir) lock(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, lockPatience)
	defer cancel()
	for {
		err := unix.Flock(int(d.dir.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if !errors.Is(err, unix.EWOULDBLOCK) {
			return err
		}
		select {
		case <-time.After(20 * time.Millisecond):
		case <-ctx.Done():
			return fmt.Errorf("wait for another process that writes to %s: %w", d.path, ctx.Err())
		}
	}
}

func (d *hostDir) close() {
	_ = d.dir.Close() // the lock goes with it
	_ = d.root.Close()
}

// put makes name hold data with the given permissions and says whether it had to. A file that is right already is left
// alone, so that a directory that cannot be written is no error.
func (d *hostDir) put(name string, data []byte, perm fs.FileMode) (changed bool, err error) {
	if d.holds(name, data, perm) {
		_ = d.sweep(name) // what an earlier writer left is no reason to fail, in a read-only directory least of all
		return false, nil
	}
	if err := d.sweep(name); err != nil {
		return false, fmt.Errorf("remove what an earlier writer left in %s: %w", d.path, err)
	}
	if err := d.replace(name, data, perm); err != nil {
		return false, fmt.Errorf("write %s/%s: %w", d.path, name, err)
	}
	if !d.holds(name, data, perm) {
		return true, fmt.Errorf("%s/%s is not what was written: another program writes it too, or the disk fails", d.path, name)
	}
	return true, nil
}

// holds says whether the file is what put would make it.
func (d *hostDir) holds(name string, data []byte, perm fs.FileMode) bool {
	return fileIs(d.root.FS(), name, data, perm)
}

// fileIs compares a file, and not what a symbolic link leads to, by its hash.
func fileIs(dir fs.FS, name string, data []byte, perm fs.FileMode) bool {
	info, err := fs.Lstat(dir, name)
	if err != nil || info.Mode() != perm {
		return false
	}
	have, err := fs.ReadFile(dir, name)
	return err == nil && sha256.Sum256(have) == sha256.Sum256(data)
}

func (d *hostDir) replace(name string, data []byte, perm fs.FileMode) (err error) {
	temporary := temporaryName(name)
	f, err := d.root.OpenFile(temporary, os.O_WRONLY|os.O_CREATE|os.O_EXCL, perm)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, ifThere(d.root.Remove(temporary)))
		}
	}()
	_, err = f.Write(data)
	// The mode is right before the name is: a runtime may execute the file the moment it appears. The umask has cut it.
	if err := errors.Join(err, f.Chmod(perm), f.Sync(), f.Close()); err != nil {
		return err
	}
	// The old file may be running: its content stays, under no name, until it ends (no "text file busy").
	if err := d.root.Rename(temporary, name); err != nil {
		return err
	}
	return d.dir.Sync()
}

// randomBytes make a temporary name's end.
const randomBytes = 8

// temporaryName begins with a dot and ends in nothing that a runtime takes for a configuration.
func temporaryName(name string) string {
	random := make([]byte, randomBytes)
	_, _ = rand.Read(random) // it never fails
	return "." + name + "." + hex.EncodeToString(random)
}

// isTemporary says whether a file is one of ours on its way to name.
func isTemporary(file, name string) bool {
	end, ok := strings.CutPrefix(file, "."+name+".")
	_, err := hex.DecodeString(end)
	return ok && err == nil && len(end) == 2*randomBytes
}

// sweep removes the temporary files of writers that did not get done.
func (d *hostDir) sweep(name string) error {
	entries, err := fs.ReadDir(d.root.FS(), ".")
	if err != nil {
		return err
	}
	var errs []error
	for _, e := range entries {
		if isTemporary(e.Name(), name) {
			errs = append(errs, ifThere(d.root.Remove(e.Name())))
		}
	}
	return errors.Join(errs...)
}

// remove takes the file away, and what an earlier writer left of it. It says whether there was a file.
func (d *hostDir) remove(name string) (had bool, err error) {
	err = d.root.Remove(name)
	had = err == nil
	if err := errors.Join(ifThere(err), d.sweep(name)); err != nil {
		return had, fmt.Errorf("remove %s/%s: %w", d.path, name, err)
	}
	if !had {
		return false, nil
	}
	return true, d.dir.Sync()
}

// ifThere is err unless it says that there is nothing.
func ifThere(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}
