package main

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/nearpath/nearpath/bpf"
	"github.com/nearpath/nearpath/internal/hostnet"
)

// nodePrograms lets the host network attach the datapath's programs to the node's links.
type nodePrograms struct {
	datapath *bpf.Datapath
	cookie   uint64 // of the node's network namespace
}

// roleOf says in the datapath's words what a link is. A companion leads to pods, as the node's end of a veth pair does.
func roleOf(r hostnet.Role) bpf.Role {
	switch r {
	case hostnet.RoleUplink:
		return bpf.Uplink
	case hostnet.RoleIPVlanParent:
		return bpf.IPVlanParent
	case hostnet.RoleENI:
		return bpf.PoolENI
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

// SetNode says of all local addresses that they are the node's: also of those that node ports are not served on. The node is a
// client as pods are, with the first of its own addresses. For clients of other addresses each uplink stands with its own.
func (p nodePrograms) SetNode(node hostnet.SetNode) error {
	var addrs, portless []netip.Addr
	for _, l := range node.Local {
		if l.NodePorts {
			addrs = append(addrs, l.Addr)
		} else {
			portless = append(portless, l.Addr)
		}
	}
	if err := p.datapath.SetNodeAddresses(addrs, portless...); err != nil {
		return err
	}
	if err := p.datapath.Pods.PutHost(p.cookie, firstOf(node.Addrs, netip.Addr.Is4), firstOf(node.Addrs, netip.Addr.Is6)); err != nil {
		return err
	}
	links := make([]bpf.LinkAddresses, 0, len(node.Links))
	for _, l := range node.Links {
		links = append(links, bpf.LinkAddresses{Link: l.Index, Addrs: l.Addrs})
	}
	if err := p.datapath.SetLinkAddresses(links); err != nil {
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

// firstOf is the first address of a family, the zero Addr if there is none.
func firstOf(addrs []netip.Addr, ofFamily func(netip.Addr) bool) netip.Addr {
	if i := slices.IndexFunc(addrs, ofFamily); i >= 0 {
		return addrs[i]
	}
	return netip.Addr{}
}
