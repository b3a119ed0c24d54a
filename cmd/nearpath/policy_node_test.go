//go:build node

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nearpath/nearpath/cni"
	"github.com/nearpath/nearpath/internal/agentapi"
	"github.com/nearpath/nearpath/internal/aliyun/sim"
	"github.com/nearpath/nearpath/test/cloudlab"
	"github.com/nearpath/nearpath/test/netlab"
)

const (
	policyLab = "nppolagent"
	// policyPatience bounds the wait for one condition.
	policyPatience = 3 * time.Minute
	// deniedAfter is how long an attempt waits that is to be dropped. One that is allowed takes microseconds.
	deniedAfter = 400 * time.Millisecond
	dbPort      = 5432
)

// A policyNode is a node with an agent of its own process and pods with an object of each, but for their addresses.
type policyNode struct {
	*netlab.Lab
	node   *netlab.Node
	config string
	log    string
	agent  *netlab.Process
	pods   map[string]*policyTestPod
}

type policyTestPod struct {
	ns   *netlab.NetNS
	addr netip.Addr
}

const policyPods = `apiVersion: v1
kind: Namespace
metadata: {name: shop}
---
apiVersion: v1
kind: Pod
metadata: {name: api, namespace: shop, labels: {app: api}}
spec: {nodeName: node, containers: [{name: c}]}
---
apiVersion: v1
kind: Pod
metadata: {name: web, namespace: shop, labels: {app: web}}
spec: {nodeName: node, containers: [{name: c}]}
`

const policyDB = `apiVersion: v1
kind: Pod
metadata: {name: db, namespace: shop, labels: {app: db}}
spec: {nodeName: node, containers: [{name: c, ports: [{name: sql, containerPort: 5432}]}]}
`

// serviceDB leads to the database's address.
const serviceDB = `apiVersion: v1
kind: Service
metadata: {name: db, namespace: shop}
spec: {clusterIP: 10.96.0.7, clusterIPs: [10.96.0.7], ports: [{port: 80, targetPort: 5432}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: db, namespace: shop, labels: {kubernetes.io/service-name: db}}
addressType: IPv4
ports: [{port: 5432}]
endpoints: [{addresses: [%s]}]
`

// policyOf lets pods of an app reach the database.
func policyOf(app string) string {
	return fmt.Sprintf(`apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: db, namespace: shop}
spec:
  podSelector: {matchLabels: {app: db}}
  ingress: [{from: [{podSelector: {matchLabels: {app: %s}}}], ports: [{port: sql}]}]
`, app)
}

// startPolicyNode makes the node, with these settings of its agent beside the usual ones.
func startPolicyNode(t *testing.T, settings ...string) *policyNode {
	t.Helper()
	return startPolicyNodeOf(t, func(n *policyNode) string { return fmt.Sprintf("manifests: %s\n", n.manifests()) }, settings...)
}

// startPolicyNodeOf is startPolicyNode with another setting of where objects come from.
func startPolicyNodeOf(t *testing.T, objects func(*policyNode) string, settings ...string) *policyNode {
	t.Helper()
	must(t, netlab.Sweep(policyLab))
	lab, err := netlab.New(policyLab)
	must(t, err)
	t.Cleanup(func() { must(t, lab.Close()) })
	c := sim.DefaultConfig()
	c.Logger = slog.New(slog.DiscardHandler)
	cloud, err := cloudlab.Open(lab, cloudlab.Options{Sim: c})
	must(t, err)
	t.Cleanup(func() { must(t, cloud.Close()) })
	machine, err := cloud.Machine(t.Context(), "node")
	must(t, err)
	n := &policyNode{Lab: lab, pods: map[string]*policyTestPod{}}
	n.node, err = lab.StartNode(netlab.NodeSpec{Name: "node", NetNS: machine.NetNS})
	must(t, err)
	must(t, os.Mkdir(n.manifests(), 0o755))
	n.config, n.log = filepath.Join(n.node.Dir(), "config.yaml"), filepath.Join(n.node.Dir(), "agent.log")
	text := cloud.AgentConfig("node") + strings.Join(settings, "") + objects(n) + fmt.Sprintf("stateDir: %s\ndns: {upstreams: [192.0.2.1]}\n", filepath.Join(n.node.Dir(), "state"))
	must(t, os.WriteFile(n.config, []byte(text), 0o600))
	t.Cleanup(func() {
		if text, err := os.ReadFile(n.log); t.Failed() && err == nil {
			t.Logf("the agent's log ends:\n%s", text[max(0, len(text)-6000):])
		}
	})
	return n
}

func (n *policyNode) manifests() string { return filepath.Join(n.Dir(), "manifests") }

