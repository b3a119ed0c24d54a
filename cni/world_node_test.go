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
	"slices"
	"testing"
	"time"

	types100 "github.com/containernetworking/cni/pkg/types/100"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/nearpath/nearpath/bpf"
	"github.com/nearpath/nearpath/internal/agentapi"
	"github.com/nearpath/nearpath/internal/aliyun/sim"
	"github.com/nearpath/nearpath/internal/hostnet"
	"github.com/nearpath/nearpath/test/netlab"
)

// Addresses of the world: the node's uplink and its ENIs are in different vSwitches of one VPC, in which there is also a
// host outside.
const (
	uplinkAddr, uplinkAddr6 = "10.8.0.2", "fd08::2"
	nodeDNS                 = "169.254.20.10"
	outside, outside6       = "192.0.2.1", "2001:db8::1"
	uplinkMTU               = 1400
)

var (
	nodeNets = []sim.Net{net4("10.8.0.0/24", "10.8.0.253"), net4("fd08::/64", "fd08::253")}
	podNets  = []sim.Net{net4("10.9.0.0/24", "10.9.0.253"), net4("fd09::/64", "fd09::253")}
)

func net4(subnet, gateway string) sim.Net {
	return sim.Net{Subnet: netip.MustParsePrefix(subnet), Gateway: netip.MustParseAddr(gateway)}
}

// A world is a node with an uplink, an ENI that pods share and two that they do not, and the VPC they end in.
type world struct {
	lab       *netlab.Lab
	fabric    *sim.VPC
	vpc, node *netlab.NetNS
	host      *hostnet.Host
	addresses *fakeAddresses
	pods      *fakePods
	shaper    *fakeShaper
	config    Config
	server    *Server
	records   string
	linkNames map[int]string // of pods' links, by index; guarded by pods
}

func newWorld(t *testing.T) *world {
	t.Helper()
	lab := must[*netlab.Lab](t)(netlab.New("npcni"))
	t.Cleanup(func() { check0(t, lab.Close()) })
	w := &world{
		lab: lab, vpc: must[*netlab.NetNS](t)(lab.NetNS("vpc")), node: must[*netlab.NetNS](t)(lab.NetNS("node")),
		addresses: newFakeAddresses(), pods: newFakePods(), shaper: &fakeShaper{}, linkNames: map[int]string{}, records: filepath.Join(t.TempDir(), "pods"),
	}
	w.build(t)
	w.host = must[*hostnet.Host](t)(hostnet.New(hostnet.Config{
		NetNS: w.node.Path(), NodeDNS: []netip.Addr{netip.MustParseAddr(nodeDNS)}, Log: slog.New(slog.DiscardHandler),
	}))
	t.Cleanup(func() { check0(t, w.host.Close()) })
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	shared := hostnet.ENI{MAC: mac(0), Slot: 1}
	for _, n := range podNets {
		shared.Nets = append(shared.Nets, hostnet.Net(n))
	}
	check0(t, w.host.EnsureENI(ctx, shared))
	w.addresses.lease(shared.MAC, shared.Nets)
	w.pods.route = w.routePod
	w.config = Config{
		Addresses: w.addresses, Pods: w.pods, ENIs: w.host, Shaper: w.shaper, NetNS: w.node.Path(), MTU: w.host.MTU,
		Records: w.records, Log: slog.New(slog.DiscardHandler),
	}
	w.serve(t)
	return w
}

// serve makes the server anew, as configured by now.
func (w *world) serve(t *testing.T) {
	t.Helper()
	s := must[*Server](t)(NewServer(w.config))
	t.Cleanup(func() { check0(t, s.Close()) })
	w.server = s
}

