package demo

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

var errTimeout = errors.New("it did not come to pass in " + patience.String())

// await polls until done is true, at most for patience.
func await(ctx context.Context, done func() bool) error {
	ctx, cancel := context.WithTimeoutCause(ctx, patience, errTimeout)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for !done() {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	return nil
}

// terminate sends SIGTERM to the processes of a cgroup that run with the given argument, "" for all; but not to nsenter,
// which stands outside the pod and ends with what it started.
func terminate(dir, argument string) error {
	pids, err := os.ReadFile(filepath.Join(dir, "cgroup.procs"))
	if err != nil {
		return err
	}
	for pid := range strings.FieldsSeq(string(pids)) {
		if name, err := os.ReadFile(filepath.Join("/proc", pid, "comm")); err != nil || string(name) == "nsenter\n" {
			continue
		}
		if args, err := os.ReadFile(filepath.Join("/proc", pid, "cmdline")); err != nil || !slices.Contains(append(strings.Split(string(args), "\x00"), ""), argument) {
			continue
		}
		n, err := strconv.Atoi(pid)
		if err != nil {
			return fmt.Errorf("read %s/cgroup.procs: %w", dir, err)
		}
		if err := syscall.Kill(n, syscall.SIGTERM); err != nil && !errors.Is(err, syscall.ESRCH) {
			return fmt.Errorf("stop process %d: %w", n, err)
		}
	}
	return nil
}

// tail is the end of a log file.
func tail(path string) string {
	text, err := os.ReadFile(path)
	if err != nil {
		return err.Error()
	}
	return string(text[max(0, len(text)-2000):])
}
