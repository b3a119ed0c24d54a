//go:build node

package hostnet

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// A breakage is what somebody does to the node, and what the report of its undoing says.
type breakage struct {
	name   string
	how    func(s *site) error // in the node's namespace
	report string              // "": none, as nothing of ours was changed
}

func breakages() []breakage {
	return []breakage{
		{"rules flushed", flushRules, "pref 2048 fwmark 0x801/0x8ff lookup 1001"},
		{"our routes flushed", flushRoutes(func(r netlink.Route) bool { return r.Protocol == Protocol && r.Table == Table(1) }), "table 1001 had no IPv6 default route"},
		{"table emptied", flushRoutes(func(r netlink.Route) bool { return r.Table == Table(1) }), "table 1001 had no IPv4 default route"},
		{"route taken over", takeRoute, "ip route replace default via 10.9.0.253"},
		{"addresses of the ENI flushed", onENI(flushAddrs), "ip address add 10.8.0.2/32 dev eth5"},
		{"nftables table deleted", deleteTable, "nftables table inet nearpath was missing"},
		{"nftables flushed", flushTables, "nftables table inet nearpath was missing"},
		{"ENI down", onENI(netlink.LinkSetDown), "eth5 was down"},
		{"ENI renamed", renameENI, "theirs was down"},
		{"ENI renamed back", renameENI, "eth5 was down"},
		{"ENI in another group", onENI(func(l netlink.Link) error { return netlink.LinkSetGroup(l, 7) }), "eth5 was in group 7"},
		{"MTU of the ENI", onENI(func(l netlink.Link) error { return netlink.LinkSetMTU(l, 1280) }), "eth5 had MTU 1280"},
		{"uplink in another group", func(*site) error { return on("eth0", func(l netlink.Link) error { return netlink.LinkSetGroup(l, 7) }) }, "eth0 was in group 7"},
		{"default route by the ENI", foreignDefault("eth5", "10.9.0.253"), "ip route del default via 10.9.0.253 dev eth5 metric 10"},
		{"default route by another link", foreignDefault("spare", "10.77.0.253"), ""},
		{"rp_filter of the ENI", setSysctl(rpFilter("eth5"), "1"), rpFilter("eth5") + " was 1"},
		{"rp_filter of the uplink", setSysctl(rpFilter("eth0"), "1"), rpFilter("eth0") + " was 1"},
		{"rp_filter of all", setSysctl(allRPFilter, "1"), ""}, // the larger one counts, and ours is 2
		{"IPv4 forwarding", setSysctl(forwardV4, "0"), forwardV4 + " was 0"},
		{"IPv6 forwarding", setSysctl(forwardV6, "0"), forwardV6 + " was 0"},
		{"IPv6 off on the ENI", setSysctl(disableIPv6("eth5"), "1"), disableIPv6("eth5") + " was 1"},
		{"router advertisements", advertise, acceptRA("eth5") + " was 2"},
		{"node DNS address", removeNodeDNS, "ip address add 169.254.20.10/32 dev lo"},
	}
}

// Whatever somebody does to the node's network, an event has it undone and pods' traffic is back (the figures are printed:
// within a second), and one report says what was changed and how it was put back.
func TestHealing(t *testing.T) {
	s := newSite(t)
	check(t, s.host.SetEgress(s.egress()))
	s.host.mu.Lock()
	s.host.dns = []netip.Addr{netip.MustParseAddr("169.254.20.10")}
	s.host.mu.Unlock()
	inside(t, s.node, func() error {
		return errors.Join(addVeth("spare", otherMAC, 1400), up("spare"), address("spare", "10.77.0.2/24"))
	})
	targets := s.listen(t)
	eventually(t, "address of the ENI's router", func() (ok bool) {
		inside(t, s.far, func() error {
			ok = hasOwnIPv6("eni")
			return nil
		})
		return ok
	})
	for _, b := range breakages() {
		t.Run(b.name, func(t *testing.T) {
			s.settle(t)
			start := time.Now()
			s.breaks(t, b)
			served, whole := start, start
			eventually(t, "traffic and state", func() bool {
				if err := s.reach(targets, b.report != ""); err != nil {
					served = time.Now()
					return false
				}
				whole = time.Now()
				return len(asWanted(t, s.node, s.healthy(b))) == 0
			})
			t.Logf("served again after %v, as wanted after %v", served.Sub(start).Round(time.Millisecond), whole.Sub(start).Round(time.Millisecond))
			s.settle(t)
			s.mustReport(t, b.report)
			inside(t, s.node, func() error { // what the test itself has left
				return errors.Join(markPods(), ignore(on("spare", func(l netlink.Link) error {
					return netlink.RouteDel(foreignRoute(l, "10.77.0.253"))
				}), unix.ESRCH))
			})
		})
	}
}

