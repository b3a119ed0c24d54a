//go:build cluster

package e2e

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
)

// An answer is what the pod program's server says.
type answer struct {
	Pod, Node, Error string
	Upstream         struct{ Pod, Node string }
}

// TestWholePath walks the path of everyday life: deploy, call by name and address on the same node and
// across, lose a pod, lose an agent.
func TestWholePath(t *testing.T) {
	r := startRig(t)
	r.Apply(t, appYAML)
	r.WaitReady(t, "deployment/shop/web", "deployment/shop/catalog", "shop/client-n1", "shop/client-n2", "shop/client-own")

	t.Run("pods have addresses of ENIs", func(t *testing.T) {
		for _, n := range r.Nodes() {
			leases, err := r.leases(t.Context(), n)
			if err != nil {
				t.Fatal(err)
			}
			client := "client-" + n.Name()
			if ip := r.Pod(t, "shop/"+client).Status.PodIP; leases[client] != ip || !strings.HasPrefix(ip, "10.0.") {
				t.Errorf("%s has %s, the pool of %s says %q", client, ip, n.Name(), leases[client])
			}
		}
	})
	t.Run("a pod has an ENI of its own and a port of the node", func(t *testing.T) { r.checkOwnENI(t) })
	t.Run("nodes say how many pods fit", func(t *testing.T) { r.checkNodes(t) })
	t.Run("Services answer by name and by address from both nodes", func(t *testing.T) {
		var svc struct{ Spec struct{ ClusterIP string } }
		r.Get(t, "service/shop/web", &svc)
		for _, client := range []string{"shop/client-n1", "shop/client-n2"} {
			for _, host := range []string{"web", "web.shop", "web.shop.svc.cluster.local", svc.Spec.ClusterIP} {
				r.callUntilBothNodes(t, client, "http://"+host+"/")
			}
		}
	})
	t.Run("the API's own Service has its name", func(t *testing.T) {
		out := r.Exec(t, "shop/client-n1", "/podapp", "lookup", "kubernetes.default.svc.cluster.local", "--timeout", "5s")
		if !strings.Contains(out, "10.96.0.1") {
			t.Errorf("kubernetes.default is %q", out)
		}
	})
	t.Run("resolvers find what the cluster's DNS says", func(t *testing.T) { r.checkResolvers(t) })
	t.Run("names are published VPC-wide by two replicas", func(t *testing.T) { r.checkNames(t) })
	t.Run("policies of the API are enforced", func(t *testing.T) { r.checkPolicies(t) })
	t.Run("a deleted pod's address is free again", func(t *testing.T) { r.deletePod(t) })
	t.Run("an agent that is killed and comes back loses no request", func(t *testing.T) { r.restartUnderTraffic(t) })
}

// checkNodes waits until each node shows its addresses as the API and the kubelet take them: ecs.sim.medium has two ENIs of six
// addresses beside the primary one.
func (r *rig) checkNodes(t *testing.T) {
	t.Helper()
	for _, n := range r.Nodes() {
		var node corev1.Node
		deadline := time.Now().Add(time.Minute)
		for {
			r.Get(t, "node/"+n.Name(), &node)
			fits, allocatable := node.Status.Capacity["nearpath.io/ip"], node.Status.Allocatable["nearpath.io/ip"]
			sufficient := slices.ContainsFunc(node.Status.Conditions, func(c corev1.NodeCondition) bool {
				return c.Type == "SufficientIP" && c.Status == corev1.ConditionTrue
			})
			if fits.Value() == 12 && allocatable.Value() == 12 && sufficient && node.Annotations["k8s.aliyun.com/max-available-ip"] == "12" {
				break
			}
			if time.Now().After(deadline) {
				t.Fatalf("%s shows %v and %v allocatable, conditions %v, annotations %v", n.Name(), node.Status.Capacity, node.Status.Allocatable, node.Status.Conditions, node.Annotations)
			}
			time.Sleep(200 * time.Millisecond)
		}
	}
}

// checkOwnENI looks at a pod that asks by its annotation for an ENI of its own, from inside and by its host port.
func (r *rig) checkOwnENI(t *testing.T) {
	t.Helper()
	n2 := r.Node(t, "n2")
	var pods []struct{ Name, Datapath string }
	out, err := n2.Command(t.Context(), filepath.Join(r.bin, "nearpath"), "get", "pods", "-o", "json").Output()
	if err != nil || json.Unmarshal(out, &pods) != nil {
		t.Fatalf("list the pods of n2: %v: %s", err, out)
	}
	for _, p := range pods {
		if want := map[string]string{"client-own": "exclusive", "client-n2": "veth"}[p.Name]; want != "" && p.Datapath != want {
			t.Errorf("%s has datapath %s, want %s", p.Name, p.Datapath, want)
		}
	}
	r.callUntilBothNodes(t, "shop/client-own", "http://web/")
	var node corev1.Node
	r.Get(t, "node/n2", &node)
	at := node.Status.Addresses[slices.IndexFunc(node.Status.Addresses, func(a corev1.NodeAddress) bool { return a.Type == corev1.NodeInternalIP })]
	out, err = r.Node(t, "n1").Command(t.Context(), filepath.Join(r.bin, "podapp"), "get", "http://"+at.Address+":8088/", "--timeout", "5s").CombinedOutput()
	var a answer
	if err != nil || json.Unmarshal(out, &a) != nil || a.Pod != "client-own" {
		t.Errorf("the host port of client-own answers %s, %v", out, err)
	}
}

