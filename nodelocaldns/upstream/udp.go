package upstream

import (
	"context"
	"errors"
	"net"
	"os"
	"sync"
	"time"
)

// maxDatagram is what we read at most: servers should keep to the size we announce, and some do not. Longer ones count as
// truncated.
const maxDatagram = 4096

var errDatagram = errors.New("the reply does not fit a datagram")

var datagrams = sync.Pool{New: func() any { return new([maxDatagram]byte) }}

// A datagramExchange asks over a socket that is connected, so that other sources cannot reply and a closed port is known at
// once, and that no other question uses: its port is a random one (RFC 5452, 9.2).
type datagramExchange struct {
	socket     net.Conn
	q          *query
	id         uint16
	mismatched func() // called for each datagram that is not the reply
}

// ask sends the question.
func (d *datagramExchange) ask(plain bool) error {
	d.id = newID()
	buffer := datagrams.Get().(*[maxDatagram]byte)
	defer datagrams.Put(buffer)
	_, err := d.socket.Write(d.q.message(buffer[:0], d.id, plain))
	return err
}

// reply waits for it until the socket's deadline, and may be called again after that.
func (d *datagramExchange) reply() ([]byte, error) {
	buffer := datagrams.Get().(*[maxDatagram]byte)
	defer datagrams.Put(buffer)
	for {
		n, err := d.socket.Read(buffer[:])
		switch {
		case err != nil:
			return nil, err
		case d.q.judge(d.id, buffer[:n]) == isOther:
			d.mismatched()
		case n == maxDatagram:
			return nil, errDatagram
		default:
			return append([]byte(nil), buffer[:n]...), nil
		}
	}
}

// wait waits for the reply until the context ends.
func (d *datagramExchange) wait(ctx context.Context) ([]byte, error) {
	deadline, _ := ctx.Deadline()
	_ = d.socket.SetDeadline(deadline)
	stop := context.AfterFunc(ctx, func() { _ = d.socket.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	reply, err := d.reply()
	if err != nil {
		return nil, cause(ctx, err)
	}
	return reply, nil
}

// cause prefers why a context has ended to what that did to the socket.
func cause(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return context.DeadlineExceeded // the socket's timer was first
	}
	return err
}
