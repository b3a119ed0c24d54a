package netlab

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

const (
	// labsDir holds one directory per lab. It is on disk, not in /run, because nodes keep container images here, and
	// not below /tmp, because only root may be able to make names in it.
	labsDir = "/var/lib/nearpath-labs"

	ownerFile   = "owner"
	journalFile = "journal"
)

var errInUse = errors.New("in use by a live process")

// A home is a lab's directory. Its owner file holds the process id of the owner and a lock that the kernel drops
// when that process dies; its journal has a line for each thing outside the directory that was, or was about to be,
// made.
type home struct {
	dir     string
	owner   *os.File
	journal *os.File
}

// claimHome makes the directory of the lab called name. It is prepared under another name and renamed, so a
// directory with a lab's name always has an owner.
func claimHome(name string) (*home, error) {
	dir := filepath.Join(labsDir, name)
	if err := sweepHome(dir); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(labsDir, 0o755); err != nil {
		return nil, err
	}
	draft, err := os.MkdirTemp(labsDir, ".new-")
	if err != nil {
		return nil, err
	}
	h, err := prepareHome(draft)
	if err == nil {
		err = os.Rename(draft, dir) // fails when the name was taken meanwhile: its directory is not empty
	}
	if err != nil {
		return nil, errors.Join(err, h.close(), os.RemoveAll(draft))
	}
	h.dir = dir
	return h, nil
}

func prepareHome(dir string) (*home, error) {
	h := &home{dir: dir}
	var err error
	if h.owner, err = os.Create(filepath.Join(dir, ownerFile)); err != nil {
		return h, err
	}
	if err := unix.Flock(int(h.owner.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return h, fmt.Errorf("lock %s: %w", h.owner.Name(), err)
	}
	if _, err := fmt.Fprintln(h.owner, os.Getpid()); err != nil {
		return h, err
	}
	h.journal, err = os.OpenFile(filepath.Join(dir, journalFile), os.O_CREATE|os.O_RDWR|os.O_APPEND, 0o600)
	return h, err
}

// sweepHome removes what a dead owner left. It does nothing when there is no such directory, and returns errInUse
// when the owner lives.
func sweepHome(dir string) error {
	owner, err := os.Open(filepath.Join(dir, ownerFile))
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if err := lockDead(owner); err != nil {
		return errors.Join(err, owner.Close())
	}
	journal, err := os.OpenFile(filepath.Join(dir, journalFile), os.O_RDWR|os.O_APPEND, 0)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return errors.Join(err, owner.Close())
	}
	h := &home{dir: dir, owner: owner, journal: journal}
	return h.remove()
}

// lockDead takes the owner's lock. The file may have been removed, and the name claimed anew, between opening and
// locking it: then the lock is of no use.
func lockDead(owner *os.File) error {
	if err := unix.Flock(int(owner.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		pid, _ := bufio.NewReader(owner).ReadString('\n')
		return fmt.Errorf("%w (process %s)", errInUse, strings.TrimSpace(pid))
	}
	locked, err := owner.Stat()
	if err != nil {
		return err
	}
	named, err := os.Stat(owner.Name())
	if err != nil || !os.SameFile(locked, named) {
		return fmt.Errorf("%w that took the name just now", errInUse)
	}
	return nil
}

// record appends a line to the journal.
func (h *home) record(kind, path string) error {
	_, err := fmt.Fprintln(h.journal, kind, strconv.Quote(path))
	return err
}

// remove undoes the journal, the last line first, and then removes the directory. When something could not be
// undone the directory stays, with its journal, for a later sweep.
func (h *home) remove() error {
	lines, err := h.lines()
	errs := []error{err}
	for _, line := range slices.Backward(lines) {
		errs = append(errs, undo(line))
	}
	errs = append(errs, unmountBelow(h.dir))
	if err := errors.Join(errs...); err != nil {
		return errors.Join(err, h.close())
	}
	err = os.RemoveAll(h.dir)
	_ = os.Remove(labsDir) // succeeds when this was the last lab
	return errors.Join(err, h.close())
}

func (h *home) lines() ([]string, error) {
	if h.journal == nil {
		return nil, nil
	}
	text, err := os.ReadFile(filepath.Join(h.dir, journalFile))
	return slices.Collect(strings.Lines(string(text))), err
}

func (h *home) close() error {
	var errs []error
	for _, f := range []*os.File{h.journal, h.owner} {
		if f != nil {
			errs = append(errs, f.Close())
		}
	}
	return errors.Join(errs...)
}

// Kinds of journal lines.
const (
	kindNetNS  = "netns"
	kindCgroup = "cgroup"
)

// undo removes the thing a journal line names; a thing that is not there is no error.
func undo(line string) error {
	kind, quoted, _ := strings.Cut(strings.TrimSpace(line), " ")
	path, err := strconv.Unquote(quoted)
	if err != nil {
		return nil // torn by a crash: it was never acted on
	}
	switch kind {
	case kindNetNS:
		return removeNetNS(path)
	case kindCgroup:
		return removeCgroup(path)
	default:
		return fmt.Errorf("undo %q: unknown kind", line)
	}
}

// unmountBelow detaches what this mount namespace still has mounted below dir, so that removing dir cannot remove
// somebody else's files.
func unmountBelow(dir string) error {
	mounts, err := readMounts()
	if err != nil {
		return err
	}
	var errs []error
	for _, m := range slices.Backward(mounts) {
		if strings.HasPrefix(m.Point, dir+"/") {
			if err := unix.Unmount(m.Point, unix.MNT_DETACH); err != nil {
				errs = append(errs, fmt.Errorf("unmount %s: %w", m.Point, err))
			}
		}
	}
	return errors.Join(errs...)
}
