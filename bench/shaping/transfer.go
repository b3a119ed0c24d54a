package shaping

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nearpath/nearpath/bench/measure"
	"github.com/nearpath/nearpath/test/netlab"
)

// A transferred is what came over a connection: bytes of each second, and how many segments were sent again, in percent.
type transferred struct {
	bytes []int64
	took  []time.Duration
	again float64
}

// add puts the figures into samples whose metrics' names begin with name. What is above the limit is counted from the
// beginning: a second in which a gap in the sequence is closed has what was received in the one before.
func (t transferred) add(samples measure.Samples, name string, bits uint64) {
	percent := func(n int64, took time.Duration) float64 { return 100 * float64(8*n) / took.Seconds() / float64(bits) }
	var sum int64
	var took time.Duration
	for i, n := range t.bytes {
		metric := name + " later"
		if i == 0 {
			metric = name + " first"
		}
		samples[metric] = append(samples[metric], percent(n, t.took[i]))
		sum, took = sum+n, took+t.took[i]
		samples[name+" over"] = append(samples[name+" over"], max(0, percent(sum, took)-100))
	}
	samples[name+" again"] = []float64{t.again}
}

// transfer sends as much as goes from one namespace to an address in the other, for some seconds.
func transfer(ctx context.Context, from, to *netlab.NetNS, addr string, seconds int) (t transferred, err error) {
	sender, receiver, err := connect(ctx, from, to, addr)
	if err != nil {
		return t, err
	}
	var got atomic.Int64
	done := make(chan error, 2)
	go func() { done <- flood(sender) }()
	go func() { done <- drain(receiver, &got) }()
	began := time.Now()
	for last, at := int64(0), began; len(t.bytes) < seconds && ctx.Err() == nil; {
		select {
		case <-ctx.Done():
		case <-time.After(time.Until(began.Add(time.Duration(len(t.bytes)+1) * time.Second))):
		}
		n, now := got.Load(), time.Now()
		t.bytes, t.took = append(t.bytes, n-last), append(t.took, now.Sub(at))
		last, at = n, now
	}
	t.again, err = sentAgain(sender)
	return t, errors.Join(err, ctx.Err(), sender.Close(), receiver.Close(), ended(<-done), ended(<-done))
}

// connect returns both ends of a connection, each of its namespace.
func connect(ctx context.Context, from, to *netlab.NetNS, addr string) (sender, receiver *net.TCPConn, err error) {
	var l net.Listener
	err = to.Do(func() (err error) {
		var config net.ListenConfig
		l, err = config.Listen(ctx, "tcp", net.JoinHostPort(addr, "0"))
		return err
	})
	if err != nil {
		return nil, nil, err
	}
	defer l.Close()
	err = from.Do(func() error {
		dialer := net.Dialer{Timeout: 5 * time.Second}
		conn, err := dialer.DialContext(ctx, "tcp", l.Addr().String())
		if err == nil {
			sender = conn.(*net.TCPConn)
		}
		return err
	})
	if err != nil {
		return nil, nil, err
	}
	conn, err := l.Accept()
	if err != nil {
		return nil, nil, errors.Join(err, sender.Close())
	}
	return sender, conn.(*net.TCPConn), nil
}

func flood(c net.Conn) error {
	for chunk := make([]byte, 1<<17); ; {
		if _, err := c.Write(chunk); err != nil {
			return err
		}
	}
}

func drain(c net.Conn, got *atomic.Int64) error {
	for chunk := make([]byte, 1<<18); ; {
		n, err := c.Read(chunk)
		got.Add(int64(n))
		if err != nil {
			return err
		}
	}
}

// ended takes the end that we make ourselves for none.
func ended(err error) error {
	if errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}

// sentAgain is the share of a connection's segments that were sent again, in percent.
func sentAgain(c *net.TCPConn) (percent float64, err error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return 0, err
	}
	var info *unix.TCPInfo
	if ctlErr := raw.Control(func(fd uintptr) { info, err = unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO) }); ctlErr != nil {
		return 0, ctlErr
	}
	if err != nil {
		return 0, fmt.Errorf("read TCP_INFO: %w", err)
	}
	return 100 * float64(info.Total_retrans) / float64(max(info.Data_segs_out, 1)), nil
}
