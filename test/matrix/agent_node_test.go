//go:build node

package matrix

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"

	"github.com/containernetworking/cni/libcni"
	"github.com/containernetworking/cni/pkg/invoke"
	"github.com/containernetworking/cni/pkg/types"
	"github.com/containernetworking/cni/pkg/version"
	"github.com/vishvananda/netlink"

	"github.com/nearpath/nearpath/internal/agentapi"
	"github.com/nearpath/nearpath/internal/hostnet"
	"github.com/nearpath/nearpath/test/cloudlab"
	"github.com/nearpath/nearpath/test/netlab"
)

// A node is an instance of the cloud with an agent and the part of a container runtime.
type node struct {
	*netlab.Node
	rig      *rig
	machine  cloudlab.Machine
	second   cloudlab.Machine // by its second ENI
	host     *peer            // on the host network
	api      *agentapi.Client
	agent    *netlab.Process
	cni      *libcni.CNIConfig
	conflist *libcni.NetworkConfigList
}

func (r *rig) newNode(ctx context.Context, name, egress string) (*node, error) {
	m, err := r.cloud.Machine(ctx, name)
	if err != nil {
		return nil, err
	}
	n := &node{rig: r, machine: m}
	if n.Node, err = r.StartNode(netlab.NodeSpec{Name: name, NetNS: m.NetNS}); err != nil {
		return nil, err
	}
	n.api = agentapi.NewClient(n.MachinePath(agentapi.DefaultSocket))
	if r.second {
		if n.second, err = r.cloud.SecondENI(m); err != nil {
			return nil, err
		}
	}
	text := r.cloud.AgentConfig(name) + fmt.Sprintf(`manifests: %s
stateDir: %s
logLevel: debug
services: {cidrs: [10.96.0.0/16, "fd00:96::/112"]}
pool: {stack: dual, %s}
egress: {mode: %s}
dns: {upstreams: [192.0.2.53]}
%s`, r.manifestDir(), filepath.Join(n.Dir(), "state"), r.pool, egress, r.more)
	if err := writeFile(n.configFile(), text); err != nil {
		return nil, err
	}
	n.host, err = startPeer(r.Lab, n.Command(context.WithoutCancel(ctx), r.podapp(), "probe", probeAddr), name, m.Addrs()...)
	return n, err
}

func (n *node) configFile() string { return filepath.Join(n.Dir(), "config.yaml") }

func (n *node) logFile() string { return filepath.Join(n.Dir(), "agent.log") }

// startAgent starts it and does not wait.
func (n *node) startAgent(ctx context.Context) error {
	log, err := os.OpenFile(n.logFile(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer log.Close()
	cmd := n.Command(context.WithoutCancel(ctx), filepath.Join(n.rig.bin, "nearpath"), "agent", "--config", n.configFile())
	cmd.Stdout, cmd.Stderr = log, log
	n.agent, err = n.rig.Start(cmd)
	return err
}

// awaitAgent waits until the agent is ready.
func (n *node) awaitAgent(ctx context.Context) error {
	return await(2*patience, "the agent of "+n.Name(), func() error {
		select {
		case <-n.agent.Done():
			return fmt.Errorf("%w: it ended: %w", errHopeless, n.agent.Err())
		default:
		}
		var view struct{ Waiting []string }
		if err := n.api.Get(ctx, "/v1/ready", &view); err != nil {
			return err
		}
		if len(view.Waiting) > 0 {
			return fmt.Errorf("it waits for %v", view.Waiting)
		}
		return nil
	})
}

// awaitRest waits until the agent has finished with its ENIs: those that pods share are wired.
func (n *node) awaitRest(ctx context.Context) error {
	return await(patience, "the ENIs of "+n.Name()+" to be wired", func() error {
		var enis []struct {
			ID, MAC, State string
			Exclusive      bool
		}
		if err := n.api.Get(ctx, "/v1/enis", &enis); err != nil {
			return err
		}
		links, err := n.linksByMAC()
		if err != nil {
			return err
		}
		for _, e := range enis {
			if e.State != stateInUse {
				return fmt.Errorf("%s is %s", e.ID, e.State)
			}
			l := links[e.MAC]
			if !e.Exclusive && (l == nil || l.Group != hostnet.LinkGroup || l.OperState != netlink.OperUp) {
				return fmt.Errorf("the link of %s is %+v", e.ID, l)
			}
		}
		return nil
	})
}

// stateInUse is that of an ENI that the pool is done with.
const stateInUse = "in-use"

// linksByMAC leaves out the slaves of ENIs, which have their MAC address.
func (n *node) linksByMAC() (byMAC map[string]*netlink.LinkAttrs, err error) {
	byMAC = map[string]*netlink.LinkAttrs{}
	err = n.NetNS().Do(func() error {
		links, err := netlink.LinkList()
		for _, l := range links {
			if l.Type() != "ipvlan" {
				byMAC[l.Attrs().HardwareAddr.String()] = l.Attrs()
			}
		}
		return err
	})
	return byMAC, err
}

// stopAgent ends the agent as the kernel would for lack of memory.
func (n *node) stopAgent() { n.agent.Kill() }

func (n *node) cniBin() string { return filepath.Join(n.Dir(), "cni", "bin") }

// installCNI does what the agent's installer does and reads the network configuration that it wrote, as a runtime does.
func (n *node) installCNI(ctx context.Context) error {
	conf := filepath.Join(n.Dir(), "cni", "net.d")
	for _, dir := range []string{n.cniBin(), conf} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
	}
	cmd := n.Command(ctx, filepath.Join(n.rig.bin, "nearpath"), "cni", "install", "--from", n.rig.bin, "--bin-dir", n.cniBin(), "--conf-dir", conf)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("install the CNI plugin on %s: %w: %s", n.Name(), err, out)
	}
	text, err := os.ReadFile(filepath.Join(conf, "05-nearpath.conflist"))
	if err != nil {
		return err
	}
	if n.conflist, err = libcni.NetworkConfFromBytes(text); err != nil {
		return err
	}
	n.cni = libcni.NewCNIConfigWithCacheDir([]string{n.cniBin()}, filepath.Join(n.Dir(), "cni", "cache"), onNode{n})
	return nil
}

// onNode runs CNI plugins on the node instead of on the machine.
type onNode struct{ node *node }

var _ invoke.Exec = onNode{}

func (e onNode) ExecPlugin(ctx context.Context, plugin string, stdin []byte, environ []string) ([]byte, error) {
	cmd := e.node.Command(ctx, plugin)
	var stdout, stderr bytes.Buffer
	cmd.Env, cmd.Stdin, cmd.Stdout, cmd.Stderr = environ, bytes.NewReader(stdin), &stdout, &stderr
	err := cmd.Run()
	if err == nil {
		return stdout.Bytes(), nil
	}
	var refused types.Error
	if json.Unmarshal(stdout.Bytes(), &refused) == nil && refused.Msg != "" {
		return nil, &refused
	}
	return nil, fmt.Errorf("run %s: %w: %s", plugin, err, stderr.Bytes())
}

func (e onNode) FindInPath(plugin string, paths []string) (string, error) {
	return invoke.FindInPath(plugin, paths) // the directories of a lab are the same on its nodes
}

func (e onNode) Decode(text []byte) (version.PluginInfo, error) {
	return (&version.PluginDecoder{}).Decode(text)
}
