package sim

import "net/netip"

// MetadataAddr is the address of the metadata service in every VPC.
var MetadataAddr = netip.AddrFrom4([4]byte{100, 100, 100, 200})

// A Fabric makes ENIs real. The Cloud calls it without holding its mutex; calls about one ENI never overlap, calls about
// different ENIs may.
type Fabric interface {
	// AddVSwitch makes the gateway of a vSwitch answer. New calls it once for each family of each vSwitch.
	AddVSwitch(Net) error
	// Plug makes the link of an ENI appear in the namespace of its instance. After an error nothing of it is left.
	Plug(Port) error
	// Unplug takes the link away. One that is gone already is no error.
	Unplug(eniID string) error
	// AddAddrs lets addresses of a plugged ENI be reached and used as source.
	AddAddrs(eniID string, addrs []netip.Addr) error
	// RemoveAddrs takes AddAddrs back.
	RemoveAddrs(eniID string, addrs []netip.Addr) error
}

// A Net is a vSwitch's network of one family.
type Net struct {
	Subnet  netip.Prefix
	Gateway netip.Addr
}

// A Port is an ENI on its way into an instance.
type Port struct {
	ENIID   string
	MAC     string
	NetNS   string // path of the instance's network namespace
	Primary bool
	// Addrs are of both families, those of delegated prefixes one by one; the primary one first.
	Addrs []netip.Addr
	// Nets are the vSwitch's, IPv4 first.
	Nets []Net
}

// A SourceGuard drops IP frames that enter a link with a source address that is not allowed there; ARP passes. It works
// in the network namespace of the calling thread. Methods are safe for concurrent use.
type SourceGuard interface {
	// Attach guards the link, with nothing allowed.
	Attach(ifindex int) error
	// Detach lifts the guard of a link that may be gone already. Its addresses are denied first.
	Detach(ifindex int) error
	Allow(ifindex int, addr netip.Addr) error
	Deny(ifindex int, addr netip.Addr) error
	// Dropped counts the frames dropped since Attach.
	Dropped(ifindex int) (uint64, error)
	Close() error
}
