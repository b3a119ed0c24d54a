package bpf

import (
	"encoding/binary"
	"fmt"
	"net/netip"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// Where a UDP datagram of a frame has its sum.
const udpSumAt = 6

// AskPort is the port that Ask asks from.
const AskPort = 40053

// Ask gives the program of a pod's link a datagram as if the pod had sent it from AskPort, or the next one, to port 53 of a server, and returns what
// it answers: nil if the datagram would go on. The pod's link must be in the caller's network namespace. The question counts
// like any other, and one that is not answered may begin a flow.
func (d *Datapath) Ask(pod, server netip.Addr, query []byte) ([]byte, error) {
	known, ok, err := d.Pods.Lookup(pod)
	if err == nil && (!ok || pod.Is4() != server.Is4()) {
		err = fmt.Errorf("there is no such pod for %s", server)
	}
	if err != nil {
		return nil, fmt.Errorf("ask for %s: %w", pod, err)
	}
	from, to := netip.AddrPortFrom(pod, AskPort), netip.AddrPortFrom(server, 53)
	frame := dnsFrame(from, to, query)
	// A program does not answer when it cannot tell from the sum who was to make it. From the next port it is another sum.
	if sum := frame[len(frame)-len(query)-2:]; binary.BigEndian.Uint16(sum) == onesSum(pseudoHeader(pod, server, 8+len(query)), nil) {
		frame = dnsFrame(netip.AddrPortFrom(pod, AskPort+1), to, query)
	}
	opts := &ebpf.RunOptions{Data: frame, DataOut: make([]byte, len(frame)+2*largeAnswerBytes), Context: skbContext(known.Link)}
	verdict, err := d.packet.FromPod.Run(opts)
	if err != nil {
		return nil, fmt.Errorf("ask for %s: %w", pod, err)
	}
	headers := len(frame) - len(query)
	if verdict != actRedirect || len(opts.DataOut) < headers || opts.DataOut[headers+2]&0x80 == 0 {
		return nil, nil
	}
	return opts.DataOut[headers:], nil
}

// actRedirect is TC_ACT_REDIRECT.
const actRedirect = 7

// skbContext is a struct __sk_buff of a packet that has come by a link.
func skbContext(link int) []byte {
	const bytes, ifindexAt = 192, 40
	b := make([]byte, bytes)
	binary.NativeEndian.PutUint32(b[ifindexAt:], uint32(link))
	return b
}

// dnsFrame is an Ethernet frame of a datagram.
func dnsFrame(from, to netip.AddrPort, payload []byte) []byte {
	l4 := binary.BigEndian.AppendUint16(nil, from.Port())
	l4 = binary.BigEndian.AppendUint16(l4, to.Port())
	l4 = binary.BigEndian.AppendUint16(l4, uint16(8+len(payload)))
	l4 = append(append(l4, 0, 0), payload...)
	src, dst := from.Addr().AsSlice(), to.Addr().AsSlice()
	check := ^onesSum(pseudoHeader(from.Addr(), to.Addr(), len(l4)), l4)
	if check == 0 {
		check = 0xffff
	}
	binary.BigEndian.PutUint16(l4[udpSumAt:], check)
	frame := make([]byte, 12, 14+40+len(l4))
	if from.Addr().Is4() {
		ip := []byte{0x45, 0, 0, 0, 0, 0, 0x40, 0, 64, unix.IPPROTO_UDP, 0, 0}
		binary.BigEndian.PutUint16(ip[2:], uint16(20+len(l4)))
		ip = append(append(ip, src...), dst...)
		binary.BigEndian.PutUint16(ip[10:], ^onesSum(0, ip))
		return append(append(append(frame, 0x08, 0x00), ip...), l4...)
	}
	ip := []byte{0x60, 0, 0, 0, 0, 0, unix.IPPROTO_UDP, 64}
	binary.BigEndian.PutUint16(ip[4:], uint16(len(l4)))
	ip = append(append(ip, src...), dst...)
	return append(append(append(frame, 0x86, 0xdd), ip...), l4...)
}

// pseudoHeader is what the sum of a datagram of so many bytes begins with (RFC 768).
func pseudoHeader(from, to netip.Addr, bytes int) uint32 {
	return uint32(onesSum(0, from.AsSlice())) + uint32(onesSum(0, to.AsSlice())) + unix.IPPROTO_UDP + uint32(bytes)
}

// onesSum adds up words in ones' complement (RFC 1071).
func onesSum(initial uint32, b []byte) uint16 {
	sum := uint64(initial)
	for i := 0; i < len(b); i += 2 {
		if i+1 < len(b) {
			sum += uint64(b[i+1])
		}
		sum += uint64(b[i]) << 8
	}
	for sum>>16 != 0 {
		sum = sum&0xffff + sum>>16
	}
	return uint16(sum)
}
