//go:build node

package autopath

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/nearpath/nearpath/test/netlab"
)

// prefix begins the name of everything the test makes on the machine.
const prefix = "npautopath"

// patience bounds the wait for one condition.
const patience = time.Minute

// lookupEnv makes of this program one that looks up a name with Go's own resolver and prints its addresses.
const lookupEnv = "NEARPATH_TEST_LOOKUP"

func TestMain(m *testing.M) {
	if name := os.Getenv(lookupEnv); name != "" {
		addrs, err := (&net.Resolver{PreferGo: true}).LookupHost(context.Background(), name)
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		for _, a := range addrs {
			fmt.Fprintln(os.Stdout, a)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// build makes the programs in a directory of the test.
func build(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	const module = "github.com/nearpath/nearpath"
	cmd := exec.CommandContext(t.Context(), "go", "build", "-buildvcs=false", "-o", dir, module+"/cmd/nearpath", module+"/cmd/nearpath-cni")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build the programs: %v\n%s", err, out)
	}
	return dir
}

// leaveNothing fails the test when it leaves anything on the machine. What a killed run left goes first.
func leaveNothing(t *testing.T) {
	t.Helper()
	ok(t, netlab.Sweep(prefix))
	before, err := netlab.TakeInventory()
	ok(t, err)
	t.Cleanup(func() {
		after, err := netlab.TakeInventory()
		ok(t, err)
		if left := before.Containing(prefix).Diff(after.Containing(prefix)); len(left) > 0 {
			t.Errorf("left behind on the machine: %q", left)
		}
	})
}

// await polls until lacking returns nil.
func await(t *testing.T, atMost time.Duration, what string, lacking func() error) {
	t.Helper()
	deadline := time.Now().Add(atMost)
	for {
		err := lacking()
		if err == nil {
			return
		}
		if errors.Is(err, errHopeless) || time.Now().After(deadline) {
			t.Fatalf("waited for %s: %v", what, err)
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
func tail(path string) string {
	text, err := os.ReadFile(filepath.Clean(path))
	if err != nil {
		return err.Error()
	}
	return string(text[max(0, len(text)-6000):])
}
