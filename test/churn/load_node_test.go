//go:build node

package churn

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// roleEnv makes a copy of the test program a part of the load: its value is the role.
const roleEnv = "NEARPATH_CHURN_ROLE"

const (
	roleServer = "server" // answers as every backend there is
	roleLoad   = "load"   // connects to Services, and writes what came of it when its standard input ends
	roleChoose = "choose" // connects datagram sockets to Service 0 as often as it is told, and writes where they went
)

// play plays a role to its end.
func play(role string) error {
	switch role {
	case roleServer:
		return serve(os.Stdout)
	case roleLoad:
		return load(os.Stdin, os.Stdout, os.Args[1:])
	case roleChoose:
		return choose(os.Stdout, os.Args[1])
	}
	return fmt.Errorf("no role %q", role)
}

// serve answers connections and datagrams on all addresses with the address that they came to: four bytes, and then
// everything that comes. It says so when it is ready, and ends with its process.
func serve(out io.Writer) error {
	listener, err := net.Listen("tcp4", fmt.Sprintf(":%d", backendPort))
	if err != nil {
		return err
	}
	for range 4 {
		if err := answer(); err != nil {
			return err
		}
	}
	fmt.Fprintln(out, "ready")
	for {
		c, err := listener.Accept()
		if err != nil {
			return err
		}
		go func() {
			defer c.Close()
			id := c.LocalAddr().(*net.TCPAddr).AddrPort().Addr().Unmap().As4()
			if _, err := c.Write(id[:]); err == nil {
				_, _ = io.Copy(c, c)
			}
		}()
	}
}

// answer makes one of several sockets that share the port and answer datagrams.
func answer() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err == nil {
		err = errors.Join(
			unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEPORT, 1), unix.SetsockoptInt(fd, unix.SOL_IP, unix.IP_PKTINFO, 1),
			unix.Bind(fd, &unix.SockaddrInet4{Port: backendPort}))
	}
	if err != nil {
		return err
	}
	go func() {
		buf, oob := make([]byte, 64), make([]byte, 128)
		for {
			_, n, _, from, err := unix.Recvmsg(fd, buf, oob, 0)
			if err != nil {
				continue
			}
			info := oob[:n]
			// struct in_pktinfo behind the header: index, address to answer from, address that it came to (ip(7)).
			at := unix.CmsgSpace(0)
			id := [4]byte(info[at+8 : at+12])
			copy(info[at+4:at+8], id[:])
			clear(info[at : at+4])
			_ = unix.Sendmsg(fd, id[:], info, from, 0)
		}
	}()
	return nil
}

// A pick is a connection or an exchange of datagrams, as its client saw it. Times are CLOCK_MONOTONIC.
type pick struct {
	Start, End int64
	Service    uint32 // number of the Service that was asked
	Backend    [4]byte
	Errno      uint32
	UDP        bool
	Long       bool // an exchange on a connection that stays open
	_          [6]byte
}

func (p pick) String() string {
	s := fmt.Sprintf("connection to Service %d", p.Service)
	if p.UDP {
		s = fmt.Sprintf("datagram to Service %d", p.Service)
	}
	if p.Errno != 0 {
		return fmt.Sprintf("%s: %s", s, unix.Errno(p.Errno))
	}
	return fmt.Sprintf("%s: answer of %s", s, netip.AddrFrom4(p.Backend))
}

func now() int64 {
	var ts unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts) // never fails
	return ts.Nano()
}

// A plan is what a load does.
type plan struct {
	rate     int // connections a second
	services int // numbers below it are asked, half of all connections go to number 0
	long     int // connections to number 0 that stay open
	datagram int // connected UDP sockets to number 0
}

func (p plan) args() []string {
	return []string{fmt.Sprint(p.rate), fmt.Sprint(p.services), fmt.Sprint(p.long), fmt.Sprint(p.datagram)}
}

const (
	// workers make connections at the same time.
	workers = 8
	// exchangeEvery is the pause between exchanges on what stays open.
	exchangeEvery = 20 * time.Millisecond
	// tooLong is when a call counts as failed.
	tooLong = 5 * time.Second
)

// load works until in ends.
func load(in io.Reader, out io.Writer, args []string) error {
	var p plan
	for i, to := range []*int{&p.rate, &p.services, &p.long, &p.datagram} {
		if _, err := fmt.Sscan(args[i], to); err != nil {
			return err
		}
	}
	var (
		all   sync.WaitGroup
		mu    sync.Mutex
		picks []pick
	)
	stop := make(chan struct{})
	run := func(f func(<-chan struct{}) []pick) {
		all.Go(func() {
			got := f(stop)
			mu.Lock()
			defer mu.Unlock()
			picks = append(picks, got...)
		})
	}
	for i := range workers {
		run(func(stop <-chan struct{}) []pick { return p.connects(i, stop) })
	}
	for range p.long {
		run(stayConnected)
	}
	for range p.datagram {
		run(exchangeDatagrams)
	}
	_, _ = io.Copy(io.Discard, in)
	close(stop)
	all.Wait()
	return binary.Write(out, binary.NativeEndian, picks)
}

