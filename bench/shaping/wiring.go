package shaping

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"

	"github.com/nearpath/nearpath/bench/links"
	"github.com/nearpath/nearpath/cni"
	"github.com/nearpath/nearpath/test/netlab"
)

// Names of a pod's links, and their addresses.
const (
	hostLink = "np0"
	podLink  = "eth0"
	sideLink = "npside"

	nodeAddr = "10.89.0.1"
	podAddr  = "10.89.0.2"
)

// ours limits as the agent does, through the same Shaper. With an exclusive ENI the measured connection is on the ENI.
type ours struct{ datapath cni.Datapath }

func (o ours) add(ctx context.Context, node, pod *netlab.NetNS, bits uint64) (there, here string, undo func() error, err error) {
	undo = func() error { return node.Do(func() error { return links.Delete(hostLink, "eni") }) }
	shaped := cni.Shaped{
		Datapath: o.datapath, NetNS: pod.Path(), HostLink: hostLink, PodLink: podLink, MTU: 1500, Limits: cni.Limits{Ingress: bits, Egress: bits},
	}
	measured := hostLink
	if o.datapath == cni.Exclusive {
		measured, shaped.SideLink = "eni", sideLink
		if err := links.Pair(node, pod, hostLink, sideLink); err != nil {
			return "", "", nil, err
		}
	}
	err = links.Pair(node, pod, measured, podLink)
	if err == nil {
		err = errors.Join(node.Do(func() error { return links.Address(measured, network(nodeAddr)) }), pod.Do(func() error { return links.Address(podLink, network(podAddr)) }))
	}
	if err != nil {
		return "", "", nil, errors.Join(err, undo())
	}
	shaper, err := cni.NewShaper(node.Path())
	if err != nil {
		return "", "", nil, errors.Join(err, undo())
	}
	if err := errors.Join(shaper.Shape(ctx, shaped), shaper.Close()); err != nil {
		return "", "", nil, errors.Join(err, undo())
	}
	return nodeAddr, podAddr, undo, nil
}

// network is an address with the network that both ends of a link are in.
func network(addr string) netip.Prefix { return netip.PrefixFrom(netip.MustParseAddr(addr), 24) }

// plugins is the chain of the reference plugins bridge, host-local and bandwidth. The burst is what containerd passes,
// which a pod's annotations cannot change.
type plugins struct{ dir string }

const containerdBurst = 1<<32 - 1

func (p plugins) add(ctx context.Context, node, pod *netlab.NetNS, bits uint64) (there, here string, undo func() error, err error) {
	state, err := os.MkdirTemp("", prefix)
	if err != nil {
		return "", "", nil, err
	}
	bridge := map[string]any{
		"cniVersion": "1.0.0", "name": "bench", "type": "bridge", "bridge": "bench0", "isDefaultGateway": true,
		"ipam": map[string]any{"type": "host-local", "dataDir": state, "ranges": [][]map[string]string{{{"subnet": "10.88.0.0/16"}}}},
	}
	bandwidth := map[string]any{
		"cniVersion": "1.0.0", "name": "bench", "type": "bandwidth",
		"runtimeConfig": map[string]any{"bandwidth": map[string]uint64{
			"ingressRate": bits, "ingressBurst": containerdBurst, "egressRate": bits, "egressBurst": containerdBurst,
		}},
	}
	undo = func() error {
		ctx := context.WithoutCancel(ctx)
		_, errBandwidth := p.call(ctx, node, pod, "DEL", bandwidth)
		_, errBridge := p.call(ctx, node, pod, "DEL", bridge)
		return errors.Join(errBandwidth, errBridge, node.Do(func() error { return links.Delete("bench0") }), os.RemoveAll(state))
	}
	result, err := p.call(ctx, node, pod, "ADD", bridge)
	if err != nil {
		return "", "", nil, errors.Join(err, undo())
	}
	bandwidth["prevResult"] = result
	if _, err = p.call(ctx, node, pod, "ADD", bandwidth); err != nil {
		return "", "", nil, errors.Join(err, undo())
	}
	var addrs struct {
		IPs []struct{ Address, Gateway string } `json:"ips"`
	}
	if err := json.Unmarshal(result, &addrs); err != nil || len(addrs.IPs) != 1 {
		return "", "", nil, errors.Join(fmt.Errorf("bridge gave no address: %s", result), err, undo())
	}
	here, _, _ = strings.Cut(addrs.IPs[0].Address, "/")
	return addrs.IPs[0].Gateway, here, undo, nil
}

// call executes a plugin on the node (CNI specification 1.0.0, sections 2 and 3).
func (p plugins) call(ctx context.Context, node, pod *netlab.NetNS, verb string, config map[string]any) (json.RawMessage, error) {
	stdin, err := json.Marshal(config)
	if err != nil {
		return nil, err
	}
	cmd := node.Command(ctx, filepath.Join(p.dir, config["type"].(string)))
	cmd.Stdin = bytes.NewReader(stdin)
	cmd.Env = append(os.Environ(), "CNI_COMMAND="+verb, "CNI_CONTAINERID="+pod.Name(), "CNI_NETNS="+pod.Path(), "CNI_IFNAME="+podLink, "CNI_PATH="+p.dir)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("%s of %s: %w: %s%s", verb, config["type"], err, out, stderr.Bytes())
	}
	return out, nil
}
