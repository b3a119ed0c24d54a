package agentlab

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"path/filepath"

	"github.com/containernetworking/cni/libcni"
	"github.com/containernetworking/cni/pkg/invoke"
	types100 "github.com/containernetworking/cni/pkg/types/100"
	"github.com/containernetworking/cni/pkg/version"

	"github.com/nearpath/nearpath/internal/agentapi"
	"github.com/nearpath/nearpath/test/netlab"
)

// What containerd says of every pod: the name of its link, and where its annotations are.
const (
	ifName         = "eth0"
	capAnnotations = "io.kubernetes.cri.pod-annotations"
)

// onNode runs CNI plugins on the node instead of on the machine.
type onNode struct{ node *netlab.Node }

var _ invoke.Exec = onNode{}

func (e onNode) ExecPlugin(ctx context.Context, plugin string, stdin []byte, environ []string) ([]byte, error) {
	cmd := e.node.Command(ctx, plugin)
	cmd.Env, cmd.Stdin = environ, bytes.NewReader(stdin)
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("run %s: %w: %s", plugin, err, out)
	}
	return out, nil
}

func (e onNode) FindInPath(plugin string, paths []string) (string, error) {
	return invoke.FindInPath(plugin, paths) // the directories of a lab are the same on its nodes
}

func (e onNode) Decode(text []byte) (version.PluginInfo, error) {
	return (&version.PluginDecoder{}).Decode(text)
}

// A PodSpec says which pod a runtime makes.
type PodSpec struct {
	Namespace, Name string
	Annotations     map[string]string // what containerd passes of the pod's
}

// A Pod is a sandbox with a network. Addrs are its addresses, IPv4 first.
type Pod struct {
	*netlab.Sandbox
	Addrs []netip.Addr

	node    *Node
	runtime *libcni.RuntimeConf
}

// NewPod makes a pod that has no network yet but its loopback link.
func (n *Node) NewPod(ctx context.Context, spec PodSpec) (*Pod, error) {
	id := spec.Namespace + "-" + spec.Name
	sandbox, err := n.StartSandbox(ctx, netlab.SandboxSpec{Name: id})
	if err != nil {
		return nil, err
	}
	return &Pod{Sandbox: sandbox, node: n, runtime: &libcni.RuntimeConf{
		ContainerID: "c-" + id, NetNS: sandbox.NetNSPath(), IfName: ifName,
		Args:           [][2]string{{"IgnoreUnknown", "1"}, {"K8S_POD_NAMESPACE", spec.Namespace}, {"K8S_POD_NAME", spec.Name}},
		CapabilityArgs: map[string]any{capAnnotations: spec.Annotations},
	}}, sandbox.SetLoopbackUp()
}

// Add gives the pod its network.
func (p *Pod) Add(ctx context.Context) error {
	result, err := p.node.cni.AddNetworkList(ctx, p.node.conflist, p.runtime)
	if err != nil {
		return fmt.Errorf("CNI ADD of %s: %w", p.Name(), err)
	}
	current, err := types100.GetResult(result)
	if err != nil {
		return err
	}
	for _, ip := range current.IPs {
		addr, _ := netip.AddrFromSlice(ip.Address.IP)
		p.Addrs = append(p.Addrs, addr.Unmap())
	}
	return nil
}

// Delete takes the pod's network away and ends the pod.
func (p *Pod) Delete(ctx context.Context) error {
	if err := p.node.cni.DelNetworkList(ctx, p.node.conflist, p.runtime); err != nil {
		return fmt.Errorf("CNI DEL of %s: %w", p.Name(), err)
	}
	return p.Stop(ctx)
}

// CNI asks the agent for a verb as its plugin does, for a network namespace of that name in /run/netns on the node.
func (n *Node) CNI(ctx context.Context, verb string, spec PodSpec, netns string) error {
	config, err := json.Marshal(map[string]any{
		"cniVersion": "1.1.0", "name": n.conflist.Name, "type": n.conflist.Plugins[0].Network.Type,
		"capabilities":  map[string]bool{capAnnotations: true},
		"runtimeConfig": map[string]any{capAnnotations: spec.Annotations},
	})
	if err != nil {
		return err
	}
	answer, err := n.API.CNI(ctx, agentapi.CNIRequest{
		Command: verb, ContainerID: netns, IfName: ifName, NetNS: filepath.Join("/run/netns", netns), Config: config,
		Args: fmt.Sprintf("IgnoreUnknown=1;K8S_POD_NAMESPACE=%s;K8S_POD_NAME=%s", spec.Namespace, spec.Name),
	})
	if err == nil && answer.Error != nil {
		err = answer.Error
	}
	if err != nil {
		return fmt.Errorf("CNI %s of %s: %w", verb, netns, err)
	}
	return nil
}
