package demo

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/containernetworking/cni/libcni"
	"github.com/containernetworking/cni/pkg/invoke"
	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"
	"github.com/containernetworking/cni/pkg/version"
	"github.com/nearpath/nearpath/test/netlab"
	corev1 "k8s.io/api/core/v1"
)

// Where things are on a node.
const (
	manifestsOnNode = "/etc/nearpath/manifests"
	configOnNode    = "/etc/nearpath/config.yaml"
	agentLock       = "/run/nearpath/agent.lock"
)

// patience bounds every wait of the demo for one condition.
const patience = 20 * time.Second

// A node is a simulated ECS instance with its agent and what a container runtime would keep of its pods.
type node struct {
	*netlab.Node
	name   string
	addr   netip.Addr // IPv4
	bin    string
	lab    *netlab.Lab
	agent  *netlab.Process
	cni    *libcni.CNIConfig
	config *libcni.NetworkConfigList
}

// A pod is a running container with its network.
type pod struct {
	namespace, name string
	template        *corev1.PodTemplateSpec
	node            *node
	addr            netip.Addr   // IPv4
	addrs           []netip.Addr // of each family
	ready           bool
	terminating     bool

	sandbox *netlab.Sandbox
	runtime *libcni.RuntimeConf
	process *netlab.Process
}

