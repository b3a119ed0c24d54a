package service

import (
	"errors"
	"fmt"
	"io"
	"net/netip"
	"runtime"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nearpath/nearpath/bench/remote"
	"github.com/nearpath/nearpath/bench/tcp"
)

// What a client does.
const (
	verbConnect   = "connect"
	verbRoundTrip = "roundtrip"
	verbStream    = "stream"
	verbHook      = "hook"
)

// A dial is connections to make, to the targets by turns.
type dial struct {
	Targets []netip.AddrPort `json:"targets"`
	Times   int              `json:"times"`
}

// A dialled is what they took, each in nanoseconds: connect(), and close() of the same socket.
type dialled struct {
	Connect []float64 `json:"connect"`
	Close   []float64 `json:"close"`
}

// An exchange is one byte there and one back, so many times, over one connection.
type exchange struct {
	Target netip.AddrPort `json:"target"`
	Times  int            `json:"times"`
}

// A flow is as many bytes as go in a time.
type flow struct {
	Target netip.AddrPort `json:"target"`
	For    time.Duration  `json:"for"`
}

// serveClient does what the benchmark asks of a pod's process.
func serveClient(in io.Reader, out io.Writer) error {
	return remote.Serve(in, out, remote.Verbs{
		verbConnect:   remote.Verb(func(d dial) (any, error) { return d.do(tcp.ConnectAndReset) }),
		verbHook:      remote.Verb(func(d dial) (any, error) { return d.do(connectNowhere) }),
		verbRoundTrip: remote.Verb(func(e exchange) (any, error) { return e.do() }),
		verbStream:    remote.Verb(func(f flow) (any, error) { return f.do() }),
	})
}

func (d dial) do(one func(netip.AddrPort) (connect, closing time.Duration, err error)) (t dialled, err error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	for i := range d.Times {
		connect, closing, err := one(d.Targets[i%len(d.Targets)])
		if err != nil {
			return t, fmt.Errorf("connection %d: %w", i, err)
		}
		t.Connect, t.Close = append(t.Connect, float64(connect)), append(t.Close, float64(closing))
	}
	return t, nil
}

// connectNowhere connects to what no route leads to: what is left is the work around the packets, the hooks included.
func connectNowhere(to netip.AddrPort) (connect, closing time.Duration, err error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, 0, err
	}
	start := time.Now()
	err = unix.Connect(fd, tcp.Sockaddr(to))
	connected := time.Now()
	closeErr := unix.Close(fd)
	closing = time.Since(connected)
	if !errors.Is(err, unix.ENETUNREACH) && !errors.Is(err, unix.EHOSTUNREACH) {
		return 0, 0, fmt.Errorf("connect to %s, which no route leads to, does not say so: %w", to, err)
	}
	return connected.Sub(start), closing, closeErr
}

// open connects for a purpose, which it tells the server.
func open(to netip.AddrPort, purpose byte) (fd int, err error) {
	fd, err = unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, err
	}
	err = unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1)
	if err == nil {
		err = unix.Connect(fd, tcp.Sockaddr(to))
	}
	if err == nil {
		_, err = unix.Write(fd, []byte{purpose})
	}
	if err != nil {
		_ = unix.Close(fd)
	}
	return fd, err
}

// do returns nanoseconds, one figure for each exchange.
func (e exchange) do() (times []float64, err error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	fd, err := open(e.Target, tcp.PurposeEcho)
	if err != nil {
		return nil, err
	}
	defer unix.Close(fd)
	b := []byte{'x'}
	for range e.Times {
		start := time.Now()
		if _, err := unix.Write(fd, b); err != nil {
			return nil, err
		}
		if n, err := unix.Read(fd, b); n != 1 {
			return nil, fmt.Errorf("the server answers with %d bytes: %w", n, err)
		}
		times = append(times, float64(time.Since(start)))
	}
	return times, nil
}

// do returns bytes per second, as far as the server has taken them.
func (f flow) do() (rate float64, err error) {
	fd, err := open(f.Target, tcp.PurposeSink)
	if err != nil {
		return 0, err
	}
	defer unix.Close(fd)
	chunk, sent := make([]byte, 1<<18), 0
	start := time.Now()
	for time.Since(start) < f.For {
		n, err := unix.Write(fd, chunk)
		if err != nil {
			return 0, err
		}
		sent += n
	}
	if err := unix.Shutdown(fd, unix.SHUT_WR); err != nil {
		return 0, err
	}
	if _, err := unix.Read(fd, chunk[:1]); err != nil { // the server closes when it has all of it
		return 0, err
	}
	return float64(sent) / time.Since(start).Seconds(), nil
}
