//go:build node

package sim_test

import (
	"bufio"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/nearpath/nearpath/bpf"
	"github.com/nearpath/nearpath/internal/aliyun"
	"github.com/nearpath/nearpath/internal/aliyun/sim"
	"github.com/nearpath/nearpath/test/netlab"
)

const patience = 10 * time.Second

// A world is a VPC with machines in namespaces of their own.
type world struct {
	t     *testing.T
	lab   *netlab.Lab
	vpcNS *netlab.NetNS
	vpc   *sim.VPC
	cloud *sim.Cloud
	ecs   *aliyun.ECS
}

// newWorld makes a VPC; with a nil guard nothing is dropped. It proves at the end that nothing is left.
func newWorld(t *testing.T, prefix string, guard sim.SourceGuard) *world {
	t.Helper()
	before := inventory(t, prefix)
	lab, err := netlab.New(prefix)
	if err != nil {
		t.Fatal(err)
	}
	w := &world{t: t, lab: lab}
	t.Cleanup(func() {
		w.close()
		if left := before.Diff(inventory(t, prefix)); len(left) > 0 {
			t.Errorf("left behind:\n%s", strings.Join(left, "\n"))
		}
	})
	w.vpcNS = w.namespace("vpc")
	if w.vpc, err = sim.NewVPC(sim.VPCConfig{NetNS: w.vpcNS.Path(), Guard: guard}); err != nil {
		t.Fatal(err)
	}
	cfg := sim.DefaultConfig()
	cfg.Fabric = w.vpc
	if w.cloud, err = sim.New(cfg); err != nil {
		t.Fatal(err)
	}
	api := httptest.NewServer(w.cloud.Handler())
	t.Cleanup(api.Close)
	creds := aliyun.StaticCredentials{AccessKeyID: sim.DefaultAccessKey, AccessKeySecret: sim.DefaultAccessSecret}
	if w.ecs, err = aliyun.NewECS(aliyun.Config{RegionID: sim.DefaultRegion, Endpoint: api.URL, Credentials: creds}); err != nil {
		t.Fatal(err)
	}
	return w
}

// A bookkeeper is a guard that knows what it was told and not taken back.
type bookkeeper struct {
	sim.SourceGuard
	mu   sync.Mutex
	held map[string]bool
}

func (b *bookkeeper) note(held bool, what ...any) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if held {
		b.held[fmt.Sprintln(what...)] = true
	} else {
		delete(b.held, fmt.Sprintln(what...))
	}
}

func (b *bookkeeper) Attach(ifindex int) error {
	b.note(true, "link", ifindex)
	return b.SourceGuard.Attach(ifindex)
}

func (b *bookkeeper) Detach(ifindex int) error {
	b.note(false, "link", ifindex)
	return b.SourceGuard.Detach(ifindex)
}

func (b *bookkeeper) Allow(ifindex int, addr netip.Addr) error {
	b.note(true, "address", ifindex, addr)
	return b.SourceGuard.Allow(ifindex, addr)
}

func (b *bookkeeper) Deny(ifindex int, addr netip.Addr) error {
	b.note(false, "address", ifindex, addr)
	return b.SourceGuard.Deny(ifindex, addr)
}

// newGuard returns the guard of the BPF programs, and proves at the end that nothing in it was forgotten.
func newGuard(t *testing.T) sim.SourceGuard {
	t.Helper()
	guard, err := bpf.NewSourceGuard()
	if err != nil {
		t.Fatal(err)
	}
	b := &bookkeeper{SourceGuard: guard, held: map[string]bool{}}
	t.Cleanup(func() {
		if err := guard.Close(); err != nil {
			t.Error(err)
		}
		if len(b.held) > 0 {
			t.Errorf("left in the guard: %q", slices.Sorted(maps.Keys(b.held)))
		}
	})
	return b
}

func inventory(t *testing.T, prefix string) netlab.Inventory {
	t.Helper()
	inv, err := netlab.TakeInventory()
	if err != nil {
		t.Fatal(err)
	}
	return inv.Containing(prefix)
}

// close takes everything away in the order a user would and looks at what is left in the VPC.
func (w *world) close() {
	if w.cloud != nil {
		if err := w.cloud.Close(); err != nil {
			w.t.Error(err)
		}
	}
	if w.vpc != nil {
		if err := w.vpc.Close(); err != nil {
			w.t.Error(err)
		}
		if links := w.links(w.vpcNS); !slices.Equal(links, []string{"lo"}) {
			w.t.Errorf("links left in the VPC: %v", links)
		}
	}
	if err := w.lab.Close(); err != nil {
		w.t.Error(err)
	}
}

