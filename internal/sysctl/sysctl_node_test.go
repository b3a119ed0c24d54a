//go:build node

package sysctl

import (
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// TestContainer writes where /proc/sys is read-only, as in a container.
func TestContainer(t *testing.T) {
	const key = "net/ipv4/ip_forward"
	mounted := filepath.Join(t.TempDir(), "sys")
	if err := os.MkdirAll(filepath.Join(mounted, "net"), 0o755); err != nil {
		t.Fatal(err)
	}
	failed := make(chan error)
	go func() {
		runtime.LockOSThread() // the thread, and its namespaces, end with the goroutine
		failed <- inContainer(t, key, mounted)
	}()
	if err := <-failed; err != nil {
		t.Fatal(err)
	}
	if entries, err := os.ReadDir(filepath.Join(mounted, "net")); err != nil || len(entries) > 0 {
		t.Errorf("mounted outside: %v, %v", entries, err)
	}
}

func inContainer(t *testing.T, key, mounted string) error {
	t.Helper()
	for _, step := range []func() error{
		func() error { return unix.Unshare(unix.CLONE_NEWNS | unix.CLONE_NEWNET) },
		func() error { return unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, "") },
		func() error { return unix.Mount("/proc/sys", "/proc/sys", "", unix.MS_BIND, "") },
		func() error { return unix.Mount("", "/proc/sys", "", unix.MS_BIND|unix.MS_REMOUNT|unix.MS_RDONLY, "") },
	} {
		if err := step(); err != nil {
			return err
		}
	}
	if err := write(key, "1", "/proc/sys", mounted); err == nil || !strings.Contains(err.Error(), "/proc/sys/net") {
		t.Errorf("without a mount: %v, want the error of the read-only path", err)
	}
	// What is bound below the mount that is read-only is a mount of its own.
	if err := unix.Mount("/proc/sys/net", filepath.Join(mounted, "net"), "", unix.MS_BIND, ""); err != nil {
		return err
	}
	if err := unix.Mount("", filepath.Join(mounted, "net"), "", unix.MS_BIND|unix.MS_REMOUNT, ""); err != nil {
		return err
	}
	for _, value := range []string{"1", "0"} {
		if err := write(key, value, "/proc/sys", mounted); err != nil {
			t.Errorf("write %s: %v", value, err)
		}
		if have, err := os.ReadFile("/proc/sys/" + key); err != nil || strings.TrimSpace(string(have)) != value {
			t.Errorf("%s is %q, %v; want %s", key, have, err, value)
		}
	}
	return nil
}
