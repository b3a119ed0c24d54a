// Package sysctl changes parameters of the kernel. It is Linux's, as all that uses it.
package sysctl

import (
	"errors"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// Mounted is where a container has what of the node's /proc/sys it may change. Runtimes make /proc/sys itself read-only in
// every container that is not privileged, and mount nothing below it (masked and read-only paths of the OCI runtime
// specification).
const Mounted = "/host/proc/sys"

// Write sets a parameter, such as net/ipv4/ip_forward. One of the network is that of the calling thread's network
// namespace, whichever way it is reached. Errors match those of os.WriteFile.
func Write(key, value string) error { return write(key, value, "/proc/sys", Mounted) }

func write(key, value, root, mounted string) error {
	err := os.WriteFile(filepath.Join(root, key), []byte(value), 0o644)
	if !errors.Is(err, unix.EROFS) {
		return err
	}
	if other := os.WriteFile(filepath.Join(mounted, key), []byte(value), 0o644); !errors.Is(other, os.ErrNotExist) {
		return other
	}
	return err // nothing is mounted, or not this
}