// breaks does all of a breakage between two comparisons: one that saw half of it would report each half by itself.
func (s *site) breaks(t *testing.T, b breakage) {
	t.Helper()
	s.host.pass.Lock()
	defer s.host.pass.Unlock()
	inside(t, s.node, func() error { return b.how(s) })
}

// healthy is what is wanted once the breakage is undone.
func (s *site) healthy(breakage) Wanted {
	w := s.wanted()
	w.NodeDNS = []netip.Addr{netip.MustParseAddr("169.254.20.10")}
	return w
}

// settle returns when two comparisons in a row had nothing to do, and forgets what was reported.
func (s *site) settle(t *testing.T) {
	t.Helper()
	eventually(t, "nothing to do", func() bool {
		return len(asWanted(t, s.node, s.healthy(breakage{}))) == 0 && s.host.settledBy(s.host.compare())
	})
	s.host.pass.Lock()
	clear(s.host.memory.reported)
	s.host.pass.Unlock()
}

// settledBy says whether all that the host knows of is as wanted.
func (h *Host) settledBy(outcome) bool {
	h.pass.Lock()
	defer h.pass.Unlock()
	return len(h.memory.settled) >= 4 // node, egress, rest and the ENI
}

func (s *site) mustReport(t *testing.T, want string) {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case want == "" && len(s.reports) > 0:
		t.Errorf("reports: %q", s.reports)
	case want != "" && (len(s.reports) != 1 || !strings.Contains(s.reports[0].message, want) || s.reports[0].reason != ReasonUndone):
		t.Errorf("reports: %q, want one with %q", s.reports, want)
	}
	s.reports = nil
}

// A target is a TCP listener and who it should see.
type target struct {
	listener net.Listener
	seen     netip.Addr
	outside  bool
}

// listen listens in the far namespace, inside and outside the VPC, with both families.
func (s *site) listen(t *testing.T) (targets []target) {
	t.Helper()
	for _, p := range dualStack {
		for addr, seen := range map[string]string{p.inside: p.pod, p.outside: p.node} {
			inside(t, s.far, func() error {
				l, err := net.Listen("tcp", net.JoinHostPort(addr, "0"))
				targets = append(targets, target{l, netip.MustParsePrefix(seen).Addr(), addr == p.outside})
				return err
			})
		}
	}
	t.Cleanup(func() {
		for _, x := range targets {
			x.listener.Close()
		}
	})
	return targets
}

// reach connects from the pod to all targets and checks who they see. A lost packet is not sent again.
// The node's own default route decides what is outside, and who sees it.
func (s *site) reach(targets []target, outside bool) error {
	const timeout = 60 * time.Millisecond
	for _, x := range targets {
		if !outside && x.outside {
			continue
		}
		err := s.pod.Do(func() error {
			conn, err := net.DialTimeout("tcp", x.listener.Addr().String(), timeout)
			if err == nil {
				conn.Close()
			}
			return err
		})
		if err != nil {
			return err
		}
		if err := x.listener.(*net.TCPListener).SetDeadline(time.Now().Add(timeout)); err != nil {
			return err
		}
		conn, err := x.listener.Accept()
		if err != nil {
			return err
		}
		conn.Close()
		if got := conn.RemoteAddr().(*net.TCPAddr).AddrPort().Addr().Unmap(); got != x.seen {
			return fmt.Errorf("%s sees %s, want %s", x.listener.Addr(), got, x.seen)
		}
	}
	return nil
}

func on(name string, f func(netlink.Link) error) error {
	l, err := netlink.LinkByName(name)
	if err != nil {
		return err
	}
	return f(l)
}

func onENI(f func(netlink.Link) error) func(*site) error {
	return func(*site) error { return on("eth5", f) }
}

func setSysctl(key, value string) func(*site) error {
	return func(*site) error { return os.WriteFile(sysctlRoot+"/"+key, []byte(value), 0o644) }
}

