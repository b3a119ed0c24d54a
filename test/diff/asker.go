package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// backendPorts are what backends serve, in worlds and in the lab.
var backendPorts = []uint16{8080, 8081}

// window is how many connections of one place may be open at a time.
const window = 512

// An asker makes connections from the network namespace of the thread that calls it, all of them at once without a
// thread for each.
type asker struct {
	addrs []netip.Addr
	poll  int // epoll
	open  map[int]*attempt
	queue []*attempt // those waited for, in the order of their deadlines
}

// An attempt is one connection.
type attempt struct {
	fd       int
	ask      int // index in the order
	udp      bool
	told     bool // TCP: connected
	deadline time.Time
	over     bool
}

func newAsker(addrs []netip.Addr) (*asker, error) {
	poll, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	return &asker{addrs: addrs, poll: poll, open: map[int]*attempt{}}, err
}

// run makes all tries of a job: a first one of each ask, and the others of those that were answered, one after the other:
// affinity is for clients that have been here before.
func (a *asker) run(j job) error {
	left := make([]int, len(j.Asks))
	var next []int
	for i, ask := range j.Asks {
		j.results[i], left[i] = seen{}, ask.Tries-1
		next = append(next, i)
	}
	finish := func(at *attempt, e ending) {
		if at.over {
			return
		}
		at.over = true
		delete(a.open, at.fd)
		unix.Close(at.fd)
		j.results[at.ask][e]++
		if e != lost && left[at.ask] > 0 {
			left[at.ask]--
			next = append(next, at.ask)
		}
	}
	for len(next) > 0 || len(a.open) > 0 {
		var err error
		if len(next) > 0 && len(a.open) < window {
			i := next[0]
			next = next[1:]
			err = a.start(j, i, finish)
		} else {
			err = a.wait(finish)
		}
		if err != nil {
			return err
		}
	}
	a.queue = a.queue[:0]
	return nil
}

// start opens one connection.
func (a *asker) start(j job, i int, finish func(*attempt, ending)) error {
	ask := j.Asks[i]
	fd, err := newSocket(ask)
	if err != nil {
		return fmt.Errorf("make a socket: %w", err)
	}
	at := &attempt{fd: fd, ask: i, udp: ask.UDP, deadline: time.Now().Add(j.Patience)}
	err = unix.Connect(fd, sockaddr(ask.To))
	if err == nil && ask.UDP {
		_, err = unix.Write(fd, []byte{'?'})
	}
	if j.Netfilter && errors.Is(err, unix.EPERM) {
		err = nil
	}
	if err != nil && !errors.Is(err, unix.EINPROGRESS) {
		finish(at, endingOf(err))
		return nil
	}
	events := uint32(unix.EPOLLIN)
	if !ask.UDP {
		events = unix.EPOLLOUT
	}
	if err := unix.EpollCtl(a.poll, unix.EPOLL_CTL_ADD, fd, &unix.EpollEvent{Events: events, Fd: int32(fd)}); err != nil {
		return fmt.Errorf("watch a socket: %w", err)
	}
	a.open[fd] = at
	a.queue = append(a.queue, at)
	return nil
}

// newSocket makes a socket in the calling thread's network namespace. Closing one of TCP resets its connection: neither side
// keeps it.
func newSocket(ask ask) (int, error) {
	family, kind := unix.AF_INET, unix.SOCK_STREAM
	if ask.To.Addr().Is6() {
		family = unix.AF_INET6
	}
	if ask.UDP {
		kind = unix.SOCK_DGRAM
	}
	fd, err := unix.Socket(family, kind|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil || ask.UDP {
		return fd, err
	}
	err = unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1})
	if err == nil && family == unix.AF_INET6 {
		err = unix.SetsockoptInt(fd, unix.SOL_IPV6, unix.IPV6_RECVERR, 1)
	}
	if err != nil {
		unix.Close(fd)
	}
	return fd, err
}

// wait finishes what has come to an end, and what has waited long enough.
func (a *asker) wait(finish func(*attempt, ending)) error {
	for len(a.queue) > 0 && a.queue[0].over {
		a.queue = a.queue[1:]
	}
	if len(a.queue) == 0 {
		return nil
	}
	patience := max(0, int(time.Until(a.queue[0].deadline).Milliseconds())+1)
	events := make([]unix.EpollEvent, 128)
	n, err := unix.EpollWait(a.poll, events, patience)
	if err != nil && !errors.Is(err, unix.EINTR) {
		return fmt.Errorf("wait for sockets: %w", err)
	}
	for _, e := range events[:max(n, 0)] {
		if at := a.open[int(e.Fd)]; at != nil {
			if err := a.happened(at, e.Events, finish); err != nil {
				return err
			}
		}
	}
	// Only what nothing was heard of in a round of events has waited long enough: this thread may not have run for a while.
	if n > 0 {
		return nil
	}
	now := time.Now()
	for len(a.queue) > 0 && (a.queue[0].over || !now.Before(a.queue[0].deadline)) {
		finish(a.queue[0], lost)
		a.queue = a.queue[1:]
	}
	return nil
}

// happened looks what there is about a socket.
func (a *asker) happened(at *attempt, events uint32, finish func(*attempt, ending)) error {
	errno, err := unix.GetsockoptInt(at.fd, unix.SOL_SOCKET, unix.SO_ERROR)
	if err != nil {
		return err
	}
	if errno == 0 && events&unix.EPOLLERR != 0 {
		errno = queuedError(at.fd)
	}
	if errno != 0 {
		finish(at, endingOf(unix.Errno(errno)))
		return nil
	}
	if !at.udp && !at.told {
		at.told = true
		return unix.EpollCtl(a.poll, unix.EPOLL_CTL_MOD, at.fd, &unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(at.fd)})
	}
	buf := make([]byte, 256)
	n, err := unix.Read(at.fd, buf)
	switch {
	case errors.Is(err, unix.EAGAIN):
	case err != nil:
		finish(at, endingOf(err))
	case n == 0:
		finish(at, "CLOSED")
	default:
		finish(at, ending(strings.TrimSpace(string(buf[:n]))))
	}
	return nil
}

// queuedError is the error number of an ICMP error that a socket has queued, 0 for none. When one comes in while connect()
// is still under way, as it does in a lab, an IPv6 socket reports it otherwise only of the next SYN (tcp_v6_err).
func queuedError(fd int) int {
	buf, control := make([]byte, 256), make([]byte, 256)
	_, n, _, _, err := unix.Recvmsg(fd, buf, control, unix.MSG_ERRQUEUE)
	if err != nil {
		return 0
	}
	messages, err := unix.ParseSocketControlMessage(control[:n])
	for _, m := range messages {
		if err == nil && m.Header.Level == unix.SOL_IPV6 && m.Header.Type == unix.IPV6_RECVERR && len(m.Data) >= 4 {
			return int(binary.NativeEndian.Uint32(m.Data)) // ee_errno of struct sock_extended_err
		}
	}
	return 0
}

func endingOf(err error) ending {
	var errno unix.Errno
	switch {
	case errors.Is(err, unix.ECONNREFUSED):
		return refused
	case errors.As(err, &errno):
		return ending(unix.ErrnoName(errno))
	}
	return ending(err.Error())
}

func sockaddr(to netip.AddrPort) unix.Sockaddr {
	if to.Addr().Is4() {
		return &unix.SockaddrInet4{Addr: to.Addr().As4(), Port: int(to.Port())}
	}
	return &unix.SockaddrInet6{Addr: to.Addr().As16(), Port: int(to.Port())}
}