// namespace makes one without IPv6, whose own frames would be counted as drops.
func (w *world) namespace(name string) *netlab.NetNS {
	w.t.Helper()
	ns, err := w.lab.NetNS(name)
	if err != nil {
		w.t.Fatal(err)
	}
	w.in(ns, func() error { return os.WriteFile("/proc/sys/net/ipv6/conf/default/disable_ipv6", []byte("1"), 0o644) })
	return ns
}

func (w *world) in(ns *netlab.NetNS, fn func() error) {
	w.t.Helper()
	if err := ns.Do(fn); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) links(ns *netlab.NetNS) (names []string) {
	w.t.Helper()
	w.in(ns, func() error {
		links, err := netlink.LinkList()
		for _, l := range links {
			names = append(names, l.Attrs().Name)
		}
		return err
	})
	slices.Sort(names)
	return names
}

// run starts a machine in a namespace of its own.
func (w *world) run(id string) (*netlab.NetNS, aliyun.ENI) {
	w.t.Helper()
	ns := w.namespace(id)
	_, eni, err := w.cloud.RunInstance(w.t.Context(), sim.InstanceSpec{
		ID: id, Type: "ecs.sim.xlarge", VSwitchID: sim.DefaultNodeVSwitch, NetNS: ns.Path(),
	})
	if err != nil {
		w.t.Fatal(err)
	}
	return ns, eni
}

// attach makes an ENI for pods and attaches it through the API.
func (w *world) attach(instance string, secondaries int) aliyun.ENI {
	w.t.Helper()
	eni, err := w.ecs.CreateENI(w.t.Context(), aliyun.CreateENI{
		VSwitchID: sim.DefaultPodVSwitch, SecurityGroupIDs: []string{sim.DefaultSecurityGroup}, SecondaryIPs: secondaries,
	})
	if err != nil {
		w.t.Fatal(err)
	}
	if err := w.ecs.AttachENI(w.t.Context(), eni.ID, instance); err != nil {
		w.t.Fatal(err)
	}
	return eni
}

// use gives the machine an address on the link with the MAC, and routes what comes from it by the vSwitch's gateway. It
// returns when both ends of the link pass frames; before, the kernel drops them.
func (w *world) use(ns *netlab.NetNS, mac string, addr netip.Addr) {
	w.t.Helper()
	w.in(ns, func() error {
		link, err := linkByMAC(mac)
		if err != nil {
			return err
		}
		if err := netlink.AddrReplace(link, &netlink.Addr{IPNet: host(addr)}); err != nil {
			return err
		}
		if err := netlink.LinkSetUp(link); err != nil {
			return err
		}
		index := link.Attrs().Index
		route := &netlink.Route{
			LinkIndex: index, Gw: net.IPv4(10, 0, 79, 253), Table: 1000 + index, Flags: int(netlink.FLAG_ONLINK),
		}
		if err := netlink.RouteReplace(route); err != nil {
			return err
		}
		rule := netlink.NewRule()
		rule.Src, rule.Table = host(addr), 1000+index
		return netlink.RuleAdd(rule)
	})
	w.waitForLinks(ns)
	w.waitForLinks(w.vpcNS)
}

// waitForLinks waits until every link that has a carrier is operational.
func (w *world) waitForLinks(ns *netlab.NetNS) {
	w.t.Helper()
	w.in(ns, func() error {
		for start := time.Now(); ; time.Sleep(time.Millisecond) {
			links, err := netlink.LinkList()
			if err != nil {
				return err
			}
			waiting := slices.IndexFunc(links, func(l netlink.Link) bool {
				a := l.Attrs()
				return a.Name != "lo" && a.RawFlags&unix.IFF_LOWER_UP != 0 && a.OperState != netlink.OperUp
			})
			if waiting < 0 {
				return nil
			}
			if time.Since(start) > patience {
				return fmt.Errorf("%s does not become operational", links[waiting].Attrs().Name)
			}
		}
	})
}

func host(a netip.Addr) *net.IPNet {
	return &net.IPNet{IP: a.AsSlice(), Mask: net.CIDRMask(32, 32)}
}

func linkByMAC(mac string) (netlink.Link, error) {
	links, err := netlink.LinkList()
	if err != nil {
		return nil, err
	}
	for _, l := range links {
		if l.Attrs().HardwareAddr.String() == mac {
			return l, nil
		}
	}
	return nil, fmt.Errorf("no link has the MAC %s", mac)
}