// callUntilBothNodes calls url until pods of both nodes have answered, each over a back end it called by name.
func (r *rig) callUntilBothNodes(t *testing.T, client, url string) {
	t.Helper()
	seen := map[string]bool{}
	for range 100 {
		var a answer
		r.podapp(t, client, &a, "get", url, "--timeout", "5s")
		if a.Error != "" || a.Upstream.Pod == "" {
			t.Fatalf("%s, asked from %s at %s, could not call its back end: %s", a.Pod, client, url, a.Error)
		}
		if seen[a.Node] = true; len(seen) == 2 {
			return
		}
	}
	t.Errorf("100 calls of %s from %s were all answered on %v", url, client, seen)
}

func (r *rig) deletePod(t *testing.T) {
	t.Helper()
	n := r.Node(t, "n1")
	before, err := r.leases(t.Context(), n)
	if err != nil {
		t.Fatal(err)
	}
	if before["client-n1"] == "" {
		t.Fatalf("client-n1 has no lease: %v", before)
	}
	r.Kubectl(t, "delete", "pod", "-n", "shop", "client-n1", "--wait")
	r.Wait(t, "the lease of client-n1 to end", func(ctx context.Context) error {
		leases, err := r.leases(ctx, n)
		if err != nil {
			return err
		}
		if leases["client-n1"] != "" {
			return fmt.Errorf("still leased: %v", leases)
		}
		return nil
	})
	// A pod of the same name starts over.
	r.Apply(t, appYAML)
	r.WaitReady(t, "shop/client-n1")
}

// stream makes requests from a client pod and returns the last report; first is called when the first ones have been
// answered.
func (r *rig) stream(t *testing.T, client string, first func()) (string, error) {
	t.Helper()
	cmd := r.Command(t.Context(), "exec", "-n", "shop", client, "--", "/podapp", "load", "http://catalog/",
		"--rate", "50", "--for", "20s", "--timeout", "10s", "--announce", "20")
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return "", err
	}
	if err := cmd.Start(); err != nil {
		return "", err
	}
	var last string
	for lines := bufio.NewScanner(stdout); lines.Scan(); {
		if last == "" {
			first()
		}
		last = lines.Text()
	}
	return last, cmd.Wait()
}

// restartUnderTraffic kills the agent of n1 while pods on both nodes make requests, each with a lookup and a new
// connection, and starts it again.
func (r *rig) restartUnderTraffic(t *testing.T) {
	t.Helper()
	type load struct {
		client string
		out    string
		err    error
	}
	clients := []string{"client-n1", "client-n2"}
	loads, flowing := make(chan load, len(clients)), make(chan string, len(clients))
	for _, client := range clients {
		go func() {
			out, err := r.stream(t, client, func() { flowing <- client })
			loads <- load{client, out, err}
		}()
	}
	for range clients {
		select {
		case <-flowing:
		case l := <-loads:
			t.Fatalf("load from %s ended early: %v: %s", l.client, l.err, l.out)
		}
	}
	n := r.Node(t, "n1")
	r.killAgent(t, n)
	// Long enough that many lookups and connections need an agent that is not there.
	select {
	case <-time.After(3 * time.Second):
	case <-t.Context().Done():
	}
	r.startAgent(t, n)
	if len(loads) > 0 {
		t.Errorf("traffic ended before the new agent was ready")
	}
	for range clients {
		l := <-loads
		var report struct {
			OK, Failed int
			Errors     []struct{ Error string }
			P50        int64 `json:"p50_ns"`
			P99        int64 `json:"p99_ns"`
		}
		if err := json.Unmarshal([]byte(l.out), &report); err != nil {
			t.Errorf("load from %s: %v, %v: %s", l.client, l.err, err, l.out)
			continue
		}
		t.Logf("load from %s: %d ok, %d failed, p50 %s, p99 %s", l.client, report.OK, report.Failed, time.Duration(report.P50), time.Duration(report.P99))
		if report.Failed > 0 || report.OK < 400 {
			t.Errorf("load from %s: %d ok, %d failed: %v", l.client, report.OK, report.Failed, report.Errors)
		}
	}
}
