package podruntime

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"time"

	"golang.org/x/sys/unix"
)

func makeAll(names []string) error {
	for _, name := range names {
		if err := makeNetNS(Path(name)); err != nil {
			return fmt.Errorf("make network namespace %s: %w", name, err)
		}
	}
	return nil
}

// makeNetNS makes an empty namespace, in which not even the loopback link is up, and mounts it on path.
func makeNetNS(path string) error {
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
	return inNewNetNS(func() error { return unix.Mount("/proc/thread-self/ns/net", path, "", unix.MS_BIND, "") })
}

// inNewNetNS runs f on a thread that is in a namespace of its own, and puts the thread back. When that fails the thread
// ends with the goroutine, because it stays locked.
func inNewNetNS(f func() error) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread()
		home, err := unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			done <- err
			return
		}
		defer unix.Close(home)
		if err = unix.Unshare(unix.CLONE_NEWNET); err == nil {
			err = f()
		}
		back := unix.Setns(home, unix.CLONE_NEWNET)
		if back == nil {
			runtime.UnlockOSThread()
		}
		done <- errors.Join(err, back)
	}()
	return <-done
}

// removeAll returns when the kernel has taken the namespaces apart, which it does some time after they were removed,
// holding locks that plugins need.
func removeAll(names []string) error {
	var errs []error
	for _, name := range names {
		errs = append(errs, removeNetNS(Path(name)))
	}
	// One worker of the kernel takes namespaces apart, some at a time, and deletes their links early on. When the second
	// of two witnesses loses its link, the first and what went before it are gone altogether.
	for _, witness := range []string{"witness-1", "witness-2"} {
		errs = append(errs, outlive(witness))
	}
	return errors.Join(errs...)
}

func removeNetNS(path string) error {
	if err := unix.Unmount(path, unix.MNT_DETACH); err != nil {
		return fmt.Errorf("unmount %s: %w", path, err)
	}
	return os.Remove(path)
}

// patience bounds the wait for the kernel.
const patience = 10 * time.Second

// outlive makes a namespace with a link to the node, removes it and waits until the link is gone.
func outlive(name string) error {
	if err := makeNetNS(Path(name)); err != nil {
		return err
	}
	err := addVeth(name, Path(name))
	if err := errors.Join(err, removeNetNS(Path(name))); err != nil {
		return err
	}
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		if _, err := net.InterfaceByName(name); err != nil {
			return nil
		}
	}
	return fmt.Errorf("namespace %s was not taken apart in %s", name, patience)
}
