package cluster

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"
)

// run runs a task until the returned function is called.
func run(t *testing.T, task interface{ Run(context.Context) error }) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- task.Run(ctx) }()
	return func() {
		t.Helper()
		cancel()
		if err := <-done; err != nil {
			t.Errorf("run: %v", err)
		}
	}
}

type reporterFixture struct {
	t        *testing.T
	client   *fake.Clientset
	reporter *NodeReporter
}

// startReporter is for use in a synctest bubble.
func startReporter(t *testing.T, client *fake.Clientset) (*reporterFixture, func()) {
	t.Helper()
	r, err := newNodeReporter(client, NodeReporterConfig{NodeName: testNode, Log: slog.New(slog.NewTextHandler(io.Discard, nil))})
	if err != nil {
		t.Fatal(err)
	}
	return &reporterFixture{t, client, r}, run(t, r)
}

// writes counts the patches so far, once everything has come to rest.
func (f *reporterFixture) writes() int {
	f.t.Helper()
	synctest.Wait()
	n := 0
	for _, action := range f.client.Actions() {
		if patch, ok := action.(clienttesting.PatchAction); ok {
			if n++; action.GetSubresource() != "status" || action.GetResource().Resource != "nodes" || patch.GetName() != testNode {
				f.t.Errorf("patch of %s/%s %s", action.GetResource().Resource, action.GetSubresource(), patch.GetName())
			}
		}
	}
	return n
}

func (f *reporterFixture) node() *corev1.Node {
	f.t.Helper()
	node, err := f.client.CoreV1().Nodes().Get(f.t.Context(), testNode, metav1.GetOptions{})
	if err != nil {
		f.t.Fatal(err)
	}
	return node
}

func (f *reporterFixture) shows(kind string) corev1.NodeCondition {
	f.t.Helper()
	synctest.Wait()
	c, _ := nodeStateOf(f.node()).condition(kind)
	return c
}

func report(ips int64, conditions []NodeCondition) NodeReport {
	return NodeReport{Resources: map[string]int64{"nearpath.io/ip": ips}, Conditions: conditions}
}

func TestNodeReporterWritesWhatDiffers(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f, stop := startReporter(t, fake.NewClientset(apiNode()))
		defer stop()
		if n := f.writes(); n != 0 {
			t.Errorf("%d writes without a report", n)
		}
		f.reporter.Set(report(30, ips(true)))
		if n := f.writes(); n != 1 {
			t.Fatalf("%d writes of the first report", n)
		}
		if got := f.node().Status.Capacity["nearpath.io/ip"]; got.CmpInt64(30) != 0 {
			t.Errorf("capacity %s", &got)
		}
		for range 10 {
			f.reporter.Set(report(30, ips(true)))
			time.Sleep(20 * time.Second)
		}
		if n := f.writes(); n != 1 {
			t.Errorf("%d writes of one report", n)
		}

		node := f.node() // as a kubelet does that starts anew
		node.Status.Capacity["nearpath.io/ip"] = resource.MustParse("0")
		if _, err := f.client.CoreV1().Nodes().UpdateStatus(t.Context(), node, metav1.UpdateOptions{}); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if got := f.node().Status.Capacity["nearpath.io/ip"]; got.CmpInt64(30) != 0 {
			t.Errorf("what another has reset is %s", &got)
		}
	})
}

func TestNodeReporterSendsHeartbeats(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f, stop := startReporter(t, fake.NewClientset(apiNode()))
		defer stop()
		f.reporter.Set(report(30, ips(true)))
		since := f.shows(ConditionSufficientIP)
		time.Sleep(time.Hour + time.Second)
		if n := f.writes(); n != 1+12 {
			t.Errorf("%d writes in an hour of silence", n)
		}
		now := f.shows(ConditionSufficientIP)
		if !now.LastTransitionTime.Equal(&since.LastTransitionTime) || time.Since(now.LastHeartbeatTime.Time) > heartbeat {
			t.Errorf("condition %+v, first %+v", now, since)
		}
		before := f.writes()
		f.reporter.Set(report(30, nil))
		time.Sleep(time.Hour)
		if n := f.writes(); n != before {
			t.Errorf("%d writes in an hour without conditions", n-before)
		}
	})
}

