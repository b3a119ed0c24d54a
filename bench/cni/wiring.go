package cni

import (
	"encoding/json"
	"fmt"
	"path/filepath"

	"github.com/nearpath/nearpath/bench/podruntime"
)

// A wiring is a way to give a pod its network: how its ADD and its DEL are called.
type wiring interface {
	call(verb, pod string) podruntime.Call
	// check tells whether the output of an ADD is a success.
	check(output string) error
}

// The verbs.
const (
	add = "ADD"
	del = "DEL"
)

// A plugin is wiring by a CNI plugin, called as container runtimes call it (CNI specification 1.1.0, sections 2 and 3).
type plugin struct {
	dir, name string
	config    string // the plugin's part of the network configuration
}

func (p plugin) call(verb, pod string) podruntime.Call {
	return podruntime.Call{
		Program: filepath.Join(p.dir, p.name),
		Stdin:   p.config,
		Env: []string{
			"CNI_COMMAND=" + verb, "CNI_CONTAINERID=" + pod, "CNI_NETNS=" + podruntime.Path(pod), "CNI_IFNAME=eth0",
			"CNI_ARGS=IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=" + pod, "CNI_PATH=" + p.dir, "PATH=/usr/bin:/bin",
		},
	}
}

// check wants an address: an ADD that gave none may be fast for that reason.
func (p plugin) check(output string) error {
	var result struct {
		IPs []struct {
			Address string `json:"address"`
		} `json:"ips"`
	}
	if err := json.Unmarshal([]byte(output), &result); err != nil {
		return fmt.Errorf("read the result of %s: %w: %s", p.name, err, output)
	}
	if len(result.IPs) != 1 || result.IPs[0].Address == "" {
		return fmt.Errorf("%s gave %d addresses, want one: %s", p.name, len(result.IPs), output)
	}
	return nil
}

func nearpath(bin string) plugin {
	return plugin{dir: bin, name: "nearpath-cni", config: `{"cniVersion": "1.1.0", "name": "nearpath", "type": "nearpath-cni"}`}
}

// bridge is the reference plugins bridge and host-local: a pod on a bridge of the node, with an address of the node's own
// range. It has no cloud and no datapath to tell of the pod, so it does less.
func bridge(dir string) plugin {
	return plugin{dir: dir, name: "bridge", config: `{
		"cniVersion": "1.0.0", "name": "bench", "type": "bridge", "bridge": "bench0", "isDefaultGateway": true,
		"ipam": {"type": "host-local", "dataDir": "/run/cni-ipam", "ranges": [[{"subnet": "10.88.0.0/16"}]]}
	}`}
}

// bare is the floor: a program that does nothing, and a pair of links.
type bare struct{ program string }

func (b bare) call(verb, pod string) podruntime.Call {
	link := &podruntime.Link{Name: "f" + pod}
	if verb == add {
		link.NetNS = podruntime.Path(pod)
	}
	return podruntime.Call{Program: b.program, Link: link}
}

func (bare) check(string) error { return nil }
