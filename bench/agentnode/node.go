// Package agentnode is a node with a real agent: an instance of the simulated cloud in network namespaces, and the
// manifests of a cluster.
package agentnode

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/nearpath/nearpath/bpf"
	"github.com/nearpath/nearpath/internal/agentapi"
	"github.com/nearpath/nearpath/internal/aliyun/sim"
	"github.com/nearpath/nearpath/test/netlab"
)

// A Spec says what a node is like.
type Spec struct {
	// Prefix begins the name of everything that is made on the machine.
	Prefix string
	// Bin is where the project's programs are.
	Bin string
	// InstanceType is the cloud's.
	InstanceType string
	// Config is the agent's, beside where its manifests and its cloud are.
	Config string
	// Manifests are files of the cluster's objects, by name.
	Manifests map[string]string
}

// A Node is one. Close it in any case.
type Node struct {
	*netlab.Node
	Lab *netlab.Lab
	// Agent is the agent's process, or rather what entered the node to become it: its only child.
	Agent *netlab.Process

	spec    Spec
	guard   *bpf.SourceGuard
	cloud   *sim.Cloud
	servers []*http.Server
}

// config goes before the Spec's.
var config = fmt.Sprintf(`nodeName: bench
manifests: %s
cloud:
  endpoint: http://%s
  vSwitches: [%s]
`, manifestsOnNode, apiOnNode, sim.DefaultPodVSwitch)

const (
	configOnNode    = "/etc/nearpath/config.yaml"
	manifestsOnNode = "/etc/nearpath/manifests"
	agentSocket     = "/run/nearpath/agent.sock"
)

// apiOnNode is where the cloud's API listens on the node itself.
var apiOnNode = netip.MustParseAddrPort("127.0.0.1:7080")

// Start returns when the agent is ready. Close the node in any case.
func Start(ctx context.Context, spec Spec) (n *Node, err error) {
	n = &Node{spec: spec}
	if n.Lab, err = netlab.New(spec.Prefix); err != nil {
		return n, err
	}
	if err := n.buildCloud(ctx); err != nil {
		return n, fmt.Errorf("build the cloud: %w", err)
	}
	if err := n.startAgent(ctx); err != nil {
		return n, fmt.Errorf("start the agent: %w", err)
	}
	return n, nil
}

func (n *Node) buildCloud(ctx context.Context) error {
	vpc, err := n.Lab.NetNS("vpc")
	if err != nil {
		return err
	}
	machine, err := n.Lab.NetNS("node")
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
	instance := sim.InstanceSpec{Type: n.spec.InstanceType, VSwitchID: sim.DefaultNodeVSwitch, NetNS: machine.Path()}
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
	files := map[string]string{configOnNode: config + n.spec.Config}
	for name, text := range n.spec.Manifests {
		files[filepath.Join(manifestsOnNode, name)] = text
	}
	n.Node, err = n.Lab.StartNode(netlab.NodeSpec{
		Name: "node", NetNS: machine, Overlays: []string{"/etc", "/var", "/opt"},
		Files: files,
	})
	return err
}

// serve answers as the cloud at an address in a namespace, until the node is closed.
func (n *Node) serve(in *netlab.NetNS, at netip.AddrPort) error {
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

func (n *Node) logFile() string { return filepath.Join(n.Dir(), "agent.log") }

func (n *Node) startAgent(ctx context.Context) error {
	log, err := os.Create(n.logFile())
	if err != nil {
		return err
	}
	defer log.Close()
	cmd := n.Command(context.WithoutCancel(ctx), filepath.Join(n.spec.Bin, "nearpath"), "agent", "--config", configOnNode)
	cmd.Stdout, cmd.Stderr = log, log
	if n.Agent, err = n.Lab.Start(cmd); err != nil {
		return err
	}
	return n.Await(ctx, func() string {
		var view struct {
			Waiting []string `json:"waiting"`
		}
		if err := n.API().Get(ctx, "/v1/ready", &view); err != nil {
			return err.Error()
		}
		return strings.Join(view.Waiting, ", ")
	})
}

// Calls is how often the cloud's API has been called.
func (n *Node) Calls() (total int) {
	for _, times := range n.cloud.Calls() {
		total += times
	}
	return total
}

// API is the agent's own, reached from outside the node.
func (n *Node) API() *agentapi.Client { return agentapi.NewClient(n.MachinePath(agentSocket)) }

// patience bounds the wait for one condition.
const patience = 30 * time.Second

// Await polls until nothing is lacking.
func (n *Node) Await(ctx context.Context, lacking func() string) error {
	return n.AwaitWithin(ctx, patience, lacking)
}

// AwaitWithin is Await for what may take another time than most.
func (n *Node) AwaitWithin(ctx context.Context, patience time.Duration, lacking func() string) error {
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
		case <-n.Agent.Done():
			return fmt.Errorf("the agent ended: %w; its log ends:\n%s", n.Agent.Err(), tail(n.logFile()))
		case <-end.C:
			return fmt.Errorf("not within %s: %s; the agent's log ends:\n%s", patience, lack, tail(n.logFile()))
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// Close removes everything, as far as it was made.
func (n *Node) Close() error {
	var errs []error
	if n.Agent != nil {
		n.Agent.Kill() // before the cloud goes, which it would otherwise complain of
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
	if n.Lab != nil {
		errs = append(errs, n.Lab.Close())
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