func TestNodeReporterHoldsAShortage(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f, stop := startReporter(t, fake.NewClientset(apiNode()))
		f.reporter.Set(report(30, ips(true)))
		f.shows(ConditionSufficientIP)
		time.Sleep(time.Minute)
		f.reporter.Set(report(30, ips(false))) // over before anybody looks
		f.reporter.Set(report(30, ips(true)))
		if c := f.shows(ConditionSufficientIP); c.Status != corev1.ConditionFalse || c.Reason != "InsufficientIP" {
			t.Fatalf("in a shortage %+v", c)
		}
		time.Sleep(4 * time.Minute)
		stop()
		f, stop = startReporter(t, f.client) // a new agent knows nothing of it
		conditions := ips(true)
		conditions[0].Reason = "Better" // is written, so that the end does not fall on a heartbeat
		f.reporter.Set(report(30, conditions))
		time.Sleep(6*time.Minute - 2*time.Second)
		if c := f.shows(ConditionSufficientIP); c.Status != corev1.ConditionFalse {
			t.Errorf("shortly before the end %+v", c)
		}
		time.Sleep(4 * time.Second)
		if c := f.shows(ConditionSufficientIP); c.Status != corev1.ConditionTrue {
			t.Errorf("after the end %+v", c)
		}
		stop()
	})
}

func TestNodeReporterTriesAgainMoreAndMoreSlowly(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		client := fake.NewClientset(apiNode())
		var tries atomic.Int64
		var away atomic.Bool
		away.Store(true)
		client.PrependReactor("patch", "nodes", func(clienttesting.Action) (bool, runtime.Object, error) {
			if tries.Add(1); away.Load() {
				return true, nil, errors.New("away")
			}
			return false, nil, nil
		})
		f, stop := startReporter(t, client)
		defer stop()
		f.reporter.Set(report(30, ips(true)))
		time.Sleep(30 * time.Minute)
		synctest.Wait()
		n := tries.Load()
		if n < 25 || n > 40 {
			t.Errorf("%d tries in 30 minutes", n)
		}
		if got := metricValue(t, f.reporter.failures); got != float64(n) {
			t.Errorf("%v failures counted of %d", got, n)
		}
		away.Store(false)
		time.Sleep(2 * time.Minute)
		if c := f.shows(ConditionSufficientIP); c.Status != corev1.ConditionTrue {
			t.Errorf("after the API came back %+v", c)
		}
	})
}

// Another writer who wants something else gets an answer now and then, not a duel.
func TestNodeReporterDoesNotDuel(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f, stop := startReporter(t, fake.NewClientset(apiNode()))
		defer stop()
		f.reporter.Set(report(30, nil))
		for range 300 {
			node := f.node()
			node.Status.Capacity["nearpath.io/ip"] = resource.MustParse("7")
			if _, err := f.client.CoreV1().Nodes().UpdateStatus(t.Context(), node, metav1.UpdateOptions{}); err != nil {
				t.Fatal(err)
			}
			time.Sleep(3 * time.Second)
		}
		if n := f.writes(); n > 25 {
			t.Errorf("%d writes in 15 minutes against another writer", n)
		}
		time.Sleep(calm + 2*maxWritePause)
		for _, ips := range []int64{31, 32} { // the quarrel is over and forgotten
			f.reporter.Set(report(ips, nil))
			time.Sleep(2 * time.Second)
			synctest.Wait()
			if got := f.node().Status.Capacity["nearpath.io/ip"]; got.CmpInt64(ips) != 0 {
				t.Errorf("capacity %s, want %d", &got, ips)
			}
		}
	})
}

func TestNodeReporterWaitsForTheNode(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f, stop := startReporter(t, fake.NewClientset())
		defer stop()
		f.reporter.Set(report(30, ips(true)))
		time.Sleep(time.Hour)
		if n := f.writes(); n != 0 {
			t.Errorf("%d writes for a node that does not exist", n)
		}
		for range 2 {
			if _, err := f.client.CoreV1().Nodes().Create(t.Context(), apiNode(), metav1.CreateOptions{}); err != nil {
				t.Fatal(err)
			}
			time.Sleep(calm + time.Minute)
			if c := f.shows(ConditionSufficientIP); c.Status != corev1.ConditionTrue {
				t.Errorf("a node that has come shows %+v", c)
			}
			if err := f.client.CoreV1().Nodes().Delete(t.Context(), testNode, metav1.DeleteOptions{}); err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Minute)
		}
	})
}

func TestStripNodeKeepsWhatIsRead(t *testing.T) {
	t.Parallel()
	node := apiNode()
	node.Status.Images = []corev1.ContainerImage{{Names: []string{"large"}}}
	stripped, err := stripNode(node)
	if err != nil {
		t.Fatal(err)
	}
	again, err := stripNode(stripped)
	if err != nil {
		t.Fatal(err)
	}
	before, _ := json.Marshal(nodeStateOf(node).conditions)
	after, _ := json.Marshal(nodeStateOf(again.(*corev1.Node)).conditions)
	if string(before) != string(after) || again.(*corev1.Node).Status.Images != nil {
		t.Errorf("kept %+v", again)
	}
}
