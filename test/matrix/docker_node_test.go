//go:build node

package matrix

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// publishedPort of the node leads to the server on the bridge, as "docker run -p" makes it.
const publishedPort = 8088

var (
	bridgeAddr    = netip.MustParsePrefix("172.17.0.1/16")
	containerAddr = netip.MustParsePrefix("172.17.0.2/16")
)

// startDocker makes a bridge with a container on the node, as Docker does: the node's own address is translated to the
// container's before routing. IPv6 is what Docker has only when told to, and then routed without a translation.
func (n *node) startDocker(ctx context.Context) (*peer, error) {
	ns, err := n.rig.NetNS(n.Name() + "-docker")
	if err != nil {
		return nil, err
	}
	target, err := os.Open(ns.Path())
	if err != nil {
		return nil, err
	}
	defer target.Close()
	if err := n.NetNS().Do(func() error { return bridgeTo(int(target.Fd())) }); err != nil { //nolint:gosec // a descriptor fits
		return nil, fmt.Errorf("make the bridge: %w", err)
	}
	if err := ns.Do(joinBridge); err != nil {
		return nil, fmt.Errorf("join the bridge: %w", err)
	}
	// The library enters the namespace of the thread that opens the connection.
	if err := n.NetNS().Do(publish); err != nil {
		return nil, fmt.Errorf("publish the port: %w", err)
	}
	return startPeer(n.rig.Lab, ns.Command(context.WithoutCancel(ctx), n.rig.podapp(), "probe", probeAddr), "docker", containerAddr.Addr())
}

func bridgeTo(container int) error {
	bridge := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "docker0", TxQLen: -1}}
	if err := netlink.LinkAdd(bridge); err != nil {
		return err
	}
	pair := &netlink.Veth{
		LinkAttrs: netlink.LinkAttrs{Name: "vethdocker", MasterIndex: bridge.Index, TxQLen: -1},
		PeerName:  "eth0", PeerNamespace: netlink.NsFd(container),
	}
	if err := netlink.LinkAdd(pair); err != nil {
		return err
	}
	if err := netlink.AddrAdd(bridge, &netlink.Addr{IPNet: ipNet(bridgeAddr)}); err != nil {
		return err
	}
	for _, l := range []netlink.Link{bridge, pair} {
		if err := netlink.LinkSetUp(l); err != nil {
			return err
		}
	}
	return nil
}

func joinBridge() error {
	link, err := netlink.LinkByName("eth0")
	if err != nil {
		return err
	}
	if err := netlink.AddrAdd(link, &netlink.Addr{IPNet: ipNet(containerAddr)}); err != nil {
		return err
	}
	if err := netlink.LinkSetUp(link); err != nil {
		return err
	}
	return netlink.RouteAdd(&netlink.Route{LinkIndex: link.Attrs().Index, Gw: bridgeAddr.Addr().AsSlice()})
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

// publish adds, for TCP and UDP,
//
//	table ip docker { chain prerouting { type nat hook prerouting priority dstnat;
//	    fib daddr type local meta l4proto X th dport 8088 dnat to 172.17.0.2:8080 } }
func publish() error {
	c, err := nftables.New()
	if err != nil {
		return err
	}
	table := c.AddTable(&nftables.Table{Family: nftables.TableFamilyIPv4, Name: "docker"})
	chain := c.AddChain(&nftables.Chain{
		Name: "prerouting", Table: table, Type: nftables.ChainTypeNAT,
		Hooknum: nftables.ChainHookPrerouting, Priority: nftables.ChainPriorityNATDest,
	})
	for _, protocol := range []byte{unix.IPPROTO_TCP, unix.IPPROTO_UDP} {
		c.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: []expr.Any{
			&expr.Fib{Register: 1, FlagDADDR: true, ResultADDRTYPE: true},
			&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: binaryutil.NativeEndian.PutUint32(unix.RTN_LOCAL)},
			&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 1},
			&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{protocol}},
			&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2},
			&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: binaryutil.BigEndian.PutUint16(publishedPort)},
			&expr.Immediate{Register: 1, Data: containerAddr.Addr().AsSlice()},
			&expr.Immediate{Register: 2, Data: binaryutil.BigEndian.PutUint16(probePort)},
			&expr.NAT{Type: expr.NATTypeDestNAT, Family: unix.NFPROTO_IPV4, RegAddrMin: 1, RegProtoMin: 2},
		}})
	}
	return c.Flush()
}
