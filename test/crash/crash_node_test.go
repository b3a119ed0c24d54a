//go:build node

package crash

import (
	"flag"
	"fmt"
	"os/exec"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/nearpath/nearpath/test/netlab"
)

func TestMain(m *testing.M) {
	flag.Parse()
	// The rigs mostly wait, for agents and for the cloud: more of them than there are processors may run at a time.
	if err := flag.Set("test.parallel", "4"); err != nil {
		panic(err)
	}
	goleak.VerifyTestMain(m)
}

func TestKilledAgent(t *testing.T) {
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
	bin := t.TempDir()
	const module = "github.com/nearpath/nearpath"
	build := exec.CommandContext(t.Context(), "go", "build", "-buildvcs=false", "-o", bin, module+"/cmd/nearpath", module+"/cmd/nearpath-cni")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build the programs: %v\n%s", err, out)
	}
	for seed := range uint64(3) {
		t.Run(fmt.Sprintf("seed %d", seed), func(t *testing.T) {
			t.Parallel()
			everyBoundary(t, newRig(t, spec{name: fmt.Sprintf("seed%d", seed), bin: bin, seed: seed, ENIs: 20, PerENI: 3}))
		})
	}
	t.Run("cloud down", func(t *testing.T) {
		t.Parallel()
		cloudDown(t, newRig(t, spec{name: "down", bin: bin, ENIs: 3, PerENI: 3}))
	})
}

// A boundary is a row of the crash table: hit makes the agent do what leads there, kills it there, starts it again,
// mends what a runtime mends, and checks everything.
type boundary struct {
	name string
	hit  func(*testing.T)
}

// everyBoundary goes through the crash table in an order of the seed's.
func everyBoundary(t *testing.T, r *rig) {
	t.Helper()
	growing := []boundary{
		{"record before reply", r.killRecorded},
		{"link before reply", r.killLinked},
		{"during DEL", r.killDeleting},
		{"DEL without an agent", r.deleteWithoutAgent},
	}
	var shrinking []boundary
	for _, after := range []bool{false, true} {
		for _, action := range []string{createENI, attachENI, assignIPs} {
			at := moment{action, after}
			growing = append(growing, boundary{at.String(), func(t *testing.T) {
				t.Helper()
				r.killGrowing(t, at)
			}})
		}
		for _, action := range []string{unassignIPs, detachENI, deleteENI} {
			at := moment{action, after}
			shrinking = append(shrinking, boundary{at.String(), func(t *testing.T) {
				t.Helper()
				r.killShrinking(t, at)
			}})
		}
	}
	r.start(t)
	r.check(t)
	// The pool keeps an ENI for a minute at least, so growing comes first.
	for _, rows := range [][]boundary{growing, shrinking} {
		r.rand.Shuffle(len(rows), func(i, j int) { rows[i], rows[j] = rows[j], rows[i] })
		for _, b := range rows {
			if !t.Run(b.name, b.hit) {
				return
			}
		}
	}
	t.Run("at rest", r.finish)
}

// recover starts the agent if it is dead, does what a kubelet does about the ADDs, and checks everything.
func (r *rig) recover(t *testing.T, tries []attempt) {
	t.Helper()
	if r.dead() {
		r.start(t)
	}
	var failed []string
	for _, a := range tries {
		if a.err != nil {
			failed = append(failed, a.container)
		}
	}
	if len(failed) > 0 {
		t.Logf("of %d ADDs, those of %v failed", len(tries), failed)
		r.retry(t, tries)
	}
	r.check(t)
}

// finish deletes the last pods: everything cools, and the pool returns to its marks. Then the instance goes, and with it
// the pool's ENIs.
func (r *rig) finish(t *testing.T) {
	t.Helper()
	r.del(t, r.books.pods())
	r.check(t)
	await(t, 2*patience, "the pool to return to its marks", func() error {
		all, surplus := r.addresses(), 0
		for _, e := range r.gate.ours() {
			surplus += len(e.PrivateIPs)
			if time.Since(e.Created) < eniStays {
				surplus-- // its primary address stays with it
			}
		}
		if all < minIdle || surplus > maxIdle {
			return fmt.Errorf("it has %d addresses, %d of which it need not have, want %d to %d", all, surplus, minIdle, maxIdle)
		}
		return nil
	})
	r.check(t)
	r.kill()
	ok(t, r.cloud.Sim().TerminateInstance(t.Context(), r.machine.ID))
	if left := r.gate.ours(); len(left) > 0 {
		t.Errorf("the instance is gone and left %+v", left)
	}
}

// some picks n pods.
func (r *rig) some(n int) []*pod {
	pods := r.books.pods()
	r.rand.Shuffle(len(pods), func(i, j int) { pods[i], pods[j] = pods[j], pods[i] })
	return pods[:max(0, min(n, len(pods)))]
}

// thin deletes pods until few are left, if there are many: each costs time in every check.
func (r *rig) thin(t *testing.T) {
	t.Helper()
	const few, many = 8, 14
	if n := len(r.books.pods()); n > many {
		r.del(t, r.some(n-few))
	}
}
