//go:build node

package matrix

import (
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"strings"
	"sync/atomic"

	"github.com/containernetworking/cni/libcni"
	types100 "github.com/containernetworking/cni/pkg/types/100"
	"github.com/vishvananda/netlink"

	"github.com/nearpath/nearpath/test/netlab"
)

// The datapaths of pods.
const (
	veth      = "veth"
	ipvlan    = "ipvlan"
	exclusive = "exclusive"
)

const podLink = "eth0"

// A pod is a sandbox with a network.
type pod struct {
	*peer
	node     *node
	datapath string
	eni      string // ID
	sandbox  *netlab.Sandbox
	netns    *netlab.NetNS
	runtime  *libcni.RuntimeConf
	result   *types100.Result
	stopped  bool
}

// A hostPort is what a runtime passes as the capability portMappings.
type hostPort struct {
	HostPort      uint16 `json:"hostPort"`
	ContainerPort uint16 `json:"containerPort"`
	Protocol      string `json:"protocol"`
	HostIP        string `json:"hostIP,omitempty"`
}

// A wish is a pod that is wanted.
type wish struct {
	name, datapath string
	node           *node
	ports          []hostPort
	// byPackets leaves the pod's sockets alone.
	byPackets bool
}

// annotations are the pod's.
func (w wish) annotations() map[string]string {
	a := map[string]string{"nearpath.io/datapath": w.datapath}
	if w.byPackets {
		a["nearpath.io/service-path"] = "packets"
	}
	return a
}

// manifest is the pod as the API has it. Host ports are in no manifest: the runtime passes them.
func (w wish) manifest() string {
	annotations, _ := json.Marshal(w.annotations()) // of strings
	return fmt.Sprintf(`---
apiVersion: v1
kind: Pod
metadata:
  name: %s
  namespace: default
  annotations: %s
spec: {nodeName: %s, containers: [{name: c, image: c}]}
`, w.name, annotations, w.node.Name())
}

// announce makes the pods known to the API before they are run.
func (r *rig) announce(file string, wishes []wish) error {
	var text strings.Builder
	for _, w := range wishes {
		text.WriteString(w.manifest())
	}
	return r.apply(file, text.String())
}

// capabilities are what containerd passes of a pod. An agent that reads manifests does not wait for the pod's.
func (w wish) capabilities() map[string]any {
	args := map[string]any{"io.kubernetes.cri.pod-annotations": w.annotations()}
	if len(w.ports) > 0 {
		args["portMappings"] = w.ports
	}
	return args
}

var containers atomic.Int64

// sandboxOf makes a pod without a network.
func (w wish) sandboxOf(ctx context.Context) (*pod, error) {
	p := &pod{node: w.node, datapath: w.datapath, peer: &peer{name: w.name}}
	id := fmt.Sprintf("c%d", containers.Add(1))
	var err error
	if p.sandbox, err = w.node.StartSandbox(ctx, netlab.SandboxSpec{Name: id}); err != nil {
		return nil, err
	}
	p.netns = netlab.OpenNetNS(w.node.MachinePath(p.sandbox.NetNSPath()))
	p.runtime = &libcni.RuntimeConf{
		ContainerID: id, NetNS: p.sandbox.NetNSPath(), IfName: podLink,
		Args: [][2]string{{"IgnoreUnknown", "1"}, {"K8S_POD_NAMESPACE", "default"}, {"K8S_POD_NAME", w.name}},
	}
	p.runtime.CapabilityArgs = w.capabilities()
	return p, p.sandbox.SetLoopbackUp()
}

// add gives the pod its network.
func (p *pod) add(ctx context.Context) error {
	result, err := p.node.cni.AddNetworkList(ctx, p.node.conflist, p.runtime)
	if err != nil {
		return fmt.Errorf("CNI ADD of %s on %s: %w", p.name, p.node.Name(), err)
	}
	current, err := types100.GetResult(result)
	if err != nil {
		return err
	}
	return p.took(current)
}

// took notes what ADD gave and looks whether that is so.
func (p *pod) took(result *types100.Result) error {
	p.result = result
	for _, ip := range p.result.IPs {
		addr, _ := netip.AddrFromSlice(ip.Address.IP)
		p.addrs = append(p.addrs, addr.Unmap())
	}
	if len(p.addrs) != 2 {
		return fmt.Errorf("CNI ADD of %s on %s gave the addresses %v", p.name, p.node.Name(), p.addrs)
	}
	p.eni, _ = p.node.rig.eniOf(p.addrs[0])
	return p.checkDatapath()
}

// run makes a pod with a network and a probe in it.
func (w wish) run(ctx context.Context) (*pod, error) {
	p, err := w.sandboxOf(ctx)
	if err != nil {
		return nil, err
	}
	if err := p.add(ctx); err != nil {
		return nil, err
	}
	cmd := p.sandbox.Command(context.WithoutCancel(ctx), w.node.rig.podapp(), "probe", probeAddr)
	if p.peer, err = startPeer(w.node.rig.Lab, cmd, w.name, p.addrs...); err != nil {
		return nil, err
	}
	return p, nil
}

// checkDatapath looks at the kernel for what the pod really has.
func (p *pod) checkDatapath() error {
	_, mac := p.node.rig.eniOf(p.addrs[0])
	return p.netns.Do(func() error {
		link, err := netlink.LinkByName(podLink)
		if err != nil {
			return err
		}
		have := link.Type()
		if have == "veth" && link.Attrs().HardwareAddr.String() == mac { // the simulated ENI is one, too
			have = exclusive
		}
		if have != p.datapath {
			return fmt.Errorf("%s wants the datapath %s and has a link of the kind %s with the MAC address %s; its ENI has %s",
				p.name, p.datapath, have, link.Attrs().HardwareAddr, mac)
		}
		return nil
	})
}

// del takes the pod's network.
func (p *pod) del(ctx context.Context) error {
	if err := p.node.cni.DelNetworkList(ctx, p.node.conflist, p.runtime); err != nil {
		return fmt.Errorf("CNI DEL of %s on %s: %w", p.name, p.node.Name(), err)
	}
	return nil
}

// stop ends the pod's processes and its sandbox, without the CNI plugin.
func (p *pod) stop(ctx context.Context) error {
	if p.stopped {
		return nil
	}
	p.stopped = true
	return p.sandbox.Stop(ctx)
}
