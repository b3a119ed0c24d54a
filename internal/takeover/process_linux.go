package takeover

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// Running looks for a process named kube-proxy in the calling thread's network namespace, and says so if there is one, else
// nothing. It sees what the mounted /proc shows: in a container of a process namespace of its own, nothing; and no proxy
// that is part of another program, as that of k3s is. A kube-proxy that the caller may not look into counts.
func Running() (sign string, err error) {
	own, err := os.Readlink("/proc/thread-self/ns/net")
	if err != nil {
		return "", fmt.Errorf("look for kube-proxy: %w", err)
	}
	names, err := filepath.Glob("/proc/[0-9]*/comm")
	if err != nil {
		return "", fmt.Errorf("look for kube-proxy: %w", err)
	}
	for _, path := range names {
		comm, err := os.ReadFile(path)
		if err != nil || strings.TrimSpace(string(comm)) != "kube-proxy" { // a process that has ended is not the one
			continue
		}
		// Who may not look into a process (ptrace(2), access mode PTRACE_MODE_READ) takes it for the node's.
		if at, err := os.Readlink(filepath.Join(filepath.Dir(path), "ns/net")); err == nil && at == own || errors.Is(err, fs.ErrPermission) {
			return "kube-proxy runs on this node as process " + filepath.Base(filepath.Dir(path)), nil
		}
	}
	return "", nil
}
