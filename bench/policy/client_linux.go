package policy

import (
	"fmt"
	"io"
	"net/netip"
	"os"
	"runtime"

	"golang.org/x/sys/unix"

	"github.com/nearpath/nearpath/bench/dnslab"
	"github.com/nearpath/nearpath/bench/remote"
	"github.com/nearpath/nearpath/bench/tcp"
)

// What a pod does.
const (
	verbSend    = "send"
	verbConnect = "connect"
)

// A sending is datagrams to a port of dark, or each to the next one.
type sending struct {
	Port  uint16 `json:"port"`
	Times int    `json:"times"`
	Move  bool   `json:"move,omitempty"`
}

// atOnce is how many datagrams or connections are timed together: reading the clock takes a tenth of the time of one.
const atOnce = 10

// serveClient does what the benchmark asks of a pod's process. What is timed is processor time of its thread: a packet goes
// its whole way in that, and what else runs on the machine is not in it. All pods are on one processor: two of them may be unequally
// fast for minutes.
func serveClient(in io.Reader, out io.Writer) error {
	if err := dnslab.Pin(os.Getpid(), 0); err != nil {
		return err
	}
	return remote.Serve(in, out, remote.Verbs{
		verbSend: remote.Verb(func(s sending) (any, error) { return s.do() }),
		verbConnect: remote.Verb(func(times int) (any, error) {
			return eachOf(times, func() error {
				_, _, err := tcp.ConnectAndReset(netip.AddrPortFrom(answers, tcp.Port))
				return err
			})
		}),
	})
}

func (s sending) do() ([]float64, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	defer unix.Close(fd)
	// One port for all processes and times, so that connections are the same ones.
	if err := unix.Bind(fd, &unix.SockaddrInet4{Port: 20000}); err != nil {
		return nil, err
	}
	to := &unix.SockaddrInet4{Port: int(s.Port), Addr: dark.As4()}
	payload := make([]byte, 64)
	return eachOf(s.Times, func() error {
		err := unix.Sendto(fd, payload, 0, to)
		if s.Move {
			to.Port++
		}
		return err
	})
}

// eachOf does something so many times and returns nanoseconds of processor time, a figure for each atOnce of them.
func eachOf(times int, do func() error) (took []float64, err error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	for i := 0; i < times; i += atOnce {
		began := processorTime()
		for n := range atOnce {
			if err := do(); err != nil {
				return nil, fmt.Errorf("number %d: %w", i+n, err)
			}
		}
		took = append(took, float64(processorTime()-began)/atOnce)
	}
	return took, nil
}

// processorTime is the thread's, in nanoseconds.
func processorTime() int64 {
	var t unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &t) // fails for clocks that do not exist only
	return t.Nano()
}
