//go:build node

package churn

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"github.com/nearpath/nearpath/test/netlab"
)

// prefix begins the name of everything the tests make on the machine.
const prefix = "npchurn"

// patience bounds the wait for one condition.
const patience = time.Minute

func TestMain(m *testing.M) {
	if role := os.Getenv(roleEnv); role != "" {
		if err := errors.Join(setNice(0), play(role)); err != nil {
			fmt.Fprintln(os.Stderr, role+":", err)
			os.Exit(1)
		}
		return
	}
	goleak.VerifyTestMain(m)
}

// setNice gives all threads of this process a place among others (nice(2) is a thread's).
func setNice(nice int) error {
	threads, err := os.ReadDir("/proc/self/task")
	if err != nil {
		return err
	}
	for _, thread := range threads {
		id, err := strconv.Atoi(thread.Name())
		if err == nil {
			err = unix.Setpriority(unix.PRIO_PROCESS, id, nice)
		}
		if err != nil && !errors.Is(err, unix.ESRCH) {
			return err
		}
	}
	return nil
}

func ok(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// newLab makes a lab that leaves nothing behind on the machine.
func newLab(t *testing.T, name string) *netlab.Lab {
	t.Helper()
	name = prefix + "-" + name
	ok(t, netlab.Sweep(name))
	before, err := netlab.TakeInventory()
	ok(t, err)
	t.Cleanup(func() {
		after, err := netlab.TakeInventory()
		ok(t, err)
		// Only what bears our name: others may come and go on this machine meanwhile.
		if left := before.Containing(name).Diff(after.Containing(name)); len(left) > 0 {
			t.Errorf("left behind on the machine:\n%s", strings.Join(left, "\n"))
		}
	})
	lab, err := netlab.New(name)
	ok(t, err)
	t.Cleanup(func() { ok(t, lab.Close()) })
	return lab
}

// addBackends makes all endpoints addresses of the node, and starts who answers there.
func addBackends(t *testing.T, lab *netlab.Lab, n *netlab.Node) {
	t.Helper()
	err := n.NetNS().Do(func() error {
		lo, err := netlink.LinkByName("lo")
		if err != nil {
			return err
		}
		return errors.Join(netlink.LinkSetUp(lo), netlink.RouteAdd(&netlink.Route{
			LinkIndex: lo.Attrs().Index, Table: unix.RT_TABLE_LOCAL, Type: unix.RTN_LOCAL, Scope: netlink.SCOPE_HOST,
			Dst: &net4,
		}))
	})
	ok(t, err)
	cmd := command(t, n, roleServer)
	out, in, err := os.Pipe()
	ok(t, err)
	defer out.Close()
	cmd.Stdout = in
	_, err = lab.Start(cmd)
	ok(t, err)
	in.Close()
	if _, err := io.ReadFull(out, make([]byte, len("ready\n"))); err != nil {
		t.Fatalf("start what answers: %v", err)
	}
}

// command is a copy of this program that plays a role on a node.
func command(t *testing.T, n *netlab.Node, role string, args ...string) *exec.Cmd {
	t.Helper()
	self, err := os.Executable()
	ok(t, err)
	cmd := n.Command(context.WithoutCancel(t.Context()), self, args...)
	cmd.Env = append(os.Environ(), roleEnv+"="+role)
	cmd.Stderr = os.Stderr
	return cmd
}

// A running is a load at work.
type running struct {
	process *netlab.Process
	stdin   *os.File
	picks   bytes.Buffer
	began   time.Time
}

// startLoad starts a load on a node.
func startLoad(t *testing.T, lab *netlab.Lab, n *netlab.Node, p plan) *running {
	t.Helper()
	cmd := command(t, n, roleLoad, p.args()...)
	in, stdin, err := os.Pipe()
	ok(t, err)
	t.Cleanup(func() { stdin.Close() })
	r := &running{stdin: stdin, began: time.Now()}
	cmd.Stdin, cmd.Stdout = in, &r.picks
	r.process, err = lab.Start(cmd)
	ok(t, err)
	in.Close()
	return r
}

// stop ends the load and returns what came of it.
func (r *running) stop(t *testing.T) (picks []pick, took time.Duration) {
	t.Helper()
	took = time.Since(r.began)
	r.stdin.Close()
	select {
	case <-r.process.Done():
	case <-time.After(patience):
		t.Fatal("the load does not end")
	}
	ok(t, r.process.Err())
	picks = make([]pick, r.picks.Len()/binary.Size(pick{}))
	ok(t, binary.Read(&r.picks, binary.NativeEndian, picks))
	return picks, took
}

// await polls until lacking returns nil.
func await(t *testing.T, what string, lacking func() error) {
	t.Helper()
	deadline := time.Now().Add(patience)
	for {
		err := lacking()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("waited %s for %s: %v", patience, what, err)
		}
		time.Sleep(10 * time.Millisecond)
	}
}
