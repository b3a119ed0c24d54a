package takeover

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// Running looks for a process named kube-proxy in the calling thread's network namespace. It sees what the mounted /proc
// shows: in a container of a process namespace of its own, nothing.
func Running() (bool, error) {
	own, err := os.Readlink("/proc/thread-self/ns/net")
	if err != nil {
		return false, fmt.Errorf("look for kube-proxy: %w", err)
	}
	names, err := filepath.Glob("/proc/[0-9]*/comm")
	if err != nil {
		return false, fmt.Errorf("look for kube-proxy: %w", err)
	}
	for _, path := range names {
		comm, err := os.ReadFile(path)
		if err != nil || strings.TrimSpace(string(comm)) != "kube-proxy" { // a process that has ended is not the one
			continue
		}
		if at, err := os.Readlink(filepath.Join(filepath.Dir(path), "ns/net")); err == nil && at == own {
			return true, nil
		}
	}
	return false, nil
}
