//go:build node

package hostnet

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/nearpath/nearpath/test/netlab"
)

// places are the addresses of one family in the site.
type places struct {
	node, pod       string // prefixes
	uplink, eni     string // gateways
	outside, inside string // hosts behind both gateways: outside the VPC and in it
	vpc             string
}

var dualStack = map[Family]places{
	IPv4: {
		node: "10.8.0.2/24", pod: "10.9.0.10/24", uplink: "10.8.0.253", eni: "10.9.0.253",
		outside: "192.0.2.1", inside: "10.99.0.1", vpc: "10.8.0.0/13",
	},
	IPv6: {
		node: "fd00:8::2/64", pod: "fd00:9::10/64", uplink: "fd00:8::253", eni: "fd00:9::253",
		outside: "2001:db8::1", inside: "fd00:99::1", vpc: "fd00::/16",
	},
}

// A site is a node with an uplink, an ENI and a pod, and the VPC and the Internet in one namespace. As in a VPC, nothing
// with a pod's address is taken from the uplink.
type site struct {
	far, node, pod *netlab.NetNS
	host           *Host
	stop           func() // ends the host's Run; again does nothing

	mu      sync.Mutex
	reports []report
}

// datapath is the nftables table that does here what the program on a pod's link does.
const datapath = "datapath"

// markPods marks what comes from the pod's link as of slot 1.
func markPods() error {
	c := &nftables.Conn{}
	table := c.AddTable(&nftables.Table{Name: datapath, Family: nftables.TableFamilyINet})
	chain := c.AddChain(&nftables.Chain{
		Name: "mark", Table: table, Type: nftables.ChainTypeFilter, Hooknum: nftables.ChainHookPrerouting, Priority: nftables.ChainPriorityRaw,
	})
	c.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: []expr.Any{
		&expr.Meta{Key: expr.MetaKeyIIFNAME, Register: 1},
		&expr.Cmp{Register: 1, Op: expr.CmpOpEq, Data: append([]byte("np0"), make([]byte, 13)...)},
		&expr.Immediate{Register: 1, Data: binaryutil.NativeEndian.PutUint32(PodMark(1))},
		&expr.Meta{Key: expr.MetaKeyMARK, SourceRegister: true, Register: 1},
	}})
	return c.Flush()
}

func newSite(t *testing.T) *site {
	t.Helper()
	lab, err := netlab.New("npegress")
	check(t, err)
	t.Cleanup(func() { check(t, lab.Close()) })
	s := &site{}
	for name, n := range map[string]**netlab.NetNS{"far": &s.far, "node": &s.node, "pod": &s.pod} {
		*n, err = lab.NetNS(name)
		check(t, err)
	}
	pair(t, s.far, "up", s.node, "eth0", "02:16:3e:00:00:01")
	pair(t, s.far, "eni", s.node, "eth5", eniMAC)
	pair(t, s.node, "np0", s.pod, "eth0", "02:16:3e:00:00:0a")
	inside(t, s.node, func() error { return up("eth0") }) // the ENI is the host's to bring up
	inside(t, s.pod, func() error { return up("eth0") })
	for _, p := range dualStack {
		s.addresses(t, p)
	}
	// The strictest setting that a distribution may have.
	inside(t, s.node, func() error {
		return errors.Join(markPods(), os.WriteFile("/proc/sys/net/ipv4/conf/all/rp_filter", []byte("1"), 0o644),
			os.WriteFile("/proc/sys/net/ipv4/conf/np0/rp_filter", []byte("2"), 0o644))
	})
	// What the tests do the Host is to see by events.
	s.host, err = New(Config{NetNS: s.node.Path(), Interval: time.Hour, Log: slog.New(slog.DiscardHandler), Report: func(reason, message string) {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.reports = append(s.reports, report{reason, message})
	}})
	check(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.host.Run(ctx) }()
	s.stop = sync.OnceFunc(func() {
		cancel()
		check(t, <-done)
	})
	t.Cleanup(func() {
		s.stop()
		check(t, s.host.Close())
	})
	mustEnsure(t, s.host, s.eni())
	return s
}

func (s *site) eni() ENI {
	e := ENI{MAC: eniMAC, Slot: 1}
	for _, f := range []Family{IPv4, IPv6} {
		p := dualStack[f]
		e.Nets = append(e.Nets, Net{netip.MustParsePrefix(p.pod).Masked(), netip.MustParseAddr(p.eni)})
	}
	return e
}

// pair makes two links that are up; the second has the MAC address.
func pair(t *testing.T, a *netlab.NetNS, aName string, b *netlab.NetNS, bName, mac string) {
	t.Helper()
	hw, err := net.ParseMAC(mac)
	check(t, err)
	other, err := unix.Open(b.Path(), unix.O_RDONLY|unix.O_CLOEXEC, 0)
	check(t, err)
	defer unix.Close(other)
	inside(t, a, func() error {
		attrs := netlink.NewLinkAttrs()
		attrs.Name = aName
		veth := netlink.NewVeth(attrs)
		veth.PeerName, veth.PeerNamespace, veth.PeerHardwareAddr = bName, netlink.NsFd(other), hw
		return errors.Join(netlink.LinkAdd(veth), up(aName), up("lo"))
	})
	inside(t, b, func() error { return up("lo") })
}