// apply writes a manifest whole, or removes it.
func (n *policyNode) apply(t *testing.T, file, text string) {
	t.Helper()
	path := filepath.Join(n.manifests(), file)
	if text == "" {
		must(t, os.Remove(path))
		return
	}
	draft := filepath.Join(n.Dir(), ".draft")
	must(t, os.WriteFile(draft, []byte(text), 0o600))
	must(t, os.Rename(draft, path))
}

func (n *policyNode) api() *agentapi.Client {
	return agentapi.NewClient(n.node.MachinePath(agentapi.DefaultSocket))
}

// startAgent runs this program as an agent and waits until it is ready.
func (n *policyNode) startAgent(t *testing.T) {
	t.Helper()
	n.launchAgent(t)
	n.awaitAgent(t)
}

// launchAgent is startAgent without the wait.
func (n *policyNode) launchAgent(t *testing.T) {
	t.Helper()
	log, err := os.OpenFile(n.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	must(t, err)
	defer log.Close()
	cmd := n.node.Command(context.WithoutCancel(t.Context()), os.Args[0], "agent", "--config", n.config)
	cmd.Env = append(os.Environ(), mainEnv+"=1")
	cmd.Stdout, cmd.Stderr = log, log
	n.agent, err = n.Start(cmd)
	must(t, err)
}

func (n *policyNode) awaitAgent(t *testing.T) {
	t.Helper()
	awaitPolicy(t, "the agent to be ready", func() error {
		select {
		case <-n.agent.Done():
			t.Fatalf("the agent ended: %v", n.agent.Err())
		default:
		}
		var view readyView
		if err := n.api().Get(t.Context(), nouns["ready"].path, &view); err != nil {
			return err
		}
		if len(view.Waiting) > 0 {
			return fmt.Errorf("it waits for %v", view.Waiting)
		}
		return nil
	})
}

func awaitPolicy(t *testing.T, what string, lacking func() error) {
	t.Helper()
	for deadline := time.Now().Add(policyPatience); ; {
		err := lacking()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("waited for %s: %v", what, err)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// call asks the agent for a verb on a pod, as the plugin does.
func (n *policyNode) call(ctx context.Context, verb, pod, netns string) (agentapi.CNIResponse, error) {
	return n.api().CNI(ctx, agentapi.CNIRequest{
		Command: verb, ContainerID: pod, IfName: "eth0", NetNS: netns, Args: "IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME=" + pod,
		Config: json.RawMessage(fmt.Sprintf(`{"cniVersion": "1.1.0", "name": %q, "type": %q}`, networkName, cni.PluginType)),
	})
}

// add gives a pod its network, and a server at the port of the database.
func (n *policyNode) add(ctx context.Context, t *testing.T, pod string) error {
	t.Helper()
	sandbox, err := n.node.StartSandbox(ctx, netlab.SandboxSpec{Name: pod})
	if err != nil {
		return err
	}
	answer, err := n.call(ctx, "ADD", pod, sandbox.NetNSPath())
	switch {
	case err != nil:
		return err
	case answer.Error != nil:
		return answer.Error
	}
	var result struct {
		IPs []struct{ Address netip.Prefix }
	}
	if err := json.Unmarshal(answer.Result, &result); err != nil || len(result.IPs) == 0 {
		return fmt.Errorf("ADD of %s gave %s: %w", pod, answer.Result, err)
	}
	p := &policyTestPod{ns: netlab.OpenNetNS(n.node.MachinePath(sandbox.NetNSPath())), addr: result.IPs[0].Address.Addr()}
	var l net.Listener
	err = p.ns.Do(func() (err error) {
		l, err = net.Listen("tcp", netip.AddrPortFrom(p.addr, dbPort).String())
		return err
	})
	if err != nil {
		return err
	}
	served := make(chan struct{})
	go func() {
		defer close(served)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			c.Close()
		}
	}()
	t.Cleanup(func() { l.Close(); <-served })
	n.pods[pod] = p
	return nil
}

// reaches says whether the database answers at once in a pod, or on the node for no pod.
func (n *policyNode) reaches(t *testing.T, from string, patience time.Duration) bool {
	t.Helper()
	return n.dials(t, from, "db", patience)
}

// dials is reaches for another pod's server.
func (n *policyNode) dials(t *testing.T, from, to string, patience time.Duration) bool {
	t.Helper()
	ns := n.node.NetNS()
	if from != "" {
		ns = n.pods[from].ns
	}
	var refused error
	must(t, ns.Do(func() error {
		c, err := net.DialTimeout("tcp", netip.AddrPortFrom(n.pods[to].addr, dbPort).String(), patience)
		if refused = err; err == nil {
			c.Close()
		}
		return nil
	}))
	return refused == nil
}

func (n *policyNode) wantReach(t *testing.T, when string, want map[string]bool) {
	t.Helper()
	for from, reach := range want {
		patience := deniedAfter
		if reach {
			patience = policyPatience
		}
		if got := n.reaches(t, from, patience); got != reach {
			t.Errorf("%s: %q reaches the database: %v, want %v", when, from, got, reach)
		}
	}
}

func (n *policyNode) awaitReach(t *testing.T, from string, want bool) {
	t.Helper()
	awaitPolicy(t, fmt.Sprintf("%q reaching the database: %v", from, want), func() error {
		if n.reaches(t, from, deniedAfter) != want {
			return errors.New("not so")
		}
		return nil
	})
}

// TestAgentEnforcesPolicies: a policy counts for a pod from its ADD on, which waits for the pod's object and knows its address
// before any API does; it holds without an agent, and what has changed meanwhile counts when there is one again.
func TestAgentEnforcesPolicies(t *testing.T) {
	n := startPolicyNode(t)
	n.apply(t, "pods.yaml", policyPods)
	n.apply(t, "policy.yaml", policyOf("api"))
	n.startAgent(t)
	for _, pod := range []string{"api", "web"} {
		must(t, n.add(t.Context(), t, pod))
	}
	added := make(chan error, 1)
	go func() { added <- n.add(context.WithoutCancel(t.Context()), t, "db") }()
	n.apply(t, "db.yaml", policyDB)
	must(t, <-added)
	only := map[string]bool{"api": true, "web": false, "": true}
	n.wantReach(t, "after the ADD", only)
	n.apply(t, "service.yaml", fmt.Sprintf(serviceDB, n.pods["db"].addr))
	n.explained(t)

	n.agent.Kill()
	n.wantReach(t, "without an agent", only)
	n.apply(t, "policy.yaml", policyOf("web"))
	n.wantReach(t, "without an agent, after a change", only)
	n.startAgent(t)
	n.wantReach(t, "after another agent has come", map[string]bool{"api": false, "web": true, "": true})

	n.apply(t, "policy.yaml", "")
	n.awaitReach(t, "api", true)
	for pod := range n.pods {
		answer, err := n.call(t.Context(), "DEL", pod, "")
		must(t, err)
		if answer.Error != nil {
			t.Error(answer.Error)
		}
	}
	n.agent.Kill()
}

// explained compares what the verbs say of it.
func (n *policyNode) explained(t *testing.T) {
	t.Helper()
	socket := n.node.MachinePath(agentapi.DefaultSocket)
	for _, tt := range []struct {
		args []string
		want []string
	}{
		{[]string{"get", "policies"}, []string{"NetworkPolicy", "shop/db", "enforced"}},
		{[]string{"explain", "policy", "shop/api", "shop/db", "5432"}, []string{"TCP port 5432: allowed", "allowed by the kernel"}},
		{[]string{"explain", "policy", "shop/web", "shop/db", "5432/tcp"}, []string{"TCP port 5432: denied", "denied by the kernel", "NetworkPolicy shop/db"}},
		{[]string{"explain", "policy", "192.0.2.7", "shop/db", "5432"}, []string{"denied by the kernel"}},
		{[]string{"explain", "policy", "shop/web", "10.96.0.7", "80"}, []string{"Service shop/db 10.96.0.7, TCP port 80: 1 backends", "TCP port 5432: denied", "denied by the kernel"}},
		{[]string{"explain", "policy", "shop/api", "service/shop/db", "80"}, []string{"Service shop/db 10.96.0.7", "TCP port 5432: allowed", "allowed by the kernel"}},
	} {
		awaitPolicy(t, "what the verbs say", func() error { // the agent hears of the Service a moment after it is written
			out, err := execute(t, append(tt.args, "--socket", socket)...)
			if err != nil {
				return fmt.Errorf("%v: %w", tt.args, err)
			}
			for _, want := range tt.want {
				if !strings.Contains(out, want) {
					return fmt.Errorf("%v lacks %q:\n%s", tt.args, want, out)
				}
			}
			return nil
		})
	}
	var drops dropsView
	awaitPolicy(t, "the kernel to tell of a drop", func() error {
		must(t, n.api().Post(t.Context(), dropsPath, dropsRequest{}, &drops))
		for _, d := range drops.Drops {
			if d.Pod == "shop/db" && d.PeerPod == "shop/web" && d.Direction == ingressName && d.Port == dbPort && strings.Contains(strings.Join(d.Policies, " "), "shop/db") {
				return nil
			}
		}
		return fmt.Errorf("%+v", drops)
	})
}
