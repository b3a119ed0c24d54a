package kube

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// Variables for looking into a failure. docs/testing.md has them.
const (
	// HoldEnv, when not empty, keeps the cluster of a failed test until the file that it then names is removed.
	HoldEnv = "NEARPATH_HOLD"
	// ArtifactsEnv is a directory that the logs of a failed test are copied to.
	ArtifactsEnv = "NEARPATH_ARTIFACTS"
)

// logLines is how many lines of each log are printed after a failure.
const logLines = 25

// services lists everything the cluster runs.
func (c *Cluster) services() []service {
	all := slices.Clone(c.control)
	for _, n := range c.nodes {
		if n == nil {
			continue
		}
		for _, s := range []service{n.containerd, n.kubelet} {
			if s.name != "" {
				all = append(all, service{name: n.Name() + " " + s.name, log: s.log, process: s.process})
			}
		}
	}
	return all
}

// diagnose prints what one would look at first after a failure.
func (c *Cluster) diagnose(tb testing.TB) {
	tb.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second) // tb.Context is done by now
	defer cancel()
	for _, args := range [][]string{
		{"get", "nodes,pods,services,endpointslices", "-A", "-o", "wide"},
		{"get", "events", "-A", "--sort-by=.lastTimestamp"},
	} {
		out, err := c.TryKubectl(ctx, args...)
		if err != nil {
			out += err.Error()
		}
		tb.Logf("kubectl %s:\n%s", strings.Join(args, " "), out)
	}
	for _, s := range c.services() {
		tb.Logf("%s, last lines of %s:\n%s", s.name, s.log, logTail(s.log, logLines))
	}
	if dir := os.Getenv(ArtifactsEnv); dir != "" {
		c.copyLogs(tb, dir)
	}
	if os.Getenv(HoldEnv) != "" {
		c.hold(tb)
	}
}

// copyLogs copies all logs below dir.
func (c *Cluster) copyLogs(tb testing.TB, dir string) {
	tb.Helper()
	for _, s := range c.services() {
		to := filepath.Join(dir, tb.Name(), strings.ReplaceAll(s.name, " ", "-")+".log")
		if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
			tb.Log(err)
			return
		}
		if err := copyFile(s.log, to); err != nil {
			tb.Log(err)
		}
	}
}

// hold waits for somebody to have looked.
func (c *Cluster) hold(tb testing.TB) {
	tb.Helper()
	file := filepath.Join(c.dir, "hold")
	if err := os.WriteFile(file, nil, 0o644); err != nil {
		tb.Log(err)
		return
	}
	// Written at once: the test's own output may only come out when it ends.
	lines := []string{"", "the cluster of " + tb.Name() + " is held until " + file + " is removed",
		"kubectl: " + strings.Join(c.Command(context.Background()).Args, " ")}
	for _, n := range c.nodes {
		if n != nil && n.Node != nil {
			lines = append(lines, "node "+n.Name()+": "+n.EnterFile())
		}
	}
	_, _ = os.Stderr.WriteString(strings.Join(lines, "\n") + "\n")
	for {
		if _, err := os.Stat(file); err != nil {
			return
		}
		time.Sleep(200 * time.Millisecond)
	}
}

// lineWidth is how much is printed of each line of a log; structured ones can be very long.
const lineWidth = 240

// logTail returns the last lines of a log.
func logTail(path string, lines int) string {
	text, err := os.ReadFile(path)
	if err != nil {
		return err.Error()
	}
	all := strings.Split(strings.TrimSpace(string(text)), "\n")
	all = all[max(0, len(all)-lines):]
	for i, line := range all {
		all[i] = fmt.Sprintf("%.*s", lineWidth, line)
	}
	return strings.Join(all, "\n")
}
