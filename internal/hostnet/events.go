package hostnet

import (
	"encoding/binary"
	"iter"
	"net"
	"net/netip"
	"regexp"
	"syscall"

	"golang.org/x/sys/unix"
)

// An interest says what changes of the network can make a difference to Build. Pods' links come and go all the time,
// and comparing takes as long as making one.
type interest struct {
	links map[int]bool    // indices of the uplinks, the ENIs, their companions and lo; nil while not known
	enis  map[int]bool    // indices of the ENIs
	macs  map[string]bool // of wanted ENIs, whose links may not be there yet
}

// Kinds of rtnetlink messages and the attributes that are read of them (linux/rtnetlink.h, if_link.h, netconf.h,
// fib_rules.h).
const (
	rtmNewNetconf, rtmDelNetconf = 80, 81
	netconfaIfindex              = 1
	netconfAll                   = -1
	fraProtocol                  = 21
	attrKind                     = 0x3fff // without the flags of an attribute's kind
)

// of says whether the messages are about something of interest.
func (i interest) of(messages []syscall.NetlinkMessage) bool {
	for _, m := range messages {
		if i.ofOne(m.Header.Type, m.Data) {
			return true
		}
	}
	return false
}

func (i interest) ofOne(kind uint16, data []byte) bool {
	switch kind {
	case unix.RTM_NEWLINK, unix.RTM_DELLINK:
		return i.ofLink(data)
	case unix.RTM_NEWADDR, unix.RTM_DELADDR:
		return len(data) >= unix.SizeofIfAddrmsg && (i.links == nil || i.links[int(int32At(data[4:]))] || ofAddr(data))
	case unix.RTM_NEWROUTE, unix.RTM_DELROUTE:
		return ofRoute(data)
	case unix.RTM_NEWRULE, unix.RTM_DELRULE:
		return ofRule(data)
	case rtmNewNetconf, rtmDelNetconf:
		index := int(int32At(attr(data, 4, netconfaIfindex))) // one byte of family, aligned
		return i.links == nil || index == netconfAll || i.links[index]
	}
	return false
}

// podLink is the form of the names of pods' links on the node.
var podLink = regexp.MustCompile("^np[0-9a-f]{11}$")

// ofLink: slaves of an ENI have its MAC address, and those of pods are many.
func (i interest) ofLink(data []byte) bool {
	if len(data) < unix.SizeofIfInfomsg {
		return false
	}
	if i.links == nil || i.links[int(int32At(data[4:]))] {
		return true
	}
	var name, mac string
	var parent int
	for kind, value := range attrs(data, unix.SizeofIfInfomsg) {
		switch kind {
		case unix.IFLA_IFNAME:
			name = unix.ByteSliceToString(value)
		case unix.IFLA_ADDRESS:
			mac = net.HardwareAddr(value).String()
		case unix.IFLA_LINK:
			parent = int(int32At(value))
		}
	}
	return !podLink.MatchString(name) && (i.macs[mac] || i.enis[parent])
}

// ofAddr: those that node ports may be served on, whatever the link. Those of pods' links are link-local.
func ofAddr(data []byte) bool {
	addr, ok := netip.AddrFromSlice(attr(data, unix.SizeofIfAddrmsg, unix.IFA_LOCAL))
	if !ok { // of IPv6 there is mostly no other one
		addr, ok = netip.AddrFromSlice(attr(data, unix.SizeofIfAddrmsg, unix.IFA_ADDRESS))
	}
	return ok && addr.IsGlobalUnicast()
}

// ofRoute: the ENIs' tables, and the default routes of the main table.
func ofRoute(data []byte) bool {
	if len(data) < unix.SizeofRtMsg {
		return false
	}
	dstLen, table := data[1], int(data[4])
	if value := attr(data, unix.SizeofRtMsg, unix.RTA_TABLE); value != nil {
		table = int(int32At(value))
	}
	return table > tableBase && table < tableEnd || table == tableMain && dstLen == 0
}

// ofRule: ours. Those for an address are of pods.
func ofRule(data []byte) bool {
	if len(data) < unix.SizeofRtMsg { // struct fib_rule_hdr is as long
		return false
	}
	srcLen, protocol := data[2], attr(data, unix.SizeofRtMsg, fraProtocol)
	return srcLen == 0 && len(protocol) > 0 && protocol[0] == Protocol
}

// int32At is 0 if there is none.
func int32At(data []byte) int32 {
	if len(data) < 4 {
		return 0
	}
	return int32(binary.NativeEndian.Uint32(data))
}

// attr is the value of the first attribute of the kind after the header, nil if there is none.
func attr(data []byte, header int, kind uint16) []byte {
	for k, value := range attrs(data, header) {
		if k == kind {
			return value
		}
	}
	return nil
}

// attrs are the attributes of a netlink message's data after a header. Whatever is malformed ends them.
func attrs(data []byte, header int) iter.Seq2[uint16, []byte] {
	const attrHeader = 4
	return func(yield func(uint16, []byte) bool) {
		for rest := data[min(header, len(data)):]; len(rest) >= attrHeader; {
			length, kind := int(binary.NativeEndian.Uint16(rest)), binary.NativeEndian.Uint16(rest[2:])
			if length < attrHeader || length > len(rest) || !yield(kind&attrKind, rest[attrHeader:length]) {
				return
			}
			rest = rest[min((length+3)&^3, len(rest)):] // attributes are aligned to 4 bytes
		}
	}
}

// changesNAT says whether a message is about our table. Others write theirs often: kube-proxy with every Service.
func changesNAT(messages []syscall.NetlinkMessage) bool {
	for _, m := range messages {
		if tableOf(m.Data) == natTable {
			return true
		}
	}
	return false
}

// tableOf is the name of the table of family inet that an nftables message is about, empty if there is none. After the
// header (struct nfgenmsg) come attributes, and number 1 is the table's name in all kinds of messages that have one
// (NFTA_TABLE_NAME, NFTA_CHAIN_TABLE, NFTA_RULE_TABLE, NFTA_SET_TABLE, NFTA_SET_ELEM_LIST_TABLE).
func tableOf(message []byte) string {
	const header = 4
	if len(message) < header || message[0] != unix.NFPROTO_INET {
		return ""
	}
	return unix.ByteSliceToString(attr(message, header, unix.NFTA_TABLE_NAME))
}
