package dnslab

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/netip"
	"runtime"
	"time"

	"github.com/miekg/dns"
	"golang.org/x/sys/unix"

	"github.com/nearpath/nearpath/bench/remote"
)

// What a client does: a [Loop], a [Rate], a [Burst] or [Searches], or it says how many bytes maps have, by a list of their
// names, or how many questions the kernel has answered. With VerbPin it stays on a processor, by its number, as the upstream does.
const (
	VerbLoop   = "loop"
	VerbRate   = "rate"
	VerbBurst  = "burst"
	VerbSearch = "search"
	VerbMaps   = "maps"
	VerbHits   = "hits"
	VerbPin    = "pin"

	verbEnter = "enter"
)

// A Loop is one question after another over one socket, the names by turns.
type Loop struct {
	Server netip.AddrPort `json:"server"`
	Names  []string       `json:"names"`
	Times  int            `json:"times"`
	// Patience bounds the wait for one answer; 0: two seconds.
	Patience time.Duration `json:"patience,omitempty"`
}

// A Rate is so many questions under way at a time, for a time.
type Rate struct {
	Server netip.AddrPort `json:"server"`
	Name   string         `json:"name"`
	Window int            `json:"window"`
	For    time.Duration  `json:"for"`
}

// A Burst is one question that so many sockets ask at once.
type Burst struct {
	Server  netip.AddrPort `json:"server"`
	Name    string         `json:"name"`
	Sockets int            `json:"sockets"`
}

// serveClient does what the benchmark asks of a pod's process, all of it on one thread.
func serveClient(in io.Reader, out io.Writer) error {
	runtime.LockOSThread() // never unlocked: the thread does not come back from the pod
	return remote.Serve(in, out, remote.Verbs{
		verbEnter: remote.Verb(func(path string) (any, error) { return nil, enter(path) }),
		VerbPin: remote.Verb(func(cpu int) (any, error) {
			var set unix.CPUSet
			set.Set(cpu)
			return nil, unix.SchedSetaffinity(0, &set)
		}),
		VerbLoop:   remote.Verb(func(l Loop) (any, error) { return l.do() }),
		VerbRate:   remote.Verb(func(r Rate) (any, error) { return r.do() }),
		VerbBurst:  remote.Verb(func(b Burst) (any, error) { return b.do() }),
		VerbSearch: remote.Verb(func(s Searches) (any, error) { return s.do() }),
		VerbMaps:   serveMaps,
		VerbHits:   func(json.RawMessage) (any, error) { return kernelHits() },
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

// A socket asks one server.
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
	_, err := unix.Write(s.fd, query)
	return err
}

func (s *socket) receive() ([]byte, error) {
	for {
		n, err := unix.Read(s.fd, s.buf[:])
		if errors.Is(err, unix.EINTR) { // the runtime's own signals
			continue
		}
		return s.buf[:max(n, 0)], err
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
func (l Loop) do() (times []float64, err error) {
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
func (r Rate) do() (answered int, err error) {
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

// How long a burst waits for answers, and after which time it asks those again that it has none from, as resolvers do: a
// server's queue is shorter than a burst.
const (
	burstPatience = 5 * time.Second
	burstAgain    = time.Second
)

// do returns how many sockets got an answer.
func (b Burst) do() (answered int, err error) {
	query, err := question(b.Name)
	if err != nil {
		return 0, err
	}
	waiting := make([]*socket, b.Sockets)
	for i := range waiting {
		if waiting[i], err = dial(b.Server, time.Millisecond); err != nil {
			return 0, err
		}
		defer unix.Close(waiting[i].fd)
	}
	for end := time.Now().Add(burstPatience); err == nil && len(waiting) > 0 && time.Now().Before(end); {
		waiting, err = askOnce(waiting, query)
	}
	if err != nil {
		return 0, fmt.Errorf("ask %s for %s by %d sockets: %w", b.Server, b.Name, b.Sockets, err)
	}
	return b.Sockets - len(waiting), nil
}

// askOnce has sockets ask, and returns those that have no answer when it is time to ask again.
func askOnce(sockets []*socket, query []byte) (waiting []*socket, err error) {
	for _, s := range sockets {
		if err := s.send(query); err != nil {
			return nil, err
		}
	}
	waiting = sockets
	for again := time.Now().Add(burstAgain); err == nil && len(waiting) > 0 && time.Now().Before(again); {
		waiting, err = stillWaiting(waiting, query)
	}
	return waiting, err
}

// stillWaiting takes the answers there are, and returns who has none.
func stillWaiting(sockets []*socket, query []byte) (left []*socket, err error) {
	polls := make([]unix.PollFd, len(sockets))
	for i, s := range sockets {
		polls[i] = unix.PollFd{Fd: int32(s.fd), Events: unix.POLLIN}
	}
	if _, err := unix.Poll(polls, 10); err != nil && !errors.Is(err, unix.EINTR) {
		return nil, err
	}
	for i, s := range sockets {
		if polls[i].Revents == 0 {
			left = append(left, s)
			continue
		}
		answer, err := s.receive()
		if err == nil {
			err = check(query, answer)
		}
		if err != nil {
			return nil, err
		}
	}
	return left, nil
}
