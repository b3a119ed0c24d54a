//go:build node

package cni

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"path/filepath"
	"testing"
	"time"

	types100 "github.com/containernetworking/cni/pkg/types/100"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/nearpath/nearpath/internal/agentapi"
	"github.com/nearpath/nearpath/internal/hostnet"
	"github.com/nearpath/nearpath/test/netlab"
)

// Addresses of the world: the node's uplink and its ENI are in different subnets of one VPC, and somewhere behind both
// gateways is a host outside.
const (
	uplinkAddr    = "10.8.0.2"
	uplinkGateway = "10.8.0.253"
	eniGateway    = "10.9.0.253"
	outside       = "192.0.2.1"
)

// A world is a node with an uplink and one ENI, and the VPC they end in.
type world struct {
	lab       *netlab.Lab
	vpc, node *netlab.NetNS
	eniMAC    string
	addresses *fakeAddresses
	pods      *fakePods
	server    *Server
	records   string
}

func newWorld(t *testing.T) *world {
	t.Helper()
	lab := must[*netlab.Lab](t)(netlab.New("npcni"))
	t.Cleanup(func() { check0(t, lab.Close()) })
	w := &world{
		lab: lab, vpc: must[*netlab.NetNS](t)(lab.NetNS("vpc")), node: must[*netlab.NetNS](t)(lab.NetNS("node")),
		addresses: newFakeAddresses(), pods: newFakePods(), records: filepath.Join(t.TempDir(), "pods"),
	}
	check0(t, w.vpc.Do(func() error { return w.build(t) }))
	host := must[*hostnet.Host](t)(hostnet.New(hostnet.Config{NetNS: w.node.Path(), Log: slog.New(slog.DiscardHandler)}))
	t.Cleanup(func() { check0(t, host.Close()) })
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	check0(t, host.EnsureENI(ctx, hostnet.ENI{MAC: w.eniMAC, Slot: 1, Nets: []hostnet.Net{{Subnet: netip.MustParsePrefix("10.9.0.0/24"), Gateway: netip.MustParseAddr(eniGateway)}}}))
	w.server = must[*Server](t)(NewServer(Config{
		Addresses: w.addresses, Pods: w.pods, NetNS: w.node.Path(), MTU: host.MTU, Records: w.records, Log: slog.New(slog.DiscardHandler),
	}))
	t.Cleanup(func() { check0(t, w.server.Close()) })
	return w
}

// build runs in the VPC. Its end of the ENI knows the pods' addresses as a VPC does: by the ENI's MAC.
func (w *world) build(t *testing.T) error {
	t.Helper()
	node := must[int](t)(unix.Open(w.node.Path(), unix.O_RDONLY|unix.O_CLOEXEC, 0))
	defer unix.Close(node)
	w.link(t, "up0", "eth0", uplinkGateway+"/24", node, 1400)
	w.eniMAC = w.link(t, "eni0", "eth7", eniGateway+"/24", node, 1500)
	eni := must[netlink.Link](t)(netlink.LinkByName("eni0"))
	for i := range 20 {
		check0(t, netlink.NeighSet(&netlink.Neigh{
			LinkIndex: eni.Attrs().Index, Family: netlink.FAMILY_V4, State: netlink.NUD_PERMANENT,
			IP: net.IPv4(10, 9, 0, byte(10+i)), HardwareAddr: mac(t, w.eniMAC),
		}))
	}
	// What comes from a pod by the uplink is dropped: a VPC takes an address only from the ENI that has it.
	drop := netlink.NewRule()
	drop.Priority, drop.IifName, drop.Type = 10, "up0", unix.FR_ACT_BLACKHOLE
	drop.Src = ipNet(netip.MustParsePrefix("10.9.0.0/24"))
	check0(t, netlink.RuleAdd(drop))
	lo := must[netlink.Link](t)(netlink.LinkByName("lo"))
	check0(t, netlink.AddrAdd(lo, address(t, outside+"/32")))
	return w.node.Do(func() error {
		up := must[netlink.Link](t)(netlink.LinkByName("eth0"))
		check0(t, netlink.AddrAdd(up, address(t, uplinkAddr+"/24")))
		check0(t, netlink.LinkSetUp(up))
		return netlink.RouteAdd(&netlink.Route{LinkIndex: up.Attrs().Index, Gw: net.ParseIP(uplinkGateway)})
	})
}