// connects makes a worker's share of connections, each at its time; what it cannot make in time it makes late.
func (p plan) connects(worker int, stop <-chan struct{}) (picks []pick) {
	every := time.Second * workers / time.Duration(p.rate)
	next := time.Now().Add(every * time.Duration(worker) / workers)
	for {
		select {
		case <-stop:
			return picks
		case <-time.After(time.Until(next)):
		}
		next = next.Add(every)
		if behind := time.Since(next); behind > time.Second {
			next = time.Now()
		}
		var service uint32
		if rand.IntN(2) == 1 {
			service = rand.Uint32N(uint32(p.services))
		}
		picks = append(picks, connectOnce(service))
	}
}

// connectOnce connects, reads who answers and hangs up with a reset, which leaves nothing in TIME_WAIT.
func connectOnce(service uint32) pick {
	k := pick{Service: service, Start: now()}
	fd, err := dial(unix.SOCK_STREAM, service)
	k.End = now()
	if err == nil {
		err = readID(fd, k.Backend[:])
		_ = unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1})
		unix.Close(fd)
	}
	k.Errno = errnoOf(err)
	return k
}

// dial connects a socket to a Service. The caller closes it.
func dial(kind int, service uint32) (int, error) {
	fd, err := unix.Socket(unix.AF_INET, kind|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, err
	}
	limit := unix.NsecToTimeval(int64(tooLong))
	err = errors.Join(
		unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &limit), unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_SNDTIMEO, &limit))
	for err == nil {
		err = unix.Connect(fd, &unix.SockaddrInet4{Addr: clusterIP(service).As4(), Port: servicePort})
		if err == nil {
			return fd, nil
		}
		if errors.Is(err, unix.EINTR) { // of the Go runtime's own signals
			err = nil
		}
	}
	unix.Close(fd)
	return 0, err
}

func readID(fd int, into []byte) error {
	for len(into) > 0 {
		n, err := unix.Read(fd, into)
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil:
			return err
		case n == 0:
			return unix.ECONNRESET
		}
		into = into[max(n, 0):]
	}
	return nil
}

func errnoOf(err error) uint32 {
	var errno unix.Errno
	if err == nil {
		return 0
	}
	if errors.As(err, &errno) {
		return uint32(errno)
	}
	return uint32(unix.EIO)
}

// stayConnected holds one connection and has the server send back what it gets. It may not break, whatever becomes of the
// Service's endpoints.
func stayConnected(stop <-chan struct{}) (picks []pick) {
	k := pick{Start: now(), Long: true}
	fd, err := dial(unix.SOCK_STREAM, 0)
	if err == nil {
		defer unix.Close(fd)
		err = readID(fd, k.Backend[:])
	}
	for {
		k.End, k.Errno = now(), errnoOf(err)
		picks = append(picks, k)
		if err != nil || !pause(stop) {
			return picks
		}
		k.Start = now()
		echo := [4]byte{}
		if _, err = unix.Write(fd, k.Backend[:]); err == nil {
			err = readID(fd, echo[:])
		}
		if err == nil && echo != k.Backend {
			err = unix.EBADMSG
		}
	}
}

func pause(stop <-chan struct{}) bool {
	select {
	case <-stop:
		return false
	case <-time.After(exchangeEvery):
		return true
	}
}

// exchangeDatagrams asks by one connected UDP socket for as long as that works, and then by another one.
func exchangeDatagrams(stop <-chan struct{}) (picks []pick) {
	fd := -1
	for pause(stop) {
		k, err := pick{Start: now(), UDP: true}, error(nil)
		if fd < 0 {
			fd, err = dial(unix.SOCK_DGRAM, 0)
		}
		if err == nil {
			_, err = unix.Write(fd, []byte("?"))
		}
		if err == nil {
			err = readID(fd, k.Backend[:])
		}
		k.End, k.Errno = now(), errnoOf(err)
		picks = append(picks, k)
		if err != nil && fd >= 0 {
			unix.Close(fd)
			fd = -1
		}
	}
	if fd >= 0 {
		unix.Close(fd)
	}
	return picks
}

// choose writes how many sockets each endpoint got. A socket that is connected to an address of the node itself has that one
// for its own.
func choose(out io.Writer, times string) error {
	n, err := strconv.Atoi(times)
	if err != nil {
		return err
	}
	var counts [endpointsEach]int
	for range n {
		fd, err := dial(unix.SOCK_DGRAM, 0)
		if err != nil {
			return err
		}
		own, err := unix.Getsockname(fd)
		unix.Close(fd)
		if err != nil {
			return err
		}
		service, at := ownerOf(own.(*unix.SockaddrInet4).Addr)
		if service != 0 {
			return fmt.Errorf("connected to an endpoint of Service %d", service)
		}
		counts[at]++
	}
	return json.NewEncoder(out).Encode(counts)
}