// socket opens a UDP socket inside the namespace.
func (w *world) socket(ns *netlab.NetNS, addr netip.Addr) net.PacketConn {
	w.t.Helper()
	var pc net.PacketConn
	w.in(ns, func() (err error) {
		pc, err = net.ListenPacket("udp4", netip.AddrPortFrom(addr, 0).String())
		return err
	})
	w.t.Cleanup(func() { pc.Close() })
	if err := pc.SetDeadline(time.Now().Add(patience)); err != nil {
		w.t.Fatal(err)
	}
	return pc
}

func send(t *testing.T, from, to net.PacketConn, text string) {
	t.Helper()
	if _, err := from.WriteTo([]byte(text), to.LocalAddr()); err != nil {
		t.Fatal(err)
	}
}

// receive returns what comes and requires that it comes from the socket.
func receive(t *testing.T, at, from net.PacketConn) string {
	t.Helper()
	buf := make([]byte, 100)
	n, peer, err := at.ReadFrom(buf)
	if err != nil {
		t.Fatalf("receive at %s: %v", at.LocalAddr(), err)
	}
	if peer.String() != from.LocalAddr().String() {
		t.Errorf("%q came from %s, want %s", buf[:n], peer, from.LocalAddr())
	}
	return string(buf[:n])
}

func exchange(t *testing.T, a, b net.PacketConn) {
	t.Helper()
	send(t, a, b, "ping")
	if got := receive(t, b, a); got != "ping" {
		t.Errorf("%s received %q", b.LocalAddr(), got)
	}
	send(t, b, a, "pong")
	if got := receive(t, a, b); got != "pong" {
		t.Errorf("%s received %q", a.LocalAddr(), got)
	}
}

func TestTrafficBetweenENIs(t *testing.T) {
	w := newWorld(t, "nptest-vpc-traffic", newGuard(t))
	ns1, primary1 := w.run("i-1")
	ns2, primary2 := w.run("i-2")

	t.Run("primary to primary, as neighbours", func(t *testing.T) {
		exchange(t, w.socket(ns1, primary1.PrimaryIP), w.socket(ns2, primary2.PrimaryIP))
	})
	eni1, eni2 := w.attach("i-1", 1), w.attach("i-2", 1)
	pod1, pod2 := eni1.PrivateIPs[1], eni2.PrivateIPs[1]
	w.use(ns1, eni1.MAC, pod1)
	w.use(ns2, eni2.MAC, pod2)
	t.Run("secondary to secondary, by the gateway", func(t *testing.T) {
		exchange(t, w.socket(ns1, pod1), w.socket(ns2, pod2))
	})
	t.Run("secondary to primary, across vSwitches", func(t *testing.T) {
		exchange(t, w.socket(ns1, pod1), w.socket(ns2, primary2.PrimaryIP))
	})
	t.Run("address assigned later", func(t *testing.T) {
		added, err := w.ecs.AssignIPs(t.Context(), eni1.ID, 1, "")
		if err != nil {
			t.Fatal(err)
		}
		w.use(ns1, eni1.MAC, added[0])
		exchange(t, w.socket(ns1, added[0]), w.socket(ns2, pod2))
	})
	for _, id := range []string{primary1.ID, primary2.ID, eni1.ID, eni2.ID} {
		if n, err := w.vpc.Dropped(id); err != nil || n != 0 {
			t.Errorf("%d frames of %s were dropped, %v", n, id, err)
		}
	}
}

// The same frame from an address that is not the ENI's passes without the guard, and is dropped and counted with it.
func TestForeignSource(t *testing.T) {
	for _, guarded := range []bool{true, false} {
		t.Run(fmt.Sprintf("guarded %v", guarded), func(t *testing.T) {
			var guard sim.SourceGuard
			if guarded {
				guard = newGuard(t)
			}
			w := newWorld(t, "nptest-vpc-foreign", guard)
			ns1, primary1 := w.run("i-1")
			ns2, primary2 := w.run("i-2")
			eni := w.attach("i-1", 1)
			given := eni.PrivateIPs[1]
			w.use(ns1, eni.MAC, given)
			pod, machine, target := w.socket(ns1, given), w.socket(ns1, primary1.PrimaryIP), w.socket(ns2, primary2.PrimaryIP)
			exchange(t, pod, target)

			if err := w.ecs.UnassignIPs(t.Context(), eni.ID, []netip.Addr{given}); err != nil {
				t.Fatal(err)
			}
			const frames = 3
			for range frames {
				send(t, pod, target, "foreign")
			}
			if !guarded {
				if got := receive(t, target, pod); got != "foreign" {
					t.Errorf("received %q", got)
				}
				return
			}
			// Frames keep their order, so the first to arrive shows whether one before it did.
			send(t, machine, target, "own")
			if got := receive(t, target, machine); got != "own" {
				t.Errorf("received %q, want only what has a source of its ENI", got)
			}
			if n, err := w.vpc.Dropped(eni.ID); err != nil || n != frames {
				t.Errorf("%d frames are counted as dropped, %v; want %d", n, err, frames)
			}
		})
	}
}

