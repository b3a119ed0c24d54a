//go:build node

package bpf

import (
	"encoding/binary"
	"errors"
	"net/netip"
	"testing"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// icmp6 is a message of a type, with a header of options before it if routers are to look at it (RFC 3810, 5).
func icmp6(from string, typ uint8, options bool) []byte {
	s := segment{proto: unix.IPPROTO_ICMPV6, from: at(from, 0), to: at("ff02::16", 0), hops: 1, raw: []byte{typ, 0, 0, 0, 0, 0, 0, 0}}
	if options {
		s.proto, s.raw = 0, append([]byte{unix.IPPROTO_ICMPV6, 0, 5, 2, 0, 0, 1, 0}, s.raw...)
	}
	return s.frame()
}

// tagged is a frame of another kind.
func tagged(kind uint16, frame []byte) []byte {
	binary.BigEndian.PutUint16(frame[12:], kind)
	return frame
}

// version makes a packet claim another one.
func version(frame []byte, n byte) []byte {
	frame[14] = n<<4 | frame[14]&0xf
	return frame
}

// TestStrays: a pod sends with its own addresses. Without one it may look for neighbours and ask for an address, and that is all.
func TestStrays(t *testing.T) {
	d := start(t, node(t))
	for i, peer := range []string{"10.2.0.1", "fd12::1"} {
		if err := errors.Join(
			d.SetNodeAddresses(addrs(nodeAddrs)),
			d.Pods.Put(Pod{Addrs: addrs([]string{podAddrs[i]}), Link: 1, Side: 1, Slot: 3}),
		); err != nil {
			t.Fatal(err)
		}
		send := func(from string, proto uint8, to string, port uint16) []byte {
			return segment{proto: proto, from: at(from, 68), to: at(to, port), flags: syn, hops: 64}.frame()
		}
		for name, tt := range map[string]struct {
			frame     []byte
			veth, eni int32 // what comes of it on a link of the node, and on one in the pod's namespace
		}{
			"its own":                {send(podAddrs[i], tcp, peer, 80), pass, pass},
			"nobody's":               {send([]string{"10.9.0.1", "fd09::1"}[i], tcp, peer, 80), drop, drop},
			"the node's":             {send(nodeAddrs[i], udp, peer, 80), drop, drop},
			"none":                   {send([]string{"0.0.0.0", "::"}[i], tcp, peer, 80), drop, drop},
			"link-local":             {send([]string{"169.254.7.7", "fe80::7"}[i], udp, peer, 80), drop, drop},
			"asks for an address":    {send([]string{"0.0.0.0", "fe80::7"}[i], udp, []string{"255.255.255.255", "ff02::1:2"}[i], []uint16{67, 547}[i]), pass, pass},
			"as if for an address":   {send([]string{"0.0.0.0", "fe80::7"}[i], udp, peer, []uint16{67, 547}[i]), drop, drop},
			"who has it":             {icmp6("::", 135, false), pass, pass},
			"it has it":              {icmp6("fe80::7", 136, false), pass, pass},
			"listens to groups":      {icmp6("::", 143, true), pass, pass},
			"advertises routes":      {icmp6("fe80::7", 134, false), drop, drop},
			"redirects":              {icmp6("fe80::7", 137, true), drop, drop},
			"pings, link-local":      {icmp6("fe80::7", 128, false), drop, drop},
			"neighbours, nobody's":   {icmp6("fd09::1", 135, false), drop, drop},
			"IPv4 in IPv6's clothes": {send("::ffff:10.9.0.1", udp, "fd12::1", 80), drop, drop},
			"IP of another version":  {version(send(podAddrs[i], udp, peer, 80), 5), drop, drop},
			"ARP":                    {tagged(unix.ETH_P_ARP, make([]byte, 42)), pass, pass},
			"something else":         {tagged(unix.ETH_P_LOOPBACK, make([]byte, 42)), pass, drop},
		} {
			for program, want := range map[*ebpf.Program]int32{d.packet.FromPod: tt.veth, d.packet.LeavePod: tt.eni, d.packet.LeaveSlave: tt.eni} {
				if netip.MustParseAddr(peer).Is4() && tt.frame[12] == 0x86 {
					continue // once is enough
				}
				code, err := program.Run(&ebpf.RunOptions{Data: tt.frame, DataOut: make([]byte, len(tt.frame))})
				if err != nil || int32(code) != want {
					t.Errorf("%s, %s, %s: %d, %v, want %d", podAddrs[i], name, program, int32(code), err, want)
				}
			}
		}
	}
}
