package netlab

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
)

// nameRule is what a prefix or a name may look like: it becomes part of file names, mount options and host names.
var nameRule = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]*[a-z0-9])?$`)

var errClosed = errors.New("lab is closed")

// A Lab owns namespaces, nodes and processes. Its methods may be called from any goroutine.
type Lab struct {
	prefix  string
	home    *home
	threads *launcher

	mu        sync.Mutex // guards the fields below
	closed    bool
	processes []*Process
	nodes     []*Node
}

// New opens the lab called prefix (lower case letters, digits and dashes). What a dead process left behind under the
// same prefix is removed first; when a live process holds the prefix, New fails.
func New(prefix string) (*Lab, error) {
	if err := RequireRoot(); err != nil {
		return nil, err
	}
	if !nameRule.MatchString(prefix) {
		return nil, fmt.Errorf("open lab: prefix %q is not made of lower case letters, digits and dashes", prefix)
	}
	h, err := claimHome(prefix)
	if err != nil {
		return nil, fmt.Errorf("open lab %s: %w", prefix, err)
	}
	l := &Lab{prefix: prefix, home: h, threads: newLauncher()}
	if err := os.WriteFile(filepath.Join(h.dir, scriptFile), []byte(nodeScript), 0o644); err != nil {
		return nil, errors.Join(fmt.Errorf("open lab %s: %w", prefix, err), l.Close())
	}
	return l, nil
}

// Dir is the lab's directory, on disk and private to root: logs, overlays, whatever its user wants to go with it.
func (l *Lab) Dir() string { return l.home.dir }

// Prefix is what the names of everything in the lab begin with.
func (l *Lab) Prefix() string { return l.prefix }

// Start starts cmd as part of the lab: it is killed, with its process group, by Close, and by the kernel when the
// process that owns the lab dies.
func (l *Lab) Start(cmd *exec.Cmd) (*Process, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return nil, fmt.Errorf("start %s: %w", cmd.Path, errClosed)
	}
	p, err := l.threads.start(cmd)
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", cmd.Path, err)
	}
	l.processes = append(l.processes, p)
	return p, nil
}

// Close ends every node and process and removes everything the lab made, the latest first. It goes on after failures
// and returns all of them; what it could not remove stays recorded for Sweep. A second Close does nothing.
func (l *Lab) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return nil
	}
	l.closed = true
	// Nodes first: what nsenter runs on them is then reaped by nsenter, while a node cannot end before somebody has
	// reaped what a killed nsenter left, and the machine's process 1 takes its time.
	for _, n := range slices.Backward(l.nodes) {
		n.process.Kill()
		n.closeHandles()
	}
	for _, p := range slices.Backward(l.processes) {
		p.Kill()
	}
	l.threads.close()
	if err := l.home.remove(); err != nil {
		return fmt.Errorf("close lab %s: %w", l.prefix, err)
	}
	return nil
}

// record notes in the journal that a thing is about to be made. What is there already belongs to somebody else and
// must not get into the journal.
func (l *Lab) record(kind, path string) error {
	if _, err := os.Lstat(path); err == nil {
		return fmt.Errorf("%s: %w", path, os.ErrExist)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return errClosed
	}
	return l.home.record(kind, path)
}

// resourceName checks name and puts the lab's prefix before it.
func (l *Lab) resourceName(name string) (string, error) {
	if !nameRule.MatchString(name) {
		return "", fmt.Errorf("name %q is not made of lower case letters, digits and dashes", name)
	}
	return l.prefix + "-" + name, nil
}

// Sweep removes what crashed processes left of the labs called prefix or prefix-*: namespaces, cgroups, mounts and
// directories. Labs whose process lives are left alone.
func Sweep(prefix string) error {
	if err := RequireRoot(); err != nil {
		return err
	}
	entries, err := os.ReadDir(labsDir)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("sweep labs: %w", err)
	}
	var errs []error
	for _, e := range entries {
		if e.Name() != prefix && !strings.HasPrefix(e.Name(), prefix+"-") {
			continue
		}
		err := sweepHome(filepath.Join(labsDir, e.Name()))
		if err != nil && !errors.Is(err, errInUse) {
			errs = append(errs, fmt.Errorf("sweep lab %s: %w", e.Name(), err))
		}
	}
	return errors.Join(errs...)
}

// RequireRoot says why this process cannot make namespaces, or returns nil.
func RequireRoot() error {
	if uid := os.Geteuid(); uid != 0 {
		return fmt.Errorf("needs root to make namespaces and mounts, runs as user %d", uid)
	}
	return nil
}

// Missing names the programs a lab needs that are not in PATH, each with the package that has it.
func Missing() []string {
	var missing []string
	for _, p := range []struct{ program, from string }{
		{"sh", "a POSIX shell"},
		{"mkdir", "coreutils"},
		{"sleep", "coreutils"},
		{"mount", "util-linux (Debian: mount)"},
		{"umount", "util-linux (Debian: mount)"},
		{"unshare", "util-linux"},
		{"nsenter", "util-linux"},
	} {
		if _, err := exec.LookPath(p.program); err != nil {
			missing = append(missing, p.program+": "+p.from)
		}
	}
	return missing
}