// link makes a pair with one end in the node and returns that end's MAC address.
func (w *world) link(t *testing.T, name, inNode, addr string, node, mtu int) string {
	t.Helper()
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MTU = name, mtu
	veth := netlink.NewVeth(attrs)
	veth.PeerName, veth.PeerNamespace = inNode, netlink.NsFd(node)
	check0(t, netlink.LinkAdd(veth))
	l := must[netlink.Link](t)(netlink.LinkByName(name))
	check0(t, netlink.AddrAdd(l, address(t, addr)))
	check0(t, netlink.LinkSetUp(l))
	var found string
	check0(t, w.node.Do(func() error {
		peer, err := netlink.LinkByName(inNode)
		if err == nil {
			found = peer.Attrs().HardwareAddr.String()
		}
		return err
	}))
	return found
}

// config is a network configuration of the version.
func config(version string, more string) []byte {
	return fmt.Appendf(nil, `{"cniVersion":%q,"name":"net","type":"nearpath-cni"%s}`, version, more)
}

func request(verb, container string, pod *netlab.NetNS) agentapi.CNIRequest {
	r := agentapi.CNIRequest{
		Command: verb, ContainerID: container, IfName: "eth0",
		Args: "K8S_POD_NAMESPACE=default;IgnoreUnknown=1;K8S_POD_NAME=" + container, Config: config("1.1.0", ""),
	}
	if pod != nil {
		r.NetNS = pod.Path()
	}
	return r
}

// add makes a pod and returns its namespace and address.
func (w *world) add(t *testing.T, name string) (*netlab.NetNS, netip.Addr) {
	t.Helper()
	pod := must[*netlab.NetNS](t)(w.lab.NetNS(name))
	return pod, addressIn(t, w.mustServe(t, request("ADD", name, pod)))
}

func (w *world) mustServe(t *testing.T, r agentapi.CNIRequest) json.RawMessage {
	t.Helper()
	answer := w.server.Handle(t.Context(), r)
	if answer.Error != nil {
		t.Fatalf("%s %s: %v", r.Command, r.ContainerID, answer.Error)
	}
	return answer.Result
}

// mustFail returns the error's code.
func (w *world) mustFail(t *testing.T, r agentapi.CNIRequest) uint {
	t.Helper()
	answer := w.server.Handle(t.Context(), r)
	if answer.Error == nil {
		t.Fatalf("%s %s succeeded", r.Command, r.ContainerID)
	}
	t.Logf("%s %s: code %d: %v", r.Command, r.ContainerID, answer.Error.Code, answer.Error)
	return answer.Error.Code
}

func addressIn(t *testing.T, raw json.RawMessage) netip.Addr {
	t.Helper()
	result := &types100.Result{}
	check0(t, json.Unmarshal(raw, result))
	if len(result.IPs) != 1 {
		t.Fatalf("result has %d addresses: %s", len(result.IPs), raw)
	}
	return addressOf(&result.IPs[0].Address)
}

// talk connects over TCP and returns the source address that arrived.
func talk(t *testing.T, from *netlab.NetNS, to *netlab.NetNS, addr string) (netip.Addr, error) {
	t.Helper()
	var listener net.Listener
	check0(t, to.Do(func() (err error) {
		listener, err = net.Listen("tcp", net.JoinHostPort(addr, "0"))
		return err
	}))
	defer listener.Close()
	source := make(chan netip.Addr, 1)
	go func() {
		conn, err := listener.Accept()
		if err != nil {
			close(source)
			return
		}
		defer conn.Close()
		source <- conn.RemoteAddr().(*net.TCPAddr).AddrPort().Addr().Unmap()
		io.WriteString(conn, "hello")
	}()
	err := from.Do(func() error {
		conn, err := net.DialTimeout("tcp", listener.Addr().String(), 2*time.Second)
		if err != nil {
			return err
		}
		defer conn.Close()
		conn.SetDeadline(time.Now().Add(2 * time.Second))
		_, err = io.ReadFull(conn, make([]byte, 5))
		return err
	})
	if err != nil {
		return netip.Addr{}, err
	}
	return <-source, nil
}

func must[T any](t *testing.T) func(T, error) T {
	t.Helper()
	return func(value T, err error) T {
		t.Helper()
		check0(t, err)
		return value
	}
}

func check0(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func address(t *testing.T, text string) *netlink.Addr {
	t.Helper()
	return must[*netlink.Addr](t)(netlink.ParseAddr(text))
}

func mac(t *testing.T, text string) net.HardwareAddr {
	t.Helper()
	return must[net.HardwareAddr](t)(net.ParseMAC(text))
}
