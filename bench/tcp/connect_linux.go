package tcp

import (
	"net/netip"
	"time"

	"golang.org/x/sys/unix"
)

// ConnectAndReset closes with a reset: nothing waits in TIME_WAIT, and no port runs out.
func ConnectAndReset(to netip.AddrPort) (connect, closing time.Duration, err error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, 0, err
	}
	if err := unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1}); err != nil {
		return 0, 0, err
	}
	start := time.Now()
	err = unix.Connect(fd, Sockaddr(to))
	connected := time.Now()
	if closeErr := unix.Close(fd); err == nil {
		err = closeErr
	}
	return connected.Sub(start), time.Since(connected), err
}

// Sockaddr is an IPv4 address and port for system calls.
func Sockaddr(a netip.AddrPort) unix.Sockaddr {
	return &unix.SockaddrInet4{Port: int(a.Port()), Addr: a.Addr().As4()}
}
