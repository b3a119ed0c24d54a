package kube

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"

	"github.com/vishvananda/netlink"
)

// loopbackConf is a CNI configuration that is enough for kubelet to call its node Ready.
const loopbackConf = `{"cniVersion": "1.0.0", "name": "none", "plugins": [{"type": "loopback"}]}`

// bridge makes the network of a cluster whose caller brought none: a bridge in the control plane's namespace, with
// the control plane at 10.250.0.1 and the nodes from 10.250.0.11 on.
func (c *Cluster) bridge() error {
	for i, n := range c.cfg.Nodes {
		if n.NetNS != nil {
			return fmt.Errorf("node %s has a network namespace, the control plane has none", n.Name)
		}
		c.cfg.Nodes[i].Addr = netip.AddrFrom4([4]byte{10, 250, 0, byte(11 + i)})
	}
	ns, err := c.lab.NetNS("control")
	if err != nil {
		return err
	}
	c.cfg.ControlPlane = ControlPlane{NetNS: ns, Addr: netip.AddrFrom4([4]byte{10, 250, 0, 1})}
	if err := ns.Do(func() error { return addBridge(c.cfg.ControlPlane.Addr) }); err != nil {
		return fmt.Errorf("make bridge: %w", err)
	}
	for i := range c.cfg.Nodes {
		if err := c.plug(&c.cfg.Nodes[i]); err != nil {
			return fmt.Errorf("connect node %s: %w", c.cfg.Nodes[i].Name, err)
		}
	}
	return nil
}

const bridgeName = "br0"

func addBridge(addr netip.Addr) error {
	attrs := netlink.NewLinkAttrs()
	attrs.Name = bridgeName
	br := &netlink.Bridge{LinkAttrs: attrs}
	if err := netlink.LinkAdd(br); err != nil {
		return err
	}
	return setUp(br, addr)
}

// plug gives a node a namespace with an eth0 on the bridge, and the CNI configuration that connects no pods.
func (c *Cluster) plug(n *NodeSpec) error {
	var err error
	if n.NetNS, err = c.lab.NetNS(n.Name); err != nil {
		return err
	}
	inside, err := os.Open(n.NetNS.Path())
	if err != nil {
		return err
	}
	defer inside.Close()
	err = c.cfg.ControlPlane.NetNS.Do(func() error { return addPort(n.Name, inside) })
	if err != nil {
		return err
	}
	err = n.NetNS.Do(func() error {
		eth0, err := netlink.LinkByName("eth0")
		if err != nil {
			return err
		}
		return errors.Join(setUp(eth0, n.Addr), addDefaultRoute(c.cfg.ControlPlane.Addr))
	})
	if err != nil {
		return err
	}
	conf := filepath.Join(c.lab.Dir(), "nodes", n.Name, "cni-conf")
	if err := os.MkdirAll(conf, 0o755); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(conf, "99-loopback.conflist"), []byte(loopbackConf), 0o644)
}

// addPort adds a veth pair, one end on the bridge, the other as eth0 in the namespace that inside is open on.
func addPort(name string, inside *os.File) error {
	br, err := netlink.LinkByName(bridgeName)
	if err != nil {
		return err
	}
	attrs := netlink.NewLinkAttrs()
	attrs.Name = name
	attrs.MasterIndex = br.Attrs().Index
	port := &netlink.Veth{LinkAttrs: attrs, PeerName: "eth0", PeerNamespace: netlink.NsFd(inside.Fd())}
	if err := netlink.LinkAdd(port); err != nil {
		return err
	}
	return netlink.LinkSetUp(port)
}

func setUp(link netlink.Link, addr netip.Addr) error {
	ipnet := &net.IPNet{IP: addr.AsSlice(), Mask: net.CIDRMask(24, 32)}
	if err := netlink.AddrAdd(link, &netlink.Addr{IPNet: ipnet}); err != nil {
		return err
	}
	return netlink.LinkSetUp(link)
}

func addDefaultRoute(gateway netip.Addr) error {
	return netlink.RouteAdd(&netlink.Route{Gw: gateway.AsSlice()})
}
