//go:build cluster

package e2e

import (
	"context"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/nearpath/nearpath/test/cloudlab"
	"github.com/nearpath/nearpath/test/kube"
	"github.com/nearpath/nearpath/test/netlab"
)

const (
	prefix       = "npe2e"
	corednsImage = "localhost/nearpath/coredns:test"
	agentConfig  = "/etc/nearpath/config.yaml"
)

//go:embed testdata/coredns.yaml
var corednsYAML string

//go:embed testdata/app.yaml
var appYAML string

// A rig is a cluster whose nodes are instances of a simulated VPC and run nearpath agents. Its control plane is an
// instance of the VPC, too.
type rig struct {
	*kube.Cluster
	cloud  *cloudlab.Cloud
	bin    string
	agents map[string]*netlab.Process
}

// startRig returns when both nodes are Ready and the cluster's DNS is up. Everything ends with the test, which fails if
// anything is left on the machine.
func startRig(t *testing.T) *rig {
	t.Helper()
	if err := netlab.Sweep(prefix); err != nil {
		t.Fatal(err)
	}
	checkNothingLeft(t)
	lab, err := netlab.New(prefix)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { closeLab(t, lab) })
	cloud, err := cloudlab.Start(lab, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := cloud.Close(); err != nil {
			t.Error(err)
		}
	})
	bin, err := filepath.Abs("../../bin")
	if err != nil {
		t.Fatal(err)
	}
	r := &rig{cloud: cloud, bin: bin, agents: map[string]*netlab.Process{}}
	r.Cluster = kube.Start(t, clusterConfig(t, lab, cloud, bin))
	for _, n := range r.Nodes() {
		r.startAgent(t, n)
	}
	r.WaitNodes(t)
	r.Apply(t, corednsYAML)
	r.WaitReady(t, "deployment/kube-system/coredns")
	return r
}

func clusterConfig(t *testing.T, lab *netlab.Lab, cloud *cloudlab.Cloud, bin string) kube.Config {
	t.Helper()
	cfg := kube.Config{Lab: lab, Images: []kube.Image{
		{Ref: corednsImage, Entrypoint: []string{"/coredns"}, Files: map[string]string{"/coredns": filepath.Join(bin, "coredns")}},
		buildResolvers(t, bin),
	}}
	control, err := cloud.Machine(t.Context(), "control")
	if err != nil {
		t.Fatal(err)
	}
	cfg.ControlPlane = kube.ControlPlane{NetNS: control.NetNS, Addr: control.Addr}
	serveVPCDNS(t, control.NetNS, control.Addr, outsideNames)
	for _, name := range []string{"n1", "n2"} {
		m, err := cloud.Machine(t.Context(), name)
		if err != nil {
			t.Fatal(err)
		}
		cfg.Nodes = append(cfg.Nodes, kube.NodeSpec{
			Name: name, NetNS: m.NetNS, Addr: m.Addr, ProviderID: "alicloud://" + m.ID,
			Files:      map[string]string{agentConfig: cloud.AgentConfig(name)},
			ResolvConf: fmt.Sprintf("nameserver %s\nsearch vpc.internal\n", control.Addr),
		})
	}
	return cfg
}

// startAgent starts nearpath on a node as a DaemonSet would, and installs the CNI plugin once the agent is ready.
func (r *rig) startAgent(t *testing.T, n *kube.Node) {
	t.Helper()
	log, err := os.OpenFile(filepath.Join(n.Dir(), "agent.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	nearpath := filepath.Join(r.bin, "nearpath")
	cmd := n.Command(context.Background(), nearpath, "agent", "--config", agentConfig, "--kubeconfig", r.Kubeconfig())
	cmd.Stdout, cmd.Stderr = log, log
	if r.agents[n.Name()], err = r.Lab().Start(cmd); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if text, err := os.ReadFile(log.Name()); err == nil && t.Failed() {
			t.Logf("the agent of %s logged at the end:\n%s", n.Name(), text[max(0, len(text)-4000):])
		}
	})
	agent := r.agents[n.Name()]
	r.Wait(t, "the agent of "+n.Name(), func(ctx context.Context) error {
		select {
		case <-agent.Done():
			t.Fatalf("the agent of %s ended: %v", n.Name(), agent.Err())
		default:
		}
		out, err := n.Command(ctx, nearpath, "get", "ready").CombinedOutput()
		if err != nil {
			return errors.New(string(out))
		}
		return nil
	})
	if out, err := n.Command(t.Context(), nearpath, "cni", "install", "--config", agentConfig, "--wait", "1m").CombinedOutput(); err != nil {
		t.Fatalf("install the CNI plugin on %s: %v: %s", n.Name(), err, out)
	}
}

// killAgent ends a node's agent with SIGKILL.
func (r *rig) killAgent(t *testing.T, n *kube.Node) {
	t.Helper()
	pid, err := os.ReadFile(n.MachinePath("/run/nearpath/agent.lock"))
	if err != nil {
		t.Fatal(err)
	}
	if out, err := n.Command(t.Context(), "sh", "-c", "kill -9 "+string(pid)).CombinedOutput(); err != nil {
		t.Fatalf("kill the agent of %s: %v: %s", n.Name(), err, out)
	}
	<-r.agents[n.Name()].Done()
}

// podapp runs the pod program in a pod and decodes the JSON it prints.
func (r *rig) podapp(t *testing.T, pod string, into any, args ...string) {
	t.Helper()
	out := r.Exec(t, pod, append([]string{"/podapp"}, args...)...)
	if err := json.Unmarshal([]byte(out), into); err != nil {
		t.Fatalf("podapp %s in %s printed %q: %v", strings.Join(args, " "), pod, out, err)
	}
}

// leases lists the addresses that the agent of a node has given to pods, by pod name.
func (r *rig) leases(ctx context.Context, n *kube.Node) (map[string]string, error) {
	out, err := n.Command(ctx, filepath.Join(r.bin, "nearpath"), "get", "pods", "-o", "json").Output()
	if err != nil {
		return nil, err
	}
	var pods []struct {
		Name      string
		Addresses []string
	}
	if err := json.Unmarshal(out, &pods); err != nil {
		return nil, err
	}
	byName := map[string]string{}
	for _, p := range pods {
		byName[p.Name] = p.Addresses[0]
	}
	return byName, nil
}

func closeLab(t *testing.T, lab *netlab.Lab) {
	t.Helper()
	if err := lab.Close(); err != nil {
		t.Error(err)
	}
}

// checkNothingLeft compares the machine before and after the test.
func checkNothingLeft(t *testing.T) {
	t.Helper()
	before, err := netlab.TakeInventory()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		after, err := netlab.TakeInventory()
		if err != nil {
			t.Fatal(err)
		}
		if left := before.Diff(after); len(left) > 0 {
			t.Errorf("left behind on the machine:\n%s", strings.Join(left, "\n"))
		}
	})
}
