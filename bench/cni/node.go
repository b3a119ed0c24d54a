package cni

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/nearpath/nearpath/bench/podruntime"
	"github.com/nearpath/nearpath/bpf"
	"github.com/nearpath/nearpath/internal/agentapi"
	"github.com/nearpath/nearpath/internal/aliyun/sim"
	"github.com/nearpath/nearpath/test/netlab"
)

// prefix begins the name of everything the benchmark makes on the machine.
const prefix = "nearpath-bench-cni"

// A node is an instance of a simulated cloud, with an agent whose pool is warm and the part of a container runtime that
// the benchmark needs.
type node struct {
	*netlab.Node
	lab     *netlab.Lab
	guard   *bpf.SourceGuard
	cloud   *sim.Cloud
	servers []*http.Server
	agent   *netlab.Process
	runtime *podruntime.Runtime
}

// instanceType has room for 7 x 30 pods. The pool holds warm addresses at any time, of which released ones rest a
// second: long enough that every ADD gets another address than the one before, short enough that the pool never runs
// out and never grows.
const (
	instanceType = "ecs.sim.xlarge"
	warm         = 200
)

// config is the agent's. The pool neither grows nor shrinks between its first filling and the end.
var config = fmt.Sprintf(`nodeName: bench
manifests: %s
cloud:
  endpoint: http://%s
  vSwitches: [%s]
pool:
  minIdle: 2
  maxIdle: 210
  minTotal: %d
  cooldown: 1s
`, manifestsOnNode, apiOnNode, sim.DefaultPodVSwitch, warm)

const (
	configOnNode    = "/etc/nearpath/config.yaml"
	manifestsOnNode = "/etc/nearpath/manifests"
	agentSocket     = "/run/nearpath/agent.sock"
)

// apiOnNode is where the cloud's API listens on the node itself.
var apiOnNode = netip.MustParseAddrPort("127.0.0.1:7080")

// startNode returns when the agent is ready and its pool is full. Close the node in any case.
func startNode(ctx context.Context, bin string) (n *node, err error) {
	n = &node{}
	if n.lab, err = netlab.New(prefix); err != nil {
		return n, err
	}
	for _, step := range []struct {
		name string
		do   func(context.Context, string) error
	}{
		{"build the cloud", n.buildCloud},
		{"start the agent", n.startAgent},
		{"fill the pool", n.fillPool},
		{"start the runtime", n.startRuntime},
	} {
		if err := step.do(ctx, bin); err != nil {
			return n, fmt.Errorf("%s: %w", step.name, err)
		}
	}
	return n, nil
}

func (n *node) buildCloud(ctx context.Context, _ string) error {
	vpc, err := n.lab.NetNS("vpc")
	if err != nil {
		return err
	}
	machine, err := n.lab.NetNS("node")
	if err != nil {
		return err
	}
	if n.guard, err = bpf.NewSourceGuard(); err != nil {
		return err
	}
	c := sim.DefaultConfig()
	if c.Fabric, err = sim.NewVPC(sim.VPCConfig{NetNS: vpc.Path(), Guard: n.guard}); err != nil {
		return err
	}
	if n.cloud, err = sim.New(c); err != nil {
		return err
	}
	instance := sim.InstanceSpec{Type: instanceType, VSwitchID: sim.DefaultNodeVSwitch, NetNS: machine.Path()}
	if _, _, err := n.cloud.RunInstance(ctx, instance); err != nil {
		return err
	}
	// The metadata service knows who asks by the source address, so it is asked through the VPC.
	if err := n.serve(vpc, netip.AddrPortFrom(sim.MetadataAddr, 80)); err != nil {
		return err
	}
	if err := n.serve(machine, apiOnNode); err != nil {
		return err
	}
	n.Node, err = n.lab.StartNode(netlab.NodeSpec{
		Name: "node", NetNS: machine, Overlays: []string{"/etc", "/var", "/opt"},
		Files: map[string]string{configOnNode: config, manifestsOnNode + "/node.yaml": manifests},
	})
	return err
}

// manifests are the least of a cluster.
const manifests = `apiVersion: v1
kind: Namespace
metadata: {name: default}
`

// serve answers as the cloud at an address in a namespace, until the node is closed.
func (n *node) serve(in *netlab.NetNS, at netip.AddrPort) error {
	var listener net.Listener
	err := in.Do(func() (err error) {
		listener, err = net.Listen("tcp", at.String())
		return err
	})
	if err != nil {
		return err
	}
	server := &http.Server{Handler: n.cloud.Handler(), ReadHeaderTimeout: 5 * time.Second}
	n.servers = append(n.servers, server)
	go func() { _ = server.Serve(listener) }() // Close ends it
	return nil
}