// startAgent starts the agent and waits until it is ready.
func (n *node) startAgent(ctx context.Context) error {
	log, err := os.OpenFile(filepath.Join(n.Dir(), "agent.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer log.Close()
	cmd := n.Command(context.WithoutCancel(ctx), filepath.Join(n.bin, "nearpath"), "agent", "--config", configOnNode)
	cmd.Stdout, cmd.Stderr = log, log
	if n.agent, err = n.lab.Start(cmd); err != nil {
		return err
	}
	var state string
	err = await(ctx, func() bool {
		select {
		case <-n.agent.Done():
			return true
		default:
		}
		out, _ := n.Command(ctx, filepath.Join(n.bin, "nearpath"), "get", "ready").CombinedOutput()
		state = strings.TrimSpace(string(out))
		return state == "ready"
	})
	if err == nil && state != "ready" {
		err = fmt.Errorf("it ended: %w", n.agent.Err())
	}
	if err != nil {
		return fmt.Errorf("wait for the agent of %s: %w; it says %q; its log ends:\n%s", n.name, err, state, tail(log.Name()))
	}
	return nil
}

// killAgent ends the agent as the kernel would for lack of memory, and waits until it is gone.
func (n *node) killAgent(ctx context.Context) error {
	pid, err := os.ReadFile(n.MachinePath(agentLock))
	if err != nil {
		return fmt.Errorf("find the agent of %s: %w", n.name, err)
	}
	if out, err := n.Command(ctx, "sh", "-c", "kill -9 "+strings.TrimSpace(string(pid))).CombinedOutput(); err != nil {
		return fmt.Errorf("kill the agent of %s: %w: %s", n.name, err, out)
	}
	select {
	case <-n.agent.Done():
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// installCNI puts the plugin on the node, as an init container does before the agent starts. The agent writes the
// configuration.
func (n *node) installCNI(ctx context.Context) error {
	cmd := n.Command(ctx, filepath.Join(n.bin, "nearpath"), "cni", "install", "--conf-dir", "")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("install the CNI plugin on %s: %w: %s", n.name, err, out)
	}
	return nil
}

// loadCNI reads the network configuration that the agent has written, as a runtime does.
func (n *node) loadCNI() error {
	text, err := os.ReadFile(n.MachinePath("/etc/cni/net.d/05-nearpath.conflist"))
	if err != nil {
		return err
	}
	if n.config, err = libcni.NetworkConfFromBytes(text); err != nil {
		return err
	}
	n.cni = libcni.NewCNIConfigWithCacheDir([]string{"/opt/cni/bin"}, filepath.Join(n.Dir(), "cni-cache"), onNode{n})
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
	for _, dir := range paths {
		if _, err := os.Stat(e.node.MachinePath(filepath.Join(dir, plugin))); err == nil {
			return filepath.Join(dir, plugin), nil
		}
	}
	return "", fmt.Errorf("find %s in %v on %s: %w", plugin, paths, e.node.name, os.ErrNotExist)
}

func (e onNode) Decode(text []byte) (version.PluginInfo, error) {
	return (&version.PluginDecoder{}).Decode(text)
}

// startPod makes the pod's sandbox, has it wired by the CNI plugin, and starts its container.
func (n *node) startPod(ctx context.Context, p *pod) error {
	p.node = n
	var err error
	p.sandbox, err = n.StartSandbox(ctx, netlab.SandboxSpec{Name: p.name, ResolvConf: resolvConf(p)})
	if err != nil {
		return err
	}
	if err := p.sandbox.SetLoopbackUp(); err != nil {
		return err
	}
	p.runtime = &libcni.RuntimeConf{
		ContainerID: p.namespace + "-" + p.name, NetNS: p.sandbox.NetNSPath(), IfName: "eth0",
		Args: [][2]string{{"IgnoreUnknown", "1"}, {"K8S_POD_NAMESPACE", p.namespace}, {"K8S_POD_NAME", p.name}},
		CapabilityArgs: map[string]any{
			"portMappings": portMappings(p.template), "io.kubernetes.cri.pod-annotations": p.template.Annotations,
		},
	}
	result, err := n.cni.AddNetworkList(ctx, n.config, p.runtime)
	if err != nil {
		return fmt.Errorf("CNI ADD of %s/%s on %s: %w", p.namespace, p.name, n.name, err)
	}
	current, err := types100.GetResult(result)
	if err != nil {
		return err
	}
	if len(current.IPs) == 0 {
		return fmt.Errorf("CNI ADD of %s/%s gave no address", p.namespace, p.name)
	}
	for _, ip := range current.IPs {
		addr, _ := netip.AddrFromSlice(ip.Address.IP)
		p.addrs = append(p.addrs, addr.Unmap())
	}
	p.addr = p.addrs[0]
	return p.run(ctx)
}

// portMappings are the pod's host ports as a runtime tells of them.
func portMappings(template *corev1.PodTemplateSpec) []map[string]any {
	mappings := []map[string]any{}
	for _, c := range template.Spec.Containers {
		for _, cp := range c.Ports {
			if cp.HostPort != 0 {
				mappings = append(mappings, map[string]any{
					"hostPort": cp.HostPort, "containerPort": cp.ContainerPort, "protocol": strings.ToLower(cmp.Or(string(cp.Protocol), "TCP")),
				})
			}
		}
	}
	return mappings
}

// resolvConf is what kubelet writes for the pod.
func resolvConf(p *pod) string {
	if p.template.Spec.DNSPolicy == corev1.DNSDefault {
		return ""
	}
	return fmt.Sprintf("search %s.svc.cluster.local svc.cluster.local cluster.local\nnameserver %s\noptions ndots:5\n", p.namespace, clusterDNS)
}

// run starts the container. Images are programs of the project, by the image's name.
func (p *pod) run(ctx context.Context) error {
	c := p.template.Spec.Containers[0]
	cmd := p.sandbox.Command(context.WithoutCancel(ctx), filepath.Join(p.node.bin, filepath.Base(c.Image)), c.Args...)
	cmd.Env = append(os.Environ(), "POD_NAME="+p.name, "NODE_NAME="+p.node.name)
	log, err := os.Create(filepath.Join(p.node.Dir(), "pod-"+p.name+".log"))
	if err != nil {
		return err
	}
	defer log.Close()
	cmd.Stdout, cmd.Stderr = log, log
	p.process, err = p.node.lab.Start(cmd)
	return err
}

// awaitReady is the readiness probe: the container's first TCP port accepts a connection from the node.
func (p *pod) awaitReady(ctx context.Context) error {
	port := uint16(0)
	for _, cp := range p.template.Spec.Containers[0].Ports {
		if cp.Protocol != corev1.ProtocolUDP {
			port = uint16(cp.ContainerPort)
		}
	}
	if port != 0 {
		target := netip.AddrPortFrom(p.addr, port).String()
		err := await(ctx, func() bool { return p.node.NetNS().Do(func() error { return dial(target) }) == nil })
		if err != nil {
			return fmt.Errorf("wait for %s/%s at %s: %w", p.namespace, p.name, target, err)
		}
	}
	p.ready = true
	return nil
}

func dial(target string) error {
	c, err := net.DialTimeout("tcp", target, time.Second)
	if err != nil {
		return err
	}
	return c.Close()
}

// exec runs the pod program in the pod and returns what it printed.
func (p *pod) exec(ctx context.Context, args ...string) (string, error) {
	cmd := p.sandbox.Command(ctx, filepath.Join(p.node.bin, "podapp"), args...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("in %s/%s: podapp %s: %w: %s", p.namespace, p.name, strings.Join(args, " "), err, stderr.Bytes())
	}
	return strings.TrimSpace(string(out)), nil
}

// stop ends the container as kubelet does: SIGTERM, time to drain, then CNI DEL.
func (p *pod) stop(ctx context.Context) error {
	if err := terminate(p.sandbox.CgroupPath(), ""); err != nil {
		return err
	}
	err := await(ctx, func() bool {
		left, err := os.ReadFile(filepath.Join(p.sandbox.CgroupPath(), "cgroup.procs"))
		return err == nil && len(bytes.TrimSpace(left)) == 0
	})
	return errors.Join(err, p.node.cni.DelNetworkList(ctx, p.node.config, p.runtime), p.sandbox.Stop(ctx))
}
