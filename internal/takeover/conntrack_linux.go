package takeover

import (
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// A connection is one whose destination conntrack translates: what kube-proxy did to every connection to a Service.
type connection struct {
	protocol         uint8
	client, frontend netip.AddrPort // as the client sends
	backend          netip.AddrPort
}

// dumpTries is how often a dump is tried that changes of the table interrupt.
const dumpTries = 5

// translated lists the connections of TCP, UDP and SCTP in the calling thread's network namespace whose destination is
// translated, and not to another port of itself.
func translated() (map[connection]bool, error) {
	out := map[connection]bool{}
	for _, family := range []netlink.InetFamily{unix.AF_INET, unix.AF_INET6} {
		flows, err := netlink.ConntrackTableList(netlink.ConntrackTable, family)
		for try := 1; try < dumpTries && errors.Is(err, netlink.ErrDumpInterrupted); try++ {
			flows, err = netlink.ConntrackTableList(netlink.ConntrackTable, family)
		}
		if err != nil {
			return nil, fmt.Errorf("list conntrack's entries: %w", err)
		}
		for _, f := range flows {
			if c, ok := connectionOf(f); ok {
				out[c] = true
			}
		}
	}
	return out, nil
}

func connectionOf(f *netlink.ConntrackFlow) (connection, bool) {
	switch f.Forward.Protocol {
	case unix.IPPROTO_TCP, unix.IPPROTO_UDP, unix.IPPROTO_SCTP:
	default:
		return connection{}, false
	}
	c := connection{
		protocol: f.Forward.Protocol, client: at(f.Forward.SrcIP, f.Forward.SrcPort),
		frontend: at(f.Forward.DstIP, f.Forward.DstPort), backend: at(f.Reverse.SrcIP, f.Reverse.SrcPort),
	}
	return c, c.frontend != c.backend
}

func at(ip net.IP, port uint16) netip.AddrPort {
	addr, _ := netip.AddrFromSlice(ip)
	return netip.AddrPortFrom(addr.Unmap(), port)
}

// A choice is a netlink.CustomConntrackFilter.
type choice map[connection]bool

// MatchConntrackFlow reports whether the entry is that of one of the connections.
func (c choice) MatchConntrackFlow(f *netlink.ConntrackFlow) bool {
	have, ok := connectionOf(f)
	return ok && c[have]
}

// forget deletes the entries of these connections and returns how many there were.
func forget(connections map[connection]bool) (n int, err error) {
	if len(connections) == 0 {
		return 0, nil
	}
	var errs []error
	for _, family := range []netlink.InetFamily{unix.AF_INET, unix.AF_INET6} {
		deleted, err := netlink.ConntrackDeleteFilters(netlink.ConntrackTable, family, choice(connections))
		n += int(deleted)
		errs = append(errs, err)
	}
	if err := errors.Join(errs...); err != nil {
		return n, fmt.Errorf("delete conntrack's entries of datagrams to endpoints that are gone: %w", err)
	}
	return n, nil
}
