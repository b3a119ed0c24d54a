//go:build node && vm

package bpf

import (
	"errors"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// ipvlanAddrs are those of pods that have ipvlan links.
var ipvlanAddrs = [][]string{{"10.1.0.9", "fd01::9"}, {"10.1.0.10", "fd01::10"}}

// A shared is an ENI of the cluster's node that pods have ipvlan links on.
type shared struct {
	*cluster
	pods      []*netns
	entries   []Pod
	mac       net.HardwareAddr
	companion int
}

// share makes the ENI, with so many pods, as an agent does. The socket programs are on, as they keep pods from what they may not do.
func (c *cluster) share(t *testing.T, pods int) *shared {
	t.Helper()
	if err := c.Attach(); err != nil {
		t.Fatal(err)
	}
	eni, _ := c.node.plug(t, "eni", c.remote, "vpc")
	s := &shared{cluster: c, mac: c.node.mac(t, "eni")}
	c.node.do(t, func() error {
		own := slaveOf(eni, "companion")
		err := errors.Join(netlink.LinkAdd(own), netlink.LinkSetUp(own))
		s.companion = own.Index
		return errors.Join(err, c.AttachLink(IPVlanParent, eni), c.AttachLink(PodLink, own.Index))
	})
	c.node.sysctl(t, "ipv4/conf/companion/rp_filter=2", "ipv4/conf/eni/rp_filter=2")
	for _, addr := range ipvlanAddrs[:pods] {
		s.pods = append(s.pods, s.add(t, eni, addr))
	}
	return s
}

func slaveOf(parent int, name string) *netlink.IPVlan {
	return &netlink.IPVlan{LinkAttrs: netlink.LinkAttrs{Name: name, ParentIndex: parent}, Mode: netlink.IPVLAN_MODE_L2}
}

// add makes a pod with a link on the ENI. The ENI's network has the other node for its gateway.
func (s *shared) add(t *testing.T, eni int, addr []string) *netns {
	t.Helper()
	pod := newNetns(t)
	s.node.do(t, func() error {
		l := slaveOf(eni, "slave")
		l.Namespace = netlink.NsFd(pod.file.Fd())
		return netlink.LinkAdd(l)
	})
	pod.do(t, func() error {
		l, err := netlink.LinkByName("slave")
		if err != nil {
			return err
		}
		cookie, err := NetNSCookie()
		if err != nil {
			return err
		}
		p := Pod{Addrs: addrs(addr), NetNSCookie: cookie, Link: s.companion, Parent: eni, Slot: 1, Guarded: true}
		s.entries = append(s.entries, p)
		return errors.Join(netlink.LinkSetUp(l), s.Pods.Put(p), s.AttachLink(IPVlanSlave, l.Attrs().Index, p.Addrs...))
	})
	pod.address(t, "slave", addr[0]+"/32", addr[1]+"/128")
	for i := range nodeAddrs {
		bits := []string{"/32", "/128"}[i]
		pod.route(t, "slave", everything[i], gateways[i], s.remote.mac(t, "vpc"))
		s.node.route(t, "companion", addr[i]+bits, "", s.mac)
		s.remote.route(t, "vpc", addr[i]+bits, "", s.mac)
	}
	return pod
}

// TestForgedByIPVlan: raw sockets of a pod send with no other's address, the node's included, get no way past the program that sees to
// it, and leave no mark by which the program of the ENI would take them for the node's.
func TestForgedByIPVlan(t *testing.T) {
	s := newCluster(t).share(t, 2)
	for i := range nodeAddrs {
		to := at(ipvlanAddrs[1][i], policyPort)
		for name, from := range map[string]string{"another pod's": ipvlanAddrs[1][i], "the node's": nodeAddrs[i], "nobody's": remoteAddrs[i]} {
			for link, mac := range map[string]net.HardwareAddr{"on the ENI": s.mac, "by the gateway": s.remote.mac(t, "vpc")} {
				forged := segment{proto: udp, from: at(from, 53), to: to, hops: 64}
				s.pods[0].do(t, func() error {
					// What a program drops there the sender is told.
					if err := sendBy("slave", mac, forged); !errors.Is(err, unix.ENOBUFS) {
						t.Errorf("with %s address, %s: %v", name, link, err)
					}
					return nil
				})
			}
		}
	}
	s.pods[0].do(t, func() error {
		fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		if err := unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_QDISC_BYPASS, 1); !errors.Is(err, unix.EPERM) {
			t.Errorf("past the programs: %v", err)
		}
		return nil
	})
	s.marked(t)
}

// marked sends with a mark of the node's to an address that the program of the ENI drops from the ENI's pods: it is looked at.
func (s *shared) marked(t *testing.T) {
	t.Helper()
	isolate(t, s.Datapath, netip.MustParseAddr(ipvlanAddrs[0][0]), nil, []PolicyInterval{})
	_, before := denials(t, s.Datapath, netip.MustParseAddr(ipvlanAddrs[0][0]))
	s.pods[0].do(t, func() error {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		to := &unix.SockaddrInet4{Port: policyPort, Addr: netip.MustParseAddr(remoteAddrs[0]).As4()}
		return errors.Join(unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_MARK, 0x0801), unix.Sendto(fd, []byte("hello"), 0, to))
	})
	for deadline := time.Now().Add(patience); ; {
		if _, after := denials(t, s.Datapath, netip.MustParseAddr(ipvlanAddrs[0][0])); after > before {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("a mark of the pod's own takes its packets past policy")
		}
	}
	isolate(t, s.Datapath, netip.MustParseAddr(ipvlanAddrs[0][0]), nil, nil)
}