// build makes the VPC and plugs the node's interfaces.
func (w *world) build(t *testing.T) {
	t.Helper()
	guard := must[*bpf.SourceGuard](t)(bpf.NewSourceGuard())
	t.Cleanup(func() { check0(t, guard.Close()) })
	w.fabric = must[*sim.VPC](t)(sim.NewVPC(sim.VPCConfig{
		NetNS: w.vpc.Path(), Guard: guard, Addrs: []netip.Addr{netip.MustParseAddr(outside)},
	}))
	t.Cleanup(func() { check0(t, w.fabric.Close()) })
	for _, n := range slices.Concat(nodeNets, podNets) {
		check0(t, w.fabric.AddVSwitch(n))
	}
	check0(t, w.vpc.Do(func() error {
		return withLink("lo", func(l netlink.Link) error { return netlink.AddrAdd(l, address(t, outside6+"/128")) })
	}))
	w.plug(t, "eni-primary", "00:16:3e:00:00:ff", true, nodeNets, uplinkAddr, uplinkAddr6)
	var pods []string
	for i := range 20 {
		pods = append(pods, fmt.Sprintf("10.9.0.%d", 10+i), fmt.Sprintf("fd09::%x", 10+i))
	}
	w.plug(t, "eni-0", mac(0), false, podNets, pods...)
	for i := 1; i <= wholeENIs; i++ {
		whole := wholeLease(i)
		w.plug(t, fmt.Sprintf("eni-%d", i), mac(i), false, podNets, whole.Addrs[0].String(), whole.Addrs[1].String())
	}
	check0(t, w.node.Do(func() error {
		check0(t, SetSysctl{OnHost, "net/ipv6/conf/all/forwarding", "1", false}.write())
		return withLink("eth0", func(up netlink.Link) error {
			a := address(t, uplinkAddr6+"/64")
			a.Flags = unix.IFA_F_NODAD
			check0(t, netlink.AddrAdd(up, a))
			check0(t, netlink.LinkSetMTU(up, uplinkMTU))
			return netlink.RouteAdd(&netlink.Route{LinkIndex: up.Attrs().Index, Gw: net.ParseIP("fd08::253")})
		})
	}))
}

func (w *world) plug(t *testing.T, id, mac string, primary bool, nets []sim.Net, addrs ...string) {
	t.Helper()
	p := sim.Port{ENIID: id, MAC: mac, NetNS: w.node.Path(), Primary: primary, Nets: nets}
	for _, a := range addrs {
		p.Addrs = append(p.Addrs, netip.MustParseAddr(a))
	}
	check0(t, w.fabric.Plug(p))
}

// routePod stands for the program that marks what a pod sends: it leaves by the shared ENI.
func (w *world) routePod(e PodEntry, add bool) error {
	if e.Datapath != Veth || e.Link == 0 {
		return nil
	}
	return w.node.Do(func() error {
		rule := netlink.NewRule()
		rule.IifName, rule.Priority, rule.Table = w.linkNames[e.Link], hostnet.PriorityPod, hostnet.Table(e.Slot)
		if add {
			l, err := netlink.LinkByIndex(e.Link)
			if err != nil {
				return err
			}
			rule.IifName = l.Attrs().Name
			w.linkNames[e.Link] = rule.IifName
		}
		for _, rule.Family = range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
			err := gone(netlink.RuleDel(rule))
			if err == nil && add {
				err = netlink.RuleAdd(rule)
			}
			if err != nil {
				return err
			}
		}
		return nil
	})
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

// on is the request for a pod of the datapath.
func on(datapath Datapath, r agentapi.CNIRequest) agentapi.CNIRequest {
	r.Config = config("1.1.0", fmt.Sprintf(`,"datapath":%q`, datapath))
	return r
}

// add makes a pod and returns its namespace and IPv4 address.
func (w *world) add(t *testing.T, name string) (*netlab.NetNS, netip.Addr) {
	t.Helper()
	return w.addOn(t, Veth, name)
}

func (w *world) addOn(t *testing.T, datapath Datapath, name string) (*netlab.NetNS, netip.Addr) {
	t.Helper()
	pod := must[*netlab.NetNS](t)(w.lab.NetNS(name))
	return pod, addressesIn(t, w.mustServe(t, on(datapath, request("ADD", name, pod))))[0]
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

func addressesIn(t *testing.T, raw json.RawMessage) (addrs []netip.Addr) {
	t.Helper()
	result := &types100.Result{}
	check0(t, json.Unmarshal(raw, result))
	for _, ip := range result.IPs {
		addrs = append(addrs, addressOf(&ip.Address))
	}
	return addrs
}

func addressIn(t *testing.T, raw json.RawMessage) netip.Addr {
	t.Helper()
	return addressesIn(t, raw)[0]
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
		conn, err := net.DialTimeout("tcp", listener.Addr().String(), patience)
		if err != nil {
			return err
		}
		defer conn.Close()
		conn.SetDeadline(time.Now().Add(patience))
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
