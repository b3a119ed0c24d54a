//go:build node

package autopath

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/nearpath/nearpath/test/netlab"
)

// A tap counts what a pod sends to a DNS server: packets on its link, whatever becomes of them there.
type tap struct{ fd int }

func newTap(t *testing.T, ns *netlab.NetNS) *tap {
	t.Helper()
	p := new(tap)
	ok(t, ns.Do(func() (err error) {
		p.fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, int(htons(unix.ETH_P_ALL)))
		return err
	}))
	t.Cleanup(func() { ok(t, unix.Close(p.fd)) })
	return p
}

func htons(v uint16) uint16 { return binary.NativeEndian.Uint16(binary.BigEndian.AppendUint16(nil, v)) }

// take returns how many queries were sent since the last call. The kernel has queued a packet here before the call that
// sent it returned.
func (p *tap) take(t *testing.T) (queries int) {
	t.Helper()
	var packet [512]byte
	for {
		n, from, err := unix.Recvfrom(p.fd, packet[:], 0)
		if errors.Is(err, unix.EAGAIN) {
			return queries
		}
		ok(t, err)
		if link, isLink := from.(*unix.SockaddrLinklayer); isLink && link.Pkttype == unix.PACKET_OUTGOING && isQuery(packet[:n]) {
			queries++
		}
	}
}

// isQuery says whether an IPv4 packet is a UDP datagram to port 53.
func isQuery(b []byte) bool {
	if len(b) < 20 || b[0]>>4 != 4 || b[9] != unix.IPPROTO_UDP {
		return false
	}
	header := int(b[0]&15) * 4
	return len(b) >= header+8 && binary.BigEndian.Uint16(b[header+2:]) == 53
}

// datagrams is how many UDP datagrams the stack of a namespace has received, for sockets or for none (RFC 4113).
func datagrams(t *testing.T, ns *netlab.NetNS) (n uint64) {
	t.Helper()
	ok(t, ns.Do(func() error {
		text, err := os.ReadFile(fmt.Sprintf("/proc/self/task/%d/net/snmp", unix.Gettid()))
		if err != nil {
			return err
		}
		n, err = udpIn(text)
		return err
	}))
	return n
}

func udpIn(snmp []byte) (n uint64, err error) {
	var names []string
	for line := range bytes.Lines(snmp) {
		fields := bytes.Fields(line)
		switch {
		case len(fields) == 0 || string(fields[0]) != "Udp:":
		case names == nil:
			for _, f := range fields {
				names = append(names, string(f))
			}
		default:
			for _, name := range []string{"InDatagrams", "NoPorts"} {
				i := slices.Index(names, name)
				if i < 0 || i >= len(fields) {
					return 0, fmt.Errorf("no %s in %q", name, line)
				}
				v, err := strconv.ParseUint(string(fields[i]), 10, 64)
				if err != nil {
					return 0, err
				}
				n += v
			}
		}
	}
	return n, nil
}
