package takeover

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// A connection is one whose destination conntrack translates: what kube-proxy did to every connection to a Service.
type connection struct {
	protocol         uint8
	client, frontend netip.AddrPort // as the client sends
	backend          netip.AddrPort
}

// statusDstNAT is the kernel's IPS_DST_NAT.
const statusDstNAT = 1 << 5

// dumpTries is how often a dump is tried that changes of the table interrupt.
const dumpTries = 5

// translated lists the connections of TCP, UDP and SCTP in the calling thread's network namespace whose destination is
// translated, and not to another port of itself.
func translated() (map[connection]bool, error) {
	out := map[connection]bool{}
	err := eachTranslated(func(c connection, _ []byte) { out[c] = true })
	return out, err
}

// eachTranslated calls f for each of them, some maybe twice, with the entry as the kernel sends it.
func eachTranslated(f func(c connection, entry []byte)) error {
	return eachEntry(func(entry []byte) {
		if c, ok := connectionOf(entry); ok {
			f(c, entry)
		}
	})
}

// eachEntry reads the whole table, which may have hundreds of thousands of entries: few are held at a time.
func eachEntry(f func(entry []byte)) error {
	for _, family := range []uint8{unix.AF_INET, unix.AF_INET6} {
		dump := func() error {
			return conntrackRequest(nl.IPCTNL_MSG_CT_GET, family, unix.NLM_F_DUMP).ExecuteIter(unix.NETLINK_NETFILTER, 0, func(entry []byte) bool {
				f(entry)
				return true
			})
		}
		err := dump()
		for try := 1; try < dumpTries && errors.Is(err, netlink.ErrDumpInterrupted); try++ {
			err = dump()
		}
		if err != nil {
			return fmt.Errorf("list conntrack's entries: %w", err)
		}
	}
	return nil
}

func conntrackRequest(operation int, family uint8, flags int) *nl.NetlinkRequest {
	r := nl.NewNetlinkRequest(netlink.ConntrackTable<<8|operation, flags)
	r.AddData(&nl.Nfgenmsg{NfgenFamily: family, Version: nl.NFNETLINK_V0})
	return r
}

// connectionOf reads an entry as the kernel sends it (include/uapi/linux/netfilter/nfnetlink_conntrack.h).
func connectionOf(entry []byte) (c connection, ok bool) {
	if len(entry) < nl.SizeofNfgenmsg {
		return c, false
	}
	attrs := attributes(entry[nl.SizeofNfgenmsg:])
	if status := attrs[nl.CTA_STATUS]; len(status) == 4 && binary.BigEndian.Uint32(status)&statusDstNAT == 0 {
		return c, false
	}
	protocol, client, frontend := tuple(attrs[nl.CTA_TUPLE_ORIG])
	_, backend, _ := tuple(attrs[nl.CTA_TUPLE_REPLY])
	switch protocol {
	case unix.IPPROTO_TCP, unix.IPPROTO_UDP, unix.IPPROTO_SCTP:
	default:
		return c, false
	}
	return connection{protocol, client, frontend, backend}, frontend != backend && frontend.IsValid() && backend.IsValid()
}

// tuple reads one direction of a connection.
func tuple(nested []byte) (protocol uint8, from, to netip.AddrPort) {
	direction := attributes(nested)
	ip, ports := attributes(direction[nl.CTA_TUPLE_IP]), attributes(direction[nl.CTA_TUPLE_PROTO])
	addr := func(v4, v6 uint16) netip.Addr {
		a, ok := netip.AddrFromSlice(ip[v4])
		if !ok {
			a, _ = netip.AddrFromSlice(ip[v6])
		}
		return a
	}
	port := func(which uint16) uint16 {
		if b := ports[which]; len(b) == 2 {
			return binary.BigEndian.Uint16(b)
		}
		return 0
	}
	if b := ports[nl.CTA_PROTO_NUM]; len(b) == 1 {
		protocol = b[0]
	}
	return protocol,
		netip.AddrPortFrom(addr(nl.CTA_IP_V4_SRC, nl.CTA_IP_V6_SRC), port(nl.CTA_PROTO_SRC_PORT)),
		netip.AddrPortFrom(addr(nl.CTA_IP_V4_DST, nl.CTA_IP_V6_DST), port(nl.CTA_PROTO_DST_PORT))
}

// attributes are those of a message or of an attribute, by type; what cannot be read is left out.
func attributes(b []byte) map[uint16][]byte {
	list, err := nl.ParseRouteAttr(b)
	if err != nil {
		return nil
	}
	out := make(map[uint16][]byte, len(list))
	for _, a := range list {
		out[a.Attr.Type&^(unix.NLA_F_NESTED|unix.NLA_F_NET_BYTEORDER)] = a.Value
	}
	return out
}

// forget deletes the entries of these connections and returns how many there were.
func forget(connections map[connection]bool) (n int, err error) {
	if len(connections) == 0 {
		return 0, nil
	}
	var found [][]byte
	if err := eachTranslated(func(c connection, entry []byte) {
		if connections[c] {
			found = append(found, entry)
		}
	}); err != nil {
		return 0, err
	}
	var errs []error
	for _, entry := range found {
		r := conntrackRequest(nl.IPCTNL_MSG_CT_DELETE, entry[0], unix.NLM_F_ACK)
		r.AddRawData(entry[nl.SizeofNfgenmsg:])
		if _, err := r.Execute(unix.NETLINK_NETFILTER, 0); err == nil {
			n++
		} else if !errors.Is(err, unix.ENOENT) { // it may be over in the meantime
			errs = append(errs, err)
		}
	}
	if err := errors.Join(errs...); err != nil {
		return n, fmt.Errorf("delete conntrack's entries of datagrams to endpoints that are gone: %w", err)
	}
	return n, nil
}