// What is not an address of an ENI any more is not reachable, whoever still has it on a link.
func TestUnassignedAddressIsUnreachable(t *testing.T) {
	w := newWorld(t, "nptest-vpc-unassign", nil)
	ns1, primary1 := w.run("i-1")
	ns2, _ := w.run("i-2")
	eni := w.attach("i-2", 2)
	kept, taken := eni.PrivateIPs[1], eni.PrivateIPs[2]
	w.use(ns2, eni.MAC, kept)
	w.use(ns2, eni.MAC, taken)
	if err := w.ecs.UnassignIPs(t.Context(), eni.ID, []netip.Addr{taken}); err != nil {
		t.Fatal(err)
	}
	from := w.socket(ns1, primary1.PrimaryIP)
	gone, there := w.socket(ns2, taken), w.socket(ns2, kept)
	send(t, from, gone, "lost")
	exchange(t, from, there) // passes the same way after it
	if err := gone.SetReadDeadline(time.Now().Add(50 * time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	if n, _, err := gone.ReadFrom(make([]byte, 10)); err == nil {
		t.Errorf("%d bytes reached %s", n, taken)
	}
}

func TestMetadataFromInstances(t *testing.T) {
	w := newWorld(t, "nptest-vpc-metadata", newGuard(t))
	listener, err := w.vpc.Listen(t.Context(), "tcp4", netip.AddrPortFrom(sim.MetadataAddr, 80).String())
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: w.cloud.Handler()}
	done := make(chan error)
	go func() { done <- server.Serve(listener) }()
	t.Cleanup(func() {
		_ = server.Close()
		<-done
	})
	for _, id := range []string{"i-1", "i-2"} {
		ns, _ := w.run(id)
		if got := w.metadata(ns, netip.Addr{}, "instance-id"); got != id {
			t.Errorf("metadata tells %s that it is %q", id, got)
		}
		// A pod's address belongs to the machine too.
		eni := w.attach(id, 1)
		w.use(ns, eni.MAC, eni.PrivateIPs[1])
		if got := w.metadata(ns, eni.PrivateIPs[1], "instance-id"); got != id {
			t.Errorf("metadata tells a pod of %s that it is on %q", id, got)
		}
		want := fmt.Sprintf("[%q,%q]", eni.PrivateIPs[0], eni.PrivateIPs[1])
		if got := w.metadata(ns, netip.Addr{}, "network/interfaces/macs/"+eni.MAC+"/private-ipv4s"); got != want {
			t.Errorf("metadata lists the addresses %s, want %s", got, want)
		}
	}
}

// metadata asks from inside the namespace, from the address if one is given.
func (w *world) metadata(ns *netlab.NetNS, from netip.Addr, key string) string {
	w.t.Helper()
	var conn net.Conn
	w.in(ns, func() (err error) {
		dialer := net.Dialer{Timeout: patience}
		if from.IsValid() {
			dialer.LocalAddr = net.TCPAddrFromAddrPort(netip.AddrPortFrom(from, 0))
		}
		conn, err = dialer.Dial("tcp4", netip.AddrPortFrom(sim.MetadataAddr, 80).String())
		return err
	})
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
		w.t.Fatal(err)
	}
	fmt.Fprintf(conn, "GET /latest/meta-data/%s HTTP/1.0\r\n\r\n", key)
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		w.t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		w.t.Fatalf("metadata %s: status %d, %v", key, resp.StatusCode, err)
	}
	return string(body)
}

