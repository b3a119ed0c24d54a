//go:build node

package matrix

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/nearpath/nearpath/test/netlab"
)

// prefix begins the name of everything the tests make on the machine.
const prefix = "npmatrix"

// binEnv names a directory that has the programs.
const binEnv = "NEARPATH_BIN"

// patience bounds the wait for one condition. A guest without hardware support is up to ten times slower than its host.
const patience = time.Minute

// TestMain builds the programs once, unless they are given.
func TestMain(m *testing.M) {
	dir, err := build()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	goleak.VerifyTestMain(m, goleak.Cleanup(func(code int) {
		if dir != "" {
			_ = os.RemoveAll(dir)
		}
		os.Exit(code)
	}))
}

// build makes nearpath, nearpath-cni, podapp and the CNI project's cnitool in a new directory and has binEnv name it.
func build() (dir string, err error) {
	if os.Getenv(binEnv) != "" {
		return "", nil
	}
	if dir, err = os.MkdirTemp("", prefix+"-bin-"); err != nil {
		return "", err
	}
	const module = "github.com/nearpath/nearpath"
	cmd := exec.Command("go", "build", "-buildvcs=false", "-ldflags=-s -w", "-o", dir,
		module+"/cmd/nearpath", module+"/cmd/nearpath-cni", module+"/test/podapp", "github.com/containernetworking/cni/cnitool")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", errors.Join(fmt.Errorf("build the programs: %w\n%s", err, out), os.RemoveAll(dir))
	}
	return dir, os.Setenv(binEnv, dir)
}

// leaveNothing fails the test when it leaves anything on the machine. What a killed run left goes first.
func leaveNothing(t *testing.T, prefix string) {
	t.Helper()
	ok(t, netlab.Sweep(prefix))
	before, err := netlab.TakeInventory()
	ok(t, err)
	t.Cleanup(func() {
		after, err := netlab.TakeInventory()
		ok(t, err)
		// Only what bears our name: others may come and go on this machine meanwhile.
		if left := before.Containing(prefix).Diff(after.Containing(prefix)); len(left) > 0 {
			t.Errorf("left behind on the machine:\n%s", strings.Join(left, "\n"))
		}
	})
}

// await polls until lacking returns nil.
func await(atMost time.Duration, what string, lacking func() error) error {
	deadline := time.Now().Add(atMost)
	for {
		err := lacking()
		if err == nil || errors.Is(err, errHopeless) {
			return err
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("waited %s for %s: %w", atMost, what, err)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// errHopeless ends an await early.
var errHopeless = errors.New("no use to wait")

func ok(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// tail is the end of a file.
func tail(path string, n int) string {
	text, err := os.ReadFile(path)
	if err != nil {
		return err.Error()
	}
	return string(text[max(0, len(text)-n):])
}

// writeFile replaces a file whole.
func writeFile(path, text string) error {
	draft := filepath.Join(filepath.Dir(path), ".draft")
	if err := os.WriteFile(draft, []byte(text), 0o644); err != nil {
		return err
	}
	return os.Rename(draft, path)
}