// flushRules deletes all but the kernel's three.
func flushRules(*site) error {
	var errs []error
	for _, f := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		rules, err := netlink.RuleList(f)
		errs = append(errs, err)
		for _, r := range rules {
			if r.Priority != 0 && r.Priority < 32766 {
				errs = append(errs, netlink.RuleDel(&r))
			}
		}
	}
	return errors.Join(errs...)
}

func flushRoutes(which func(netlink.Route) bool) func(*site) error {
	return func(*site) error {
		routes, err := netlink.RouteListFiltered(netlink.FAMILY_ALL, &netlink.Route{Table: unix.RT_TABLE_UNSPEC}, netlink.RT_FILTER_TABLE)
		errs := []error{err}
		for _, r := range routes {
			if which(r) {
				errs = append(errs, netlink.RouteDel(&r))
			}
		}
		return errors.Join(errs...)
	}
}

func flushAddrs(l netlink.Link) error {
	addrs, err := netlink.AddrList(l, netlink.FAMILY_V4)
	errs := []error{err}
	for _, a := range addrs {
		errs = append(errs, netlink.AddrDel(l, &a))
	}
	return errors.Join(errs...)
}

// takeRoute makes the ENI's table refuse everything.
func takeRoute(*site) error {
	return netlink.RouteReplace(&netlink.Route{
		Table: Table(1), Dst: ipNet(everything(IPv4)), Type: unix.RTN_BLACKHOLE, Protocol: unix.RTPROT_STATIC,
	})
}

func deleteTable(*site) error {
	c := &nftables.Conn{}
	c.DelTable(ourTable())
	return c.Flush()
}

func flushTables(*site) error {
	c := &nftables.Conn{}
	c.FlushRuleset()
	return errors.Join(c.Flush(), markPods())
}

func renameENI(*site) error {
	from, to := "eth5", "theirs"
	if _, err := netlink.LinkByName(to); err == nil {
		from, to = to, from
	}
	return on(from, func(l netlink.Link) error {
		return errors.Join(netlink.LinkSetDown(l), netlink.LinkSetName(l, to))
	})
}

func foreignRoute(l netlink.Link, gateway string) *netlink.Route {
	return &netlink.Route{
		LinkIndex: l.Attrs().Index, Gw: netip.MustParseAddr(gateway).AsSlice(), Priority: 10, Dst: ipNet(everything(IPv4)),
		Flags: int(netlink.FLAG_ONLINK), Protocol: unix.RTPROT_DHCP,
	}
}

func foreignDefault(link, gateway string) func(*site) error {
	return func(*site) error {
		return on(link, func(l netlink.Link) error { return netlink.RouteAdd(foreignRoute(l, gateway)) })
	}
}

func removeNodeDNS(*site) error {
	return on("lo", func(l netlink.Link) error {
		return netlink.AddrDel(l, &netlink.Addr{IPNet: ipNet(netip.MustParsePrefix("169.254.20.10/32"))})
	})
}

// advertise lets the ENI believe router advertisements, and sends one (RFC 4861 section 4.2) from the gateway's side.
func advertise(s *site) error {
	if err := setSysctl(acceptRA("eth5"), "2")(s); err != nil {
		return err
	}
	return s.far.Do(func() error { return sendRA("eni") })
}

func sendRA(link string) error {
	l, err := netlink.LinkByName(link)
	if err != nil {
		return err
	}
	fd, err := unix.Socket(unix.AF_INET6, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_ICMPV6)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	const advertisement, hopLimit, lifetime = 134, 255, 1800 // the kernel fills the checksum in
	message := []byte{advertisement, 0, 0, 0, 64, 0, lifetime >> 8, lifetime & 0xff, 0, 0, 0, 0, 0, 0, 0, 0}
	all := netip.MustParseAddr("ff02::1").As16()
	return errors.Join(unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_MULTICAST_HOPS, hopLimit),
		unix.Sendto(fd, message, 0, &unix.SockaddrInet6{Addr: all, ZoneId: uint32(l.Attrs().Index)}))
}

// hasOwnIPv6 says whether a link has the address of its own that advertisements come from.
func hasOwnIPv6(link string) bool {
	l, err := netlink.LinkByName(link)
	if err != nil {
		return false
	}
	addrs, err := netlink.AddrList(l, netlink.FAMILY_V6)
	return err == nil && slices.ContainsFunc(addrs, func(a netlink.Addr) bool { return a.IP.IsLinkLocalUnicast() && a.Flags&unix.IFA_F_TENTATIVE == 0 })
}
