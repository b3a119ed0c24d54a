package bpf

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"runtime"
	"syscall"

	"golang.org/x/sys/unix"
)

// A diag is a sock_diag(7) socket inside a network namespace.
type diag struct{ fd int }

// openDiag opens one. The thread goes there for the moment; if it cannot come back it ends.
func openDiag(netns *os.File) (*diag, error) {
	type result struct {
		d   *diag
		err error
	}
	done := make(chan result)
	go func() {
		runtime.LockOSThread()
		var r result
		defer func() { done <- r }()
		own, err := os.Open("/proc/thread-self/ns/net")
		if err != nil {
			r.err = err
			return
		}
		defer own.Close()
		if err := unix.Setns(int(netns.Fd()), unix.CLONE_NEWNET); err != nil {
			r.err = fmt.Errorf("enter the network namespace: %w", err)
			return
		}
		fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_INET_DIAG)
		if err != nil {
			r.err = fmt.Errorf("open a sock_diag socket: %w", err)
		} else {
			r.d = &diag{fd}
		}
		if unix.Setns(int(own.Fd()), unix.CLONE_NEWNET) == nil {
			runtime.UnlockOSThread()
		}
	}()
	r := <-done
	return r.d, r.err
}

func (d *diag) close() error { return unix.Close(d.fd) }

// inetDiagRequest is struct inet_diag_req_v2 (linux/inet_diag.h).
type inetDiagRequest struct {
	Family, Protocol, Ext, Pad uint8
	States                     uint32
	OwnPort, PeerPort          uint16 // network order, as the rest
	Own, Peer                  [4]uint32
	Link                       uint32
	Cookie                     uint64 // host order
}

// sockDestroy is SOCK_DESTROY (linux/sock_diag.h).
const sockDestroy = 21

// destroy ends a UDP socket: it is found by its addresses, and must have the cookie. ENOENT says that there is none, or
// that the kernel has no udp_diag; EOPNOTSUPP that it was built without CONFIG_INET_DIAG_DESTROY.
func (d *diag) destroy(s strandedSocket) error {
	body := inetDiagRequest{
		Family: unix.AF_INET6, Protocol: unix.IPPROTO_UDP, States: ^uint32(0),
		OwnPort: s.OwnPort, PeerPort: s.BackendPort, Own: s.Own, Peer: s.Backend, Link: s.Link, Cookie: s.Cookie,
	}
	if s.backend().Addr().Is4() { // of a v4-mapped peer, too
		body.Family = unix.AF_INET
		body.Own, body.Peer = [4]uint32{s.Own[3]}, [4]uint32{s.Backend[3]}
	}
	text, err := binary.Append(nil, binary.NativeEndian, unix.NlMsghdr{
		Len: uint32(unix.SizeofNlMsghdr + binary.Size(body)), Type: sockDestroy, Flags: unix.NLM_F_REQUEST | unix.NLM_F_ACK,
	})
	if err == nil {
		text, err = binary.Append(text, binary.NativeEndian, body)
	}
	if err != nil {
		return err
	}
	if err := unix.Sendto(d.fd, text, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return err
	}
	return d.acknowledged()
}

// acknowledged reads the kernel's answer, which is there when Sendto returns.
func (d *diag) acknowledged() error {
	buf := make([]byte, os.Getpagesize())
	n, err := unix.Read(d.fd, buf)
	if err != nil {
		return err
	}
	messages, err := syscall.ParseNetlinkMessage(buf[:n])
	if err != nil {
		return err
	}
	if len(messages) != 1 || messages[0].Header.Type != unix.NLMSG_ERROR || len(messages[0].Data) < 4 {
		return errors.New("sock_diag answered something else than an acknowledgement")
	}
	if errno := -int32(binary.NativeEndian.Uint32(messages[0].Data)); errno != 0 {
		return unix.Errno(errno)
	}
	return nil
}
