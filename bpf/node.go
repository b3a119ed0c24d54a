package bpf

import (
	"fmt"
	"net/netip"

	"github.com/cilium/ebpf"
)

// A Way is where what is sent to a network goes.
type Way uint8

// The ways. Without one, a pod's packets leave by its ENI.
const (
	WayENI = Way(packetWayWAY_ENI)
	// WayNode sends through the node's stack what pods would send by an ENI directly.
	WayNode = Way(packetWayWAY_NODE)
	// WayService drops what no Service has.
	WayService = Way(packetWayWAY_SERVICE)
)

// A HostNetwork is a part of what a pod reaches, and the way there. Of several prefixes that contain an address the
// longest decides.
type HostNetwork struct {
	Prefix netip.Prefix
	Way    Way
}

// SetNodeAddresses says which addresses the node has: wildcard frontends answer on them. The portless ones are among them, but
// no node port is served there. Those that stay answer throughout.
func (d *Datapath) SetNodeAddresses(addrs []netip.Addr, portless ...netip.Addr) error {
	want := make(map[packetAddress]uint8, len(addrs)+len(portless))
	for _, a := range addrs {
		want[packetAddress{Addr: words(a)}] = uint8(packetNodeAddressFlagsNODE_ADDRESS_PORTS)
	}
	for _, a := range portless {
		want[packetAddress{Addr: words(a)}] = 0
	}
	if err := replaceAll(d.objs.NodeAddresses, want); err != nil {
		return fmt.Errorf("set %d node addresses: %w", len(want), err)
	}
	return nil
}

// SetHostNetworks says what pods that have an ENI under them must send through their node, and where Services have their
// addresses. Networks that stay are there throughout.
func (d *Datapath) SetHostNetworks(networks []HostNetwork) error {
	want := make(map[packetNetwork]uint8, len(networks))
	for _, n := range networks {
		bits := uint32(n.Prefix.Bits())
		if n.Prefix.Addr().Is4() {
			bits += 96
		}
		want[packetNetwork{PrefixBits: bits, Addr: words(n.Prefix.Masked().Addr())}] = uint8(n.Way)
	}
	if err := replaceAll(d.objs.HostNetworks, want); err != nil {
		return fmt.Errorf("set %d host networks: %w", len(networks), err)
	}
	return nil
}

// LinkAddresses are what a link of the node stands for toward backends.
type LinkAddresses struct {
	Link int // its interface index
	// Addrs are at most one of each family.
	Addrs []netip.Addr
}

// SetLinkAddresses says which address a backend sees when clients outside ask by one of the links, unless it is to see them.
// Of a link that is not named it sees the address that a node port was asked at, else what Pods.PutHost said.
func (d *Datapath) SetLinkAddresses(links []LinkAddresses) error {
	want := make(map[uint32]packetLinkAddress, len(links))
	for _, l := range links {
		var v packetLinkAddress
		for _, a := range l.Addrs {
			if w := words(a); a.Unmap().Is4() {
				v.Addr4 = w[3]
			} else {
				v.Addr6 = w
			}
		}
		want[uint32(l.Link)] = v
	}
	if err := replaceAll(d.objs.LinkAddresses, want); err != nil {
		return fmt.Errorf("set the addresses of %d links: %w", len(links), err)
	}
	return nil
}

// replaceAll makes want all that m holds: what is new comes first, so what stays is there throughout.
func replaceAll[K comparable, V any](m *ebpf.Map, want map[K]V) error {
	for k, v := range want {
		if err := m.Update(k, v, ebpf.UpdateAny); err != nil {
			return full(err, m)
		}
	}
	var (
		key   K
		value V
		stale []K
	)
	it := m.Iterate()
	for it.Next(&key, &value) {
		if _, ok := want[key]; !ok {
			stale = append(stale, key)
		}
	}
	if err := it.Err(); err != nil {
		return err
	}
	for _, k := range stale {
		if err := ignoreMissing(m.Delete(k)); err != nil {
			return err
		}
	}
	return nil
}