func TestLinksComeAndGo(t *testing.T) {
	w := newWorld(t, "nptest-vpc-links", newGuard(t))
	ns, primary := w.run("i-1")
	expect := func(machine ...string) {
		t.Helper()
		if got := w.links(ns); !slices.Equal(got, machine) {
			t.Errorf("the machine has %v, want %v", got, machine)
		}
		if got := w.links(w.vpcNS); len(got) != len(machine) {
			t.Errorf("the VPC has %v for %v", got, machine)
		}
	}
	expect("eth0", "lo")
	first, second := w.attach("i-1", 0), w.attach("i-1", 0)
	expect("eth0", "eth1", "eth2", "lo")
	w.in(ns, func() error {
		for name, eni := range map[string]aliyun.ENI{"eth0": primary, "eth1": first, "eth2": second} {
			link, err := linkByMAC(eni.MAC)
			if err != nil {
				return err
			}
			if link.Attrs().Name != name || link.Attrs().MTU != 1500 {
				t.Errorf("%s is %s with MTU %d, want %s with 1500", eni.MAC, link.Attrs().Name, link.Attrs().MTU, name)
			}
			if up := link.Attrs().Flags&net.FlagUp != 0; up != (name == "eth0") {
				t.Errorf("%s up: %v", name, up)
			}
		}
		return nil
	})
	if err := w.ecs.DetachENI(t.Context(), first.ID, "i-1"); err != nil {
		t.Fatal(err)
	}
	expect("eth0", "eth2", "lo")
	w.attach("i-1", 0)
	expect("eth0", "eth1", "eth2", "lo")
	if err := w.cloud.TerminateInstance(t.Context(), "i-1"); err != nil {
		t.Fatal(err)
	}
	expect("lo")
	w.in(w.vpcNS, func() error {
		routes, err := netlink.RouteList(nil, netlink.FAMILY_V4)
		for _, r := range routes {
			if r.LinkIndex != 0 {
				t.Errorf("route left in the VPC: %s", r)
			}
		}
		return err
	})
}

// The namespace of a machine may go before the machine: its links go with it, and nothing else minds.
func TestMachineVanishes(t *testing.T) {
	w := newWorld(t, "nptest-vpc-vanish", newGuard(t))
	ns1, _ := w.run("i-1")
	ns2, primary2 := w.run("i-2")
	eni := w.attach("i-1", 3)
	if err := ns1.Close(); err != nil {
		t.Fatal(err)
	}
	for start := time.Now(); len(w.links(w.vpcNS)) != 2; time.Sleep(5 * time.Millisecond) { // lo and the port of i-2
		if time.Since(start) > patience {
			t.Fatalf("the VPC still has %v", w.links(w.vpcNS))
		}
	}
	if err := w.ecs.DetachENI(t.Context(), eni.ID, "i-1"); err != nil {
		t.Errorf("detach: %v", err)
	}
	enis, err := w.ecs.DescribeENIs(t.Context(), aliyun.ENIFilter{IDs: []string{eni.ID}})
	if err != nil || len(enis) != 1 || enis[0].Status != aliyun.StatusAvailable {
		t.Errorf("after detach: %+v, %v", enis, err)
	}
	if err := w.cloud.TerminateInstance(t.Context(), "i-1"); err != nil {
		t.Errorf("terminate: %v", err)
	}
	if err := w.ecs.AttachENI(t.Context(), eni.ID, "i-2"); err != nil {
		t.Fatal(err)
	}
	w.use(ns2, eni.MAC, eni.PrivateIPs[1])
	ns3, primary3 := w.run("i-3")
	exchange(t, w.socket(ns2, eni.PrivateIPs[1]), w.socket(ns3, primary3.PrimaryIP))
	exchange(t, w.socket(ns3, primary3.PrimaryIP), w.socket(ns2, primary2.PrimaryIP))
}

// A link that cannot be made leaves nothing, and the attachment falls back.
func TestPlugFails(t *testing.T) {
	w := newWorld(t, "nptest-vpc-fail", newGuard(t))
	before := w.links(w.vpcNS)
	_, _, err := w.cloud.RunInstance(t.Context(), sim.InstanceSpec{
		ID: "i-1", Type: "ecs.sim.small", VSwitchID: sim.DefaultNodeVSwitch, NetNS: "/run/netns/nptest-none",
	})
	if err == nil {
		t.Error("an instance runs in a namespace that does not exist")
	}
	ns := w.namespace("taken")
	w.in(ns, func() error {
		return netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "eth0"}, PeerName: "other"})
	})
	_, _, err = w.cloud.RunInstance(t.Context(), sim.InstanceSpec{
		ID: "i-1", Type: "ecs.sim.small", VSwitchID: sim.DefaultNodeVSwitch, NetNS: ns.Path(),
	})
	if err == nil {
		t.Error("an instance runs although eth0 is taken")
	}
	if after := w.links(w.vpcNS); !slices.Equal(before, after) {
		t.Errorf("the VPC has %v, had %v", after, before)
	}
	if enis := w.cloud.ENIs(); len(enis) != 0 {
		t.Errorf("ENIs left: %+v", enis)
	}
}
