package main

import (
	"fmt"
	"net/netip"
	"slices"

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

// SetNode has ports of the node answer on the loopback addresses, too, which only the node's own sockets reach.
func (p nodePrograms) SetNode(addrs []netip.Addr, networks []hostnet.HostNetwork) error {
	loopback := []netip.Addr{netip.AddrFrom4([4]byte{127, 0, 0, 1}), netip.IPv6Loopback()}
	if err := p.datapath.SetNodeAddresses(slices.Concat(addrs, loopback)); err != nil {
		return err
	}
	list := make([]bpf.HostNetwork, 0, len(networks))
	for _, n := range networks {
		list = append(list, bpf.HostNetwork(n))
	}
	return p.datapath.SetHostNetworks(list)
}
