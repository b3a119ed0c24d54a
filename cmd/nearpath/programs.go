package main

import (
	"fmt"
	"net/netip"

	"github.com/nearpath/nearpath/bpf"
	"github.com/nearpath/nearpath/internal/hostnet"
)

// nodePrograms lets the host network attach the datapath's programs to the node's links.
type nodePrograms struct{ datapath *bpf.Datapath }

// roleOf says in the datapath's words what a link is. A companion leads to pods, as the node's end of a veth pair does.
func roleOf(r hostnet.Role) bpf.Role {
	switch r {
	case hostnet.RoleUplink:
		return bpf.Uplink
	case hostnet.RoleIPVlanParent:
		return bpf.IPVlanParent
	case hostnet.RoleCompanion:
		return bpf.PodLink
	}
	panic(fmt.Sprintf("unknown role %s", r))
}

func (p nodePrograms) Attach(r hostnet.Role, index int) error {
	return p.datapath.AttachLink(roleOf(r), index)
}

func (p nodePrograms) Attached(r hostnet.Role, index int) (bool, error) {
	return p.datapath.LinkAttached(roleOf(r), index)
}

func (p nodePrograms) Detach(r hostnet.Role, index int) error {
	return p.datapath.DetachLink(roleOf(r), index)
}

// SetNode says of all local addresses that they are the node's: also of those that node ports are not served on.
func (p nodePrograms) SetNode(node hostnet.SetNode) error {
	addrs := make([]netip.Addr, 0, len(node.Local))
	for _, l := range node.Local {
		addrs = append(addrs, l.Addr)
	}
	if err := p.datapath.SetNodeAddresses(addrs); err != nil {
		return err
	}
	list := make([]bpf.HostNetwork, 0, len(node.Networks))
	for _, n := range node.Networks {
		way := bpf.WayENI
		switch n.Way {
		case hostnet.ByNode:
			way = bpf.WayNode
		case hostnet.OfServices:
			way = bpf.WayService
		}
		list = append(list, bpf.HostNetwork{Prefix: n.Prefix, Way: way})
	}
	return p.datapath.SetHostNetworks(list)
}
