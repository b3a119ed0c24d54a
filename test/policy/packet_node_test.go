//go:build node

package policy

import (
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Types of ICMP and ICMPv6 (RFC 792, RFC 4443).
const (
	echoRequest, echoReply   = 8, 0
	echoRequest6, echoReply6 = 128, 129
)

// echo sends a request and waits for its reply. The identifier is to policy what ports are.
func echo(to netip.Addr, id uint16, deadline time.Time) bool {
	network, request, reply := "ip4:icmp", byte(echoRequest), byte(echoReply)
	if to.Is6() {
		network, request, reply = "ip6:ipv6-icmp", echoRequest6, echoReply6
	}
	conn, err := net.ListenPacket(network, "")
	if err != nil {
		return false
	}
	defer conn.Close()
	const sequence = 1
	message := binary.BigEndian.AppendUint16([]byte{request, 0, 0, 0}, id)
	message = binary.BigEndian.AppendUint16(message, sequence)
	if to.Is4() { // the kernel fills in ICMPv6's
		sum := uint32(request)<<8 + uint32(id) + sequence
		binary.BigEndian.PutUint16(message[2:], ^uint16(sum+sum>>16))
	}
	if conn.SetDeadline(deadline) != nil {
		return false
	}
	if _, err := conn.WriteTo(message, &net.IPAddr{IP: to.AsSlice()}); err != nil {
		return false
	}
	for answer := make([]byte, 64); ; {
		n, from, err := conn.ReadFrom(answer)
		if err != nil {
			return false
		}
		addr, _ := netip.AddrFromSlice(from.(*net.IPAddr).IP)
		if n >= len(message) && answer[0] == reply && binary.BigEndian.Uint16(answer[4:]) == id && addr.Unmap() == to {
			return true
		}
	}
}

// setOptions has datagrams go with four bytes of options, or with an extension header, that mean nothing.
func setOptions(conn *net.UDPConn) error {
	raw, err := conn.SyscallConn()
	if err != nil {
		return err
	}
	level, option, value := unix.IPPROTO_IP, unix.IP_OPTIONS, "\x01\x01\x01\x01"
	if conn.RemoteAddr().(*net.UDPAddr).IP.To4() == nil {
		const pad = "\x01\x04\x00\x00\x00\x00"
		level, option, value = unix.IPPROTO_IPV6, unix.IPV6_DSTOPTS, "\x00\x00"+pad
	}
	var refused error
	err = raw.Control(func(fd uintptr) { refused = syscall.SetsockoptString(int(fd), level, option, value) })
	return errors.Join(err, refused)
}