func up(name string) error {
	l, err := netlink.LinkByName(name)
	if err != nil {
		return err
	}
	return netlink.LinkSetUp(l)
}

func (s *site) addresses(t *testing.T, p places) {
	t.Helper()
	pod := netip.MustParsePrefix(p.pod).Addr()
	host := func(a string) string { x := netip.MustParseAddr(a); return netip.PrefixFrom(x, x.BitLen()).String() }
	bits := fmt.Sprint("/", netip.MustParsePrefix(p.node).Bits())
	everything := netip.PrefixFrom(pod, 0).Masked().String()
	inside(t, s.far, func() error {
		drop := netlink.NewRule()
		drop.Family, drop.Priority, drop.IifName, drop.Type = familyOf(pod).kernel(), 10, "up", unix.FR_ACT_BLACKHOLE
		drop.Src = ipNet(netip.MustParsePrefix(p.pod).Masked())
		return errors.Join(address("lo", host(p.outside)), address("lo", host(p.inside)),
			address("up", p.uplink+bits), address("eni", p.eni+bits), neighbour("eni", pod, eniMAC),
			netlink.RuleAdd(drop), netlink.RuleAdd(local(drop.Family, 20)), netlink.RuleDel(local(drop.Family, 0)))
	})
	inside(t, s.node, func() error {
		return errors.Join(address("eth0", p.node), route("eth0", everything, p.uplink), route("np0", host(pod.String()), ""),
			neighbour("np0", pod, "02:16:3e:00:00:0a"))
	})
	inside(t, s.pod, func() error {
		return errors.Join(address("eth0", host(pod.String())), route("eth0", everything, p.eni), neighbour("eth0", netip.MustParseAddr(p.eni), s.mac(t, "np0")))
	})
}

// local is the rule for the namespace's own addresses, which comes first of all unless it is moved.
func local(family, priority int) *netlink.Rule {
	r := netlink.NewRule()
	r.Family, r.Priority, r.Table = family, priority, unix.RT_TABLE_LOCAL
	return r
}

func (s *site) mac(t *testing.T, name string) (mac string) {
	t.Helper()
	inside(t, s.node, func() error {
		l, err := netlink.LinkByName(name)
		if err == nil {
			mac = l.Attrs().HardwareAddr.String()
		}
		return err
	})
	return mac
}

// address adds one that needs no duplicate address detection.
func address(link, prefix string) error {
	l, err := netlink.LinkByName(link)
	if err != nil {
		return err
	}
	a, err := netlink.ParseAddr(prefix)
	if err != nil {
		return err
	}
	a.Flags = unix.IFA_F_NODAD
	return netlink.AddrAdd(l, a)
}

func route(link, dst, gateway string) error {
	l, err := netlink.LinkByName(link)
	if err != nil {
		return err
	}
	r := &netlink.Route{LinkIndex: l.Attrs().Index, Dst: ipNet(netip.MustParsePrefix(dst)), Scope: netlink.SCOPE_LINK}
	if gateway != "" {
		r.Priority = 100
		r.Gw, r.Flags, r.Scope = netip.MustParseAddr(gateway).AsSlice(), int(netlink.FLAG_ONLINK), netlink.SCOPE_UNIVERSE
	}
	return netlink.RouteAdd(r)
}

func neighbour(link string, addr netip.Addr, mac string) error {
	l, err := netlink.LinkByName(link)
	if err != nil {
		return err
	}
	hw, err := net.ParseMAC(mac)
	if err != nil {
		return err
	}
	return netlink.NeighSet(&netlink.Neigh{LinkIndex: l.Attrs().Index, IP: addr.AsSlice(), HardwareAddr: hw, State: netlink.NUD_PERMANENT})
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

// talk connects over TCP from one namespace to an address in another, and returns who that saw.
func talk(from, to *netlab.NetNS, addr string) (seen netip.Addr, err error) {
	var listener net.Listener
	err = to.Do(func() (err error) {
		listener, err = net.Listen("tcp", net.JoinHostPort(addr, "0"))
		return err
	})
	if err != nil {
		return seen, err
	}
	defer listener.Close()
	accepted := make(chan netip.Addr, 1)
	go func() {
		conn, err := listener.Accept()
		if err != nil {
			return
		}
		defer conn.Close()
		accepted <- conn.RemoteAddr().(*net.TCPAddr).AddrPort().Addr().Unmap()
		_, _ = io.WriteString(conn, "hello")
	}()
	err = from.Do(func() error {
		conn, err := net.DialTimeout("tcp", listener.Addr().String(), 4*time.Second)
		if err != nil {
			return err
		}
		defer conn.Close()
		return errors.Join(conn.SetDeadline(time.Now().Add(4*time.Second)), readFull(conn))
	})
	if err != nil {
		return seen, err
	}
	return <-accepted, nil
}

func readFull(conn net.Conn) error {
	_, err := io.ReadFull(conn, make([]byte, len("hello")))
	return err
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
