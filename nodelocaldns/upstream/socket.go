package upstream

import (
	"errors"
	"net"
	"net/netip"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// maxIdle is how many sockets of an endpoint wait for questions: making one takes longer than all else of a question that the
// server has the answer of.
const maxIdle = 16

// takeIdle returns a socket that waited, with a port that nobody can guess (RFC 5452, 9.2), or nil when none did.
func (e *endpoint) takeIdle() net.Conn {
	socket := e.popIdle()
	if socket == nil {
		return nil
	}
	if reconnect(socket, e.addr) != nil {
		_ = socket.Close()
		return nil
	}
	return socket
}

func (e *endpoint) popIdle() *net.UDPConn {
	e.mu.Lock()
	defer e.mu.Unlock()
	last := len(e.idle) - 1
	if last < 0 {
		return nil
	}
	socket := e.idle[last]
	e.idle = e.idle[:last]
	return socket
}

// release lets a socket wait for another question, which has no port meanwhile. Nobody else may know the socket any more.
func (e *endpoint) release(conn net.Conn) {
	if socket, ok := conn.(*net.UDPConn); !ok || disconnect(socket) != nil || !e.keep(socket) {
		_ = conn.Close()
	}
}

func (e *endpoint) keep(socket *net.UDPConn) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.draining || len(e.idle) >= maxIdle || socket.SetDeadline(time.Time{}) != nil {
		return false
	}
	e.idle = append(e.idle, socket)
	return true
}

// closeIdle closes those that wait. The caller holds mu.
func (e *endpoint) closeIdle() {
	for _, socket := range e.idle {
		_ = socket.Close()
	}
	e.idle = nil
}

// disconnect takes a socket's port away (connect(2), AF_UNSPEC).
func disconnect(socket *net.UDPConn) error {
	return onSocket(socket, func(fd int) error {
		none := unix.RawSockaddr{Family: unix.AF_UNSPEC}
		_, _, errno := unix.RawSyscall(unix.SYS_CONNECT, uintptr(fd), uintptr(unsafe.Pointer(&none)), unsafe.Sizeof(none))
		if errno != 0 {
			return errno
		}
		return nil
	})
}

// reconnect has the kernel choose another port.
func reconnect(socket *net.UDPConn, to netip.AddrPort) error {
	var sa unix.Sockaddr = &unix.SockaddrInet6{Addr: to.Addr().As16(), Port: int(to.Port())}
	if to.Addr().Is4() {
		sa = &unix.SockaddrInet4{Addr: to.Addr().As4(), Port: int(to.Port())}
	}
	return onSocket(socket, func(fd int) error { return unix.Connect(fd, sa) })
}

func onSocket(socket *net.UDPConn, do func(fd int) error) error {
	raw, err := socket.SyscallConn()
	if err != nil {
		return err
	}
	controlErr := raw.Control(func(fd uintptr) { err = do(int(fd)) })
	return errors.Join(err, controlErr)
}
