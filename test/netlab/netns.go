package netlab

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"

	"golang.org/x/sys/unix"
)

// netnsDir is where iproute2 and CNI keep named network namespaces.
const netnsDir = "/run/netns"

// A NetNS is a named network namespace: a file in /run/netns that keeps it alive. Its methods may be called from any
// goroutine.
type NetNS struct {
	name, path string
}

// NetNS makes a network namespace called <prefix>-<name> with its loopback link up.
func (l *Lab) NetNS(name string) (*NetNS, error) {
	full, err := l.resourceName(name)
	if err != nil {
		return nil, fmt.Errorf("make network namespace: %w", err)
	}
	ns := &NetNS{name: full, path: filepath.Join(netnsDir, full)}
	if err := l.record(kindNetNS, ns.path); err != nil {
		return nil, fmt.Errorf("make network namespace %s: %w", full, err)
	}
	if err := createNetNS(ns.path); err != nil {
		return nil, fmt.Errorf("make network namespace %s: %w", full, err)
	}
	if err := ns.Do(setLoopbackUp); err != nil {
		return nil, fmt.Errorf("set up network namespace %s: %w", full, err)
	}
	return ns, nil
}

// Name is the file's name in /run/netns.
func (ns *NetNS) Name() string { return ns.name }

// Path is the file in /run/netns.
func (ns *NetNS) Path() string { return ns.path }

// Do runs f with the calling goroutine inside the namespace. Goroutines that f starts are outside.
func (ns *NetNS) Do(f func() error) error {
	target, err := os.Open(ns.path)
	if err != nil {
		return fmt.Errorf("enter network namespace: %w", err)
	}
	defer target.Close()
	return onBorrowedThread(func() error {
		if err := unix.Setns(int(target.Fd()), unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("enter network namespace %s: %w", ns.name, err)
		}
		return f()
	})
}

// Command is exec.CommandContext with the program inside the namespace. The program's process group ends with ctx.
func (ns *NetNS) Command(ctx context.Context, name string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, "nsenter", append([]string{"--net=" + ns.path, "--", name}, args...)...)
	endWithGroup(cmd)
	return cmd
}

// Close removes the namespace now instead of with its lab. It lives on while processes or sockets are in it.
func (ns *NetNS) Close() error { return removeNetNS(ns.path) }

// createNetNS makes a namespace and mounts it on path.
func createNetNS(path string) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	file, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL, 0o444)
	if err != nil {
		return err
	}
	if err := file.Close(); err != nil {
		return err
	}
	return onBorrowedThread(func() error {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("unshare network namespace: %w", err)
		}
		if err := unix.Mount(threadNetNS(), path, "", unix.MS_BIND, ""); err != nil {
			return fmt.Errorf("mount on %s: %w", path, err)
		}
		return nil
	})
}

func removeNetNS(path string) error {
	// EINVAL: not a mount, because making it stopped half-way.
	err := unix.Unmount(path, unix.MNT_DETACH)
	if err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("unmount network namespace %s: %w", path, err)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("remove network namespace: %w", err)
	}
	return nil
}

// onBorrowedThread runs f, which may change the thread's network namespace, and then puts the thread back. When that
// fails the thread ends with the goroutine: locked for good, no other goroutine can be run in the wrong namespace.
func onBorrowedThread(f func() error) error {
	runtime.LockOSThread()
	home, err := os.Open(threadNetNS())
	if err != nil {
		runtime.UnlockOSThread()
		return fmt.Errorf("open own network namespace: %w", err)
	}
	defer home.Close()
	err = f()
	if back := unix.Setns(int(home.Fd()), unix.CLONE_NEWNET); back != nil {
		return errors.Join(err, fmt.Errorf("return to own network namespace: %w", back))
	}
	runtime.UnlockOSThread()
	return err
}

func threadNetNS() string { return fmt.Sprintf("/proc/self/task/%d/ns/net", unix.Gettid()) }

func setLoopbackUp() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open socket: %w", err)
	}
	defer unix.Close(fd)
	req, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	req.SetUint16(unix.IFF_UP)
	if err := unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, req); err != nil {
		return fmt.Errorf("set lo up: %w", err)
	}
	return nil
}

// OpenNetNS is the namespace at path, a file in /run/netns or a link in /proc/<pid>/ns that somebody else made and
// removes.
func OpenNetNS(path string) *NetNS { return &NetNS{name: filepath.Base(path), path: path} }
