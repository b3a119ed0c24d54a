//go:build node

package sim_test

import (
	"bufio"
	"errors"
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

const patience = time.Minute

// A world is a VPC with machines in namespaces of their own.
type world struct {
	t     *testing.T
	lab   *netlab.Lab
	vpcNS *netlab.NetNS
	vpc   *sim.VPC
	cloud *sim.Cloud
	ecs   *aliyun.Client
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
	if w.ecs, err = aliyun.NewClient(aliyun.Config{RegionID: sim.DefaultRegion, Endpoint: api.URL, Credentials: creds}); err != nil {
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
		links, err := listLinks()
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
			links, err := listLinks()
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

// listLinks asks again while links come and go.
func listLinks() ([]netlink.Link, error) {
	for {
		links, err := netlink.LinkList()
		if !errors.Is(err, netlink.ErrDumpInterrupted) {
			return links, err
		}
	}
}

func linkByMAC(mac string) (netlink.Link, error) {
	links, err := listLinks()
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
