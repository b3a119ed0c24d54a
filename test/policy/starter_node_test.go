//go:build node

package policy

import (
	"bufio"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// The roles of those who send and count what comes.
const (
	roleStarter = "starter"
	roleCounter = "counter"
)

// A launch has a starter make a network namespace and send from it to all of To, by TCP and by UDP, from then on. Without a name it
// has the one that it made send to all of them twice more and end.
type launch struct {
	NetNS string
	To    []netip.AddrPort
}

// eager is how many rounds a starter sends without a pause after the first that went out whole, and pause is that of the others.
const (
	eager = 20
	pause = 100 * time.Microsecond
)

// starter does what it reads, and answers each launch with how often it sent to everybody.
func starter(in io.Reader, out io.Writer) error {
	if _, err := fmt.Fprintln(out, "true"); err != nil {
		return err
	}
	var end chan<- struct{}
	var ended <-chan launched
	for lines, answers := json.NewDecoder(bufio.NewReader(in)), json.NewEncoder(out); ; {
		var l launch
		if err := lines.Decode(&l); err != nil {
			return nil //nolint:nilerr // it ends
		}
		var done launched
		if l.NetNS != "" {
			stop, began, over := make(chan struct{}), make(chan error, 1), make(chan launched, 1)
			go send(l, began, stop, over)
			done.err, end, ended = <-began, stop, over
		} else {
			close(end)
			done = <-ended
		}
		if done.err != nil {
			return done.err
		}
		if err := answers.Encode(done.rounds); err != nil {
			return err
		}
	}
}

type launched struct {
	rounds int
	err    error
}

// send does a launch on a thread of its own, which ends in the namespace that it made.
func send(l launch, began chan<- error, stop <-chan struct{}, over chan<- launched) {
	runtime.LockOSThread()
	path := filepath.Join("/run/netns", l.NetNS)
	err := newNetNS(path)
	if began <- err; err != nil {
		return
	}
	var whole, after int // rounds that went out, and those of them after it was to stop
	for after < 2 {
		if everybody(l.To) == nil {
			whole++
			select {
			case <-stop:
				after++
			default:
			}
		}
		if whole == 0 || whole > eager {
			time.Sleep(pause)
		}
	}
	over <- launched{whole, errors.Join(unix.Unmount(path, unix.MNT_DETACH), os.Remove(path))}
}

// newNetNS puts the calling thread into a new namespace that has a file.
func newNetNS(path string) error {
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("make a network namespace: %w", err)
	}
	file, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL, 0o444)
	if err != nil {
		return err
	}
	return errors.Join(file.Close(), unix.Mount(fmt.Sprintf("/proc/self/task/%d/ns/net", unix.Gettid()), path, "", unix.MS_BIND, ""))
}

// everybody is sent a datagram and a SYN.
func everybody(to []netip.AddrPort) error {
	for _, peer := range to {
		for _, kind := range []int{unix.SOCK_DGRAM, unix.SOCK_STREAM} {
			if err := knock(peer, kind); err != nil {
				return err
			}
		}
	}
	return nil
}

// knock begins a connection and forgets it.
func knock(to netip.AddrPort, kind int) error {
	family, addr := unix.AF_INET6, unix.Sockaddr(&unix.SockaddrInet6{Addr: to.Addr().As16(), Port: int(to.Port())})
	if to.Addr().Is4() {
		family, addr = unix.AF_INET, &unix.SockaddrInet4{Addr: to.Addr().As4(), Port: int(to.Port())}
	}
	fd, err := unix.Socket(family, kind|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if kind == unix.SOCK_DGRAM {
		return unix.Sendto(fd, []byte{1}, 0, addr)
	}
	if err := unix.Connect(fd, addr); err != nil && !errors.Is(err, unix.EINPROGRESS) {
		return err
	}
	return nil
}

// counter notes to which ports anything came, and answers which of those that it reads.
func counter(in io.Reader, out io.Writer) error {
	var seen [1 << 16]atomic.Bool
	for _, network := range []string{"ip4:tcp", "ip4:udp", "ip6:tcp", "ip6:udp"} {
		conn, err := net.ListenPacket(network, "")
		if err != nil {
			return err
		}
		if err := roomy(conn.(*net.IPConn)); err != nil {
			return err
		}
		go func() {
			for header := make([]byte, 20); ; {
				n, _, err := conn.ReadFrom(header)
				if errors.Is(err, net.ErrClosed) {
					return
				}
				if n >= 4 {
					seen[binary.BigEndian.Uint16(header[2:])].Store(true)
				}
			}
		}()
	}
	if _, err := fmt.Fprintln(out, "true"); err != nil {
		return err
	}
	for lines, answers := json.NewDecoder(bufio.NewReader(in)), json.NewEncoder(out); ; {
		var ports, came []uint16
		if err := lines.Decode(&ports); err != nil {
			return nil //nolint:nilerr // it ends
		}
		for _, p := range ports {
			if seen[p].Load() {
				came = append(came, p)
			}
		}
		if err := answers.Encode(came); err != nil {
			return err
		}
	}
}

// roomy has the kernel keep what comes while nobody reads.
func roomy(conn *net.IPConn) error {
	raw, err := conn.SyscallConn()
	if err != nil {
		return err
	}
	var refused error
	err = raw.Control(func(fd uintptr) { refused = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 16<<20) })
	return errors.Join(err, refused)
}
