package dns

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/netip"
	"runtime"
	"time"
	"unsafe"

	"github.com/miekg/dns"
	"golang.org/x/sys/unix"

	"github.com/nearpath/nearpath/bench/remote"
)

// What a client does.
const (
	verbEnter = "enter"
	verbPin   = "pin"
	verbLoop  = "loop"
	verbRate  = "rate"
	verbBurst = "burst"
	verbMaps  = "maps"
)

// A loop is one question after another over one socket, the names by turns.
type loop struct {
	Server netip.AddrPort `json:"server"`
	Names  []string       `json:"names"`
	Times  int            `json:"times"`
	// Patience bounds the wait for one answer; 0: two seconds.
	Patience time.Duration `json:"patience,omitempty"`
}

// A rate is so many questions under way at a time, for a time.
type rate struct {
	Server netip.AddrPort `json:"server"`
	Name   string         `json:"name"`
	Window int            `json:"window"`
	For    time.Duration  `json:"for"`
}

// A burst is one question that so many sockets ask at once.
type burst struct {
	Server  netip.AddrPort `json:"server"`
	Name    string         `json:"name"`
	Sockets int            `json:"sockets"`
}

// serveClient does what the benchmark asks of a pod's process, all of it on one thread.
func serveClient(in io.Reader, out io.Writer) error {
	runtime.LockOSThread() // never unlocked: the thread does not come back from the pod
	return remote.Serve(in, out, remote.Verbs{
		verbEnter: remote.Verb(func(path string) (any, error) { return nil, enter(path) }),
		verbPin: remote.Verb(func(cpu int) (any, error) {
			var set unix.CPUSet
			set.Set(cpu)
			return nil, unix.SchedSetaffinity(0, &set)
		}),
		verbLoop:  remote.Verb(func(l loop) (any, error) { return l.do() }),
		verbRate:  remote.Verb(func(r rate) (any, error) { return r.do() }),
		verbBurst: remote.Verb(func(b burst) (any, error) { return b.do() }),
		verbMaps:  serveMaps,
	})
}

func enter(path string) error {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return unix.Setns(fd, unix.CLONE_NEWNET)
}

// A socket asks one server. Its calls go past Go's scheduler, which nothing else on this thread needs, and which would be
// timed, too.
type socket struct {
	fd  int
	buf [1500]byte
}

func dial(to netip.AddrPort, patience time.Duration) (*socket, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	wait := unix.NsecToTimeval(int64(patience))
	err = errors.Join(unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &wait),
		unix.Connect(fd, &unix.SockaddrInet4{Port: int(to.Port()), Addr: to.Addr().As4()}))
	if err != nil {
		return nil, errors.Join(err, unix.Close(fd))
	}
	return &socket{fd: fd}, nil
}

func (s *socket) send(query []byte) error {
	_, _, errno := unix.RawSyscall(unix.SYS_WRITE, uintptr(s.fd), uintptr(unsafe.Pointer(unsafe.SliceData(query))), uintptr(len(query)))
	if errno != 0 {
		return errno
	}
	return nil
}

func (s *socket) receive() ([]byte, error) {
	for {
		n, _, errno := unix.RawSyscall(unix.SYS_READ, uintptr(s.fd), uintptr(unsafe.Pointer(&s.buf)), uintptr(len(s.buf)))
		switch errno {
		case 0:
			return s.buf[:n], nil
		case unix.EINTR: // the runtime's own signals
		default:
			return nil, errno
		}
	}
}

// question is a query for the address of a name.
func question(name string) ([]byte, error) {
	m := new(dns.Msg)
	m.SetQuestion(dns.Fqdn(name), dns.TypeA)
	return m.Pack()
}

// check wants an answer to the query: that of an echo server is one, too.
func check(query, answer []byte) error {
	const rcode = 0x0f
	if len(answer) < len(query) || binary.BigEndian.Uint16(answer) != binary.BigEndian.Uint16(query) {
		return fmt.Errorf("%d bytes that are no answer", len(answer))
	}
	if code := answer[3] & rcode; code != dns.RcodeSuccess {
		return fmt.Errorf("status %s", dns.RcodeToString[int(code)])
	}
	return nil
}

// do returns nanoseconds, one figure for each question.
func (l loop) do() (times []float64, err error) {
	queries := make([][]byte, len(l.Names))
	for i, name := range l.Names {
		if queries[i], err = question(name); err != nil {
			return nil, err
		}
	}
	if l.Patience == 0 {
		l.Patience = 2 * time.Second
	}
	s, err := dial(l.Server, l.Patience)
	if err != nil {
		return nil, err
	}
	defer unix.Close(s.fd)
	times = make([]float64, 0, l.Times)
	for i := range l.Times {
		query := queries[i%len(queries)]
		binary.BigEndian.PutUint16(query, uint16(rand.Uint32()))
		start := time.Now()
		if err := s.send(query); err != nil {
			return nil, err
		}
		answer, err := s.receive()
		times = append(times, float64(time.Since(start)))
		if err == nil {
			err = check(query, answer)
		}
		if err != nil {
			return nil, fmt.Errorf("ask %s for %s: %w", l.Server, l.Names[i%len(l.Names)], err)
		}
	}
	return times, nil
}

// do returns how many questions were answered.
func (r rate) do() (answered int, err error) {
	query, err := question(r.Name)
	if err != nil {
		return 0, err
	}
	s, err := dial(r.Server, time.Second)
	if err != nil {
		return 0, err
	}
	defer unix.Close(s.fd)
	for range r.Window {
		if err := s.send(query); err != nil {
			return 0, err
		}
	}
	for end := time.Now().Add(r.For); time.Now().Before(end); answered++ {
		answer, err := s.receive()
		if err == nil {
			err = check(query, answer)
		}
		if err == nil {
			err = s.send(query)
		}
		if err != nil {
			return 0, fmt.Errorf("ask %s for %s, %d at a time: %w", r.Server, r.Name, r.Window, err)
		}
	}
	return answered, nil
}

// do returns how many sockets got an answer.
func (b burst) do() (answered int, err error) {
	query, err := question(b.Name)
	if err != nil {
		return 0, err
	}
	var sockets []*socket
	defer func() {
		for _, s := range sockets {
			_ = unix.Close(s.fd)
		}
	}()
	for range b.Sockets {
		s, err := dial(b.Server, 5*time.Second)
		if err != nil {
			return 0, err
		}
		sockets = append(sockets, s)
	}
	for i, s := range sockets {
		binary.BigEndian.PutUint16(query, uint16(i))
		if err := s.send(query); err != nil {
			return 0, err
		}
	}
	for i, s := range sockets {
		binary.BigEndian.PutUint16(query, uint16(i))
		answer, err := s.receive()
		if errors.Is(err, unix.EAGAIN) {
			continue // an answer that is missed is what is counted
		}
		if err == nil {
			err = check(query, answer)
		}
		if err != nil {
			return 0, fmt.Errorf("ask %s for %s by %d sockets: %w", b.Server, b.Name, b.Sockets, err)
		}
		answered++
	}
	return answered, nil
}
