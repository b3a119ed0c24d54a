//go:build node

package policy

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/nearpath/nearpath/test/netlab"
)

// prefix begins the name of everything the tests make on the machine.
const prefix = "nppolicy"

// binEnv names a directory that has the programs, roleEnv what a copy of this program does.
const (
	binEnv  = "NEARPATH_BIN"
	roleEnv = "NEARPATH_POLICY_ROLE"
)

// patience bounds the wait for one condition.
const patience = 3 * time.Minute

// TestMain builds the programs once, unless they are given.
func TestMain(m *testing.M) {
	if role := os.Getenv(roleEnv); role != "" {
		play := map[string]func(io.Reader, io.Writer) error{roleServer: probe, roleStarter: starter, roleCounter: counter}[role]
		if err := play(os.Stdin, os.Stdout); err != nil {
			fmt.Fprintln(os.Stderr, role+":", err)
			os.Exit(1)
		}
		return
	}
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

// build makes nearpath and nearpath-cni in a new directory and has binEnv name it.
func build() (dir string, err error) {
	if os.Getenv(binEnv) != "" {
		return "", nil
	}
	if dir, err = os.MkdirTemp("", prefix+"-bin-"); err != nil {
		return "", err
	}
	const module = "github.com/nearpath/nearpath"
	cmd := exec.Command("go", "build", "-buildvcs=false", "-ldflags=-s -w", "-o", dir, module+"/cmd/nearpath", module+"/cmd/nearpath-cni")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", errors.Join(fmt.Errorf("build the programs: %w\n%s", err, out), os.RemoveAll(dir))
	}
	return dir, os.Setenv(binEnv, dir)
}

// newLab makes a lab that leaves nothing behind on the machine.
func newLab(t *testing.T) *netlab.Lab {
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
	lab, err := netlab.New(prefix)
	ok(t, err)
	t.Cleanup(func() { ok(t, lab.Close()) })
	return lab
}

func ok(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// await polls until lacking returns nil.
func await(t *testing.T, what string, lacking func() error) {
	t.Helper()
	ok(t, until(what, lacking))
}

// until is await for other goroutines than the test's.
func until(what string, lacking func() error) error {
	for deadline := time.Now().Add(patience); ; time.Sleep(10 * time.Millisecond) {
		err := lacking()
		if err == nil {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("waited %s for %s: %w", patience, what, err)
		}
	}
}
