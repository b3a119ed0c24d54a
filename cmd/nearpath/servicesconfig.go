package main

import (
	"net/netip"

	"github.com/nearpath/nearpath/internal/hostnet"
	"github.com/nearpath/nearpath/internal/strict"
)

// servicesConfig says how Services are served, where their objects leave it open.
type servicesConfig struct {
	// NodePortAddresses are those addresses of the node that node ports are served on: networks, or "primary" alone. A family
	// without a network here has all of its addresses; empty: all of both.
	NodePortAddresses []string `json:"nodePortAddresses"`
}

// primaryOnly is kube-proxy's word for the node's own address of each family.
const primaryOnly = "primary"

func (c servicesConfig) check() []strict.Rule {
	_, err := c.nodePorts()
	return []strict.Rule{{
		OK: err == nil, Path: "services.nodePortAddresses", Value: c.NodePortAddresses, Fix: `use networks such as 10.0.0.0/8, or "primary" alone`,
	}}
}

// nodePorts is what nodePortAddresses asks for; an error if it cannot be meant.
func (c servicesConfig) nodePorts() (out hostnet.NodePorts, err error) {
	if len(c.NodePortAddresses) == 1 && c.NodePortAddresses[0] == primaryOnly {
		return hostnet.NodePorts{Primary: true}, nil
	}
	for _, text := range c.NodePortAddresses {
		p, err := netip.ParsePrefix(text)
		if err != nil {
			return hostnet.NodePorts{}, err
		}
		out.Networks = append(out.Networks, p.Masked())
	}
	return out, nil
}
