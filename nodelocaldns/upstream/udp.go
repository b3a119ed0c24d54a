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

// exchangeUDP asks over a socket that is connected, so that other sources cannot reply and a closed port is known at once,
// and that no other question uses: its port is a random one (RFC 5452, 9.2). mismatched is called for each datagram that
// is not the reply.
func exchangeUDP(ctx context.Context, socket net.Conn, q *query, plain bool, mismatched func()) ([]byte, error) {
	id := newID()
	if deadline, ok := ctx.Deadline(); ok {
		_ = socket.SetDeadline(deadline)
	}
	stop := context.AfterFunc(ctx, func() { _ = socket.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	buffer := datagrams.Get().(*[maxDatagram]byte)
	defer datagrams.Put(buffer)
	if _, err := socket.Write(q.message(buffer[:0], id, plain)); err != nil {
		return nil, cause(ctx, err)
	}
	for {
		n, err := socket.Read(buffer[:])
		if err != nil {
			return nil, cause(ctx, err)
		}
		switch {
		case q.judge(id, buffer[:n]) == isOther:
			mismatched()
		case n == maxDatagram:
			return nil, errDatagram
		default:
			return append([]byte(nil), buffer[:n]...), nil
		}
	}
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