func (n *node) logFile() string { return filepath.Join(n.Dir(), "agent.log") }

func (n *node) startAgent(ctx context.Context, bin string) error {
	log, err := os.Create(n.logFile())
	if err != nil {
		return err
	}
	defer log.Close()
	cmd := n.Command(context.WithoutCancel(ctx), filepath.Join(bin, "nearpath"), "agent", "--config", configOnNode)
	cmd.Stdout, cmd.Stderr = log, log
	if n.agent, err = n.lab.Start(cmd); err != nil {
		return err
	}
	return n.await(ctx, func() string {
		var view struct {
			Waiting []string `json:"waiting"`
		}
		if err := n.api().Get(ctx, "/v1/ready", &view); err != nil {
			return err.Error()
		}
		return strings.Join(view.Waiting, ", ")
	})
}

// fillPool waits for the pool's addresses, and then for what the agent still has to do about them: ENIs are attached one
// by one, and each change makes it look at the node again.
func (n *node) fillPool(ctx context.Context, _ string) error {
	err := n.await(ctx, func() string {
		var enis []struct {
			Addresses []string `json:"addresses"`
		}
		if err := n.api().Get(ctx, "/v1/enis", &enis); err != nil {
			return err.Error()
		}
		have := 0
		for _, e := range enis {
			have += len(e.Addresses)
		}
		if have < warm {
			return fmt.Sprintf("the pool has %d of %d addresses", have, warm)
		}
		return ""
	})
	if err != nil {
		return err
	}
	const quiet = time.Second
	calls, since := n.calls(), time.Now()
	return n.await(ctx, func() string {
		if now := n.calls(); now != calls {
			calls, since = now, time.Now()
		}
		if time.Since(since) < quiet {
			return fmt.Sprintf("the agent called the cloud less than %s ago", quiet)
		}
		return ""
	})
}

// calls is how often the cloud's API has been called.
func (n *node) calls() (total int) {
	for _, times := range n.cloud.Calls() {
		total += times
	}
	return total
}

// api is the agent's own, reached from outside the node.
func (n *node) api() *agentapi.Client { return agentapi.NewClient(n.MachinePath(agentSocket)) }

// startRuntime runs this program again, on the node.
func (n *node) startRuntime(ctx context.Context, bin string) error {
	cmd := n.Command(context.WithoutCancel(ctx), filepath.Join(bin, "bench"), "runtime")
	cmd.Stderr = os.Stderr
	var err error
	n.runtime, err = podruntime.Connect(cmd, func(cmd *exec.Cmd) error {
		_, err := n.lab.Start(cmd)
		return err
	})
	return err
}

// patience bounds the wait for one condition.
const patience = 30 * time.Second

// await polls until nothing is lacking.
func (n *node) await(ctx context.Context, lacking func() string) error {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	end := time.NewTimer(patience)
	defer end.Stop()
	for {
		lack := lacking()
		if lack == "" {
			return nil
		}
		select {
		case <-tick.C:
		case <-n.agent.Done():
			return fmt.Errorf("the agent ended: %w; its log ends:\n%s", n.agent.Err(), tail(n.logFile()))
		case <-end.C:
			return fmt.Errorf("not within %s: %s; the agent's log ends:\n%s", patience, lack, tail(n.logFile()))
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// Close removes everything, as far as it was made.
func (n *node) Close() error {
	var errs []error
	if n.runtime != nil {
		errs = append(errs, n.runtime.Close())
	}
	if n.agent != nil {
		n.agent.Kill() // before the cloud goes, which it would otherwise complain of
	}
	for _, s := range n.servers {
		errs = append(errs, s.Close())
	}
	if n.cloud != nil {
		errs = append(errs, n.cloud.Close())
	}
	if n.guard != nil {
		errs = append(errs, n.guard.Close())
	}
	if n.lab != nil {
		errs = append(errs, n.lab.Close())
	}
	return errors.Join(errs...)
}

// tail is the end of a file.
func tail(path string) string {
	file, err := os.Open(path)
	if err != nil {
		return err.Error()
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return err.Error()
	}
	text, err := io.ReadAll(io.NewSectionReader(file, max(0, info.Size()-2000), 2000))
	if err != nil {
		return err.Error()
	}
	return string(text)
}
