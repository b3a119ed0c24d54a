package sim

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"

	"github.com/vishvananda/netns"
)

// inNetNS runs fn on a thread that is in the network namespace at path. The thread goes back afterwards; one that cannot
// is given up. fn must not start goroutines that need the namespace.
func inNetNS(path string, fn func() error) error {
	target, err := netns.GetFromPath(path)
	if err != nil {
		return fmt.Errorf("open network namespace %s: %w", path, err)
	}
	defer target.Close()
	result := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // a goroutine that ends locked takes its thread with it
		home, err := netns.Get()
		if err != nil {
			result <- fmt.Errorf("open own network namespace: %w", err)
			return
		}
		defer home.Close()
		if err := netns.Set(target); err != nil {
			result <- fmt.Errorf("enter network namespace %s: %w", path, err)
			return
		}
		err = fn()
		if back := netns.Set(home); back != nil {
			result <- errors.Join(err, fmt.Errorf("leave network namespace %s: %w", path, back))
			return
		}
		runtime.UnlockOSThread()
		result <- err
	}()
	return <-result
}

// setSysctl writes a value under /proc/sys/net of the thread's namespace.
func setSysctl(key, value string) error {
	name := filepath.Join("/proc/sys/net", key)
	if err := os.WriteFile(name, []byte(value), 0o644); err != nil {
		return fmt.Errorf("set %s to %s: %w", key, value, err)
	}
	return nil
}
