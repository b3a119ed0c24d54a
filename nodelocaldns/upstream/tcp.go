package upstream

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"sync"
	"time"
)

const (
	// maxCalls bounds the questions of one connection whose replies are missing, those nobody waits for included.
	maxCalls = 1024
	// writeTimeout ends a connection whose other side takes nothing any more.
	writeTimeout = time.Second
	// maxBatch is how many bytes of questions go into one write.
	maxBatch = 16 << 10
)

var (
	errBusy    = errors.New("the connection is full")
	errMixedUp = errors.New("the reply is to another question")
	errRetired = errors.New("the connection is given up")
)

// A lostError is the end of a connection while questions waited on it.
type lostError struct {
	error
	// proven says that the connection has brought replies before: its end tells little about the server, which may have
	// closed an idle connection in the moment it was used again.
	proven bool
}

func (e *lostError) Unwrap() error { return e.error }

// isStale is whether a question should be asked again at once, over another connection.
func isStale(err error) bool {
	var lost *lostError
	var timeout interface{ Timeout() bool }
	switch {
	case !errors.As(err, &lost):
		return false
	case errors.Is(err, errRetired):
		return true
	}
	return lost.proven && (!errors.As(err, &timeout) || !timeout.Timeout())
}

// A conn is one TCP connection that many questions share; replies come in any order (RFC 7766, 6.2.1.1, 7).
type conn struct {
	tcp   net.Conn
	out   chan []byte   // frames
	ended chan struct{} // closed at the end

	writing sync.Mutex // held by who writes

	mu    sync.Mutex // guards what follows
	calls map[uint16]chan<- result
	// waiting is how many of calls are waited for. An id whose question was given up stays until its reply is here: it
	// must not be another question's.
	waiting int
	since   time.Time // of the last reply, or of the first question when none was missing
	used    time.Time // when the last question was sent
	proven  bool
	retired bool  // takes no more questions
	err     error // why it has ended
}

// A result is what an attempt ends with.
type result struct {
	reply []byte
	err   error
}

// newConn starts to use a connection. atEnd is called once, after the last question has its result.
func newConn(tcp net.Conn, running *sync.WaitGroup, atEnd func(*conn)) *conn {
	c := &conn{tcp: tcp, out: make(chan []byte, 256), ended: make(chan struct{}), calls: make(map[uint16]chan<- result), used: time.Now()}
	running.Go(c.write)
	running.Go(func() {
		c.end(c.read())
		atEnd(c)
	})
	return c
}

// exchange waits for the reply, the connection's end or the context's.
func (c *conn) exchange(ctx context.Context, q *query, plain bool) ([]byte, error) {
	reply := make(chan result, 1)
	id, err := c.add(reply)
	if err != nil {
		return nil, err
	}
	frame := make([]byte, 2, 2+len(q.wire))
	frame = q.message(frame, id, plain)
	binary.BigEndian.PutUint16(frame, uint16(len(frame)-2)) //nolint:gosec // below 300
	if !c.send(frame) {
		c.forget(id)
		return nil, errBusy
	}
	select {
	case r := <-reply:
		if r.err != nil {
			return nil, r.err
		}
		return c.checked(q, id, r.reply)
	case <-ctx.Done():
		c.giveUp(id)
		return nil, context.Cause(ctx)
	}
}

// checked ends a connection whose replies and questions are not in step.
func (c *conn) checked(q *query, id uint16, reply []byte) ([]byte, error) {
	if q.judge(id, reply) == isOther {
		c.end(errMixedUp)
		return nil, errMixedUp
	}
	return reply, nil
}

// add finds a free id; the map is never more than a fraction of all ids.
func (c *conn) add(reply chan<- result) (uint16, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.err != nil:
		return 0, &lostError{c.err, c.proven}
	case c.retired:
		return 0, &lostError{errRetired, c.proven}
	case len(c.calls) >= maxCalls:
		return 0, errBusy
	}
	id := newID()
	for _, taken := c.calls[id]; taken; _, taken = c.calls[id] {
		id = newID()
	}
	now := time.Now()
	if len(c.calls) == 0 {
		c.since = now
	}
	c.used = now
	c.calls[id] = reply
	c.waiting++
	return id, nil
}

// forget takes back a question that was not sent.
func (c *conn) forget(id uint16) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, ok := c.calls[id]; ok {
		delete(c.calls, id)
		c.waiting--
	}
}

// giveUp leaves the id taken, until the reply comes. A connection that nobody waits on any more, and that has been silent for
// long, is of no use.
func (c *conn) giveUp(id uint16) {
	c.mu.Lock()
	if c.calls[id] != nil {
		c.calls[id] = nil
		c.waiting--
	}
	over := c.waiting == 0 && (c.retired || len(c.calls) > 0 && time.Since(c.since) > maxSilence)
	c.retired = c.retired || over // no question slips in
	c.mu.Unlock()
	if over {
		c.end(errRetired)
	}
}

// send writes at once when nobody else does, and leaves it to write otherwise: waking somebody takes longer.
func (c *conn) send(frame []byte) bool {
	if c.writing.TryLock() {
		defer c.writing.Unlock()
		c.writeNow(frame)
		return true
	}
	select {
	case c.out <- frame:
		return true
	default:
		return false
	}
}

// writeNow ends the connection when it fails. The caller holds writing.
func (c *conn) writeNow(frames []byte) {
	_ = c.tcp.SetWriteDeadline(time.Now().Add(writeTimeout)) // fails when closed, as the write then does
	if _, err := c.tcp.Write(frames); err != nil {
		c.end(err)
	}
}

func (c *conn) write() {
	var batch []byte
	for {
		select {
		case frame := <-c.out:
			batch = append(batch[:0], frame...)
		case <-c.ended:
			return
		}
		for more := true; more && len(batch) < maxBatch; {
			select {
			case frame := <-c.out:
				batch = append(batch, frame...)
			default:
				more = false
			}
		}
		c.writing.Lock()
		c.writeNow(batch)
		c.writing.Unlock()
	}
}

func (c *conn) read() error {
	in := bufio.NewReaderSize(c.tcp, 4096)
	for {
		reply, err := readFrame(in)
		if err != nil {
			return err
		}
		if len(reply) < headerSize {
			return errMixedUp
		}
		if c.deliver(reply) {
			return errRetired
		}
	}
}

// readFrame reads one message: never more than 64 KiB, as its length has two bytes (RFC 1035, 4.2.2).
func readFrame(in io.Reader) ([]byte, error) {
	var size [2]byte
	if _, err := io.ReadFull(in, size[:]); err != nil {
		return nil, err
	}
	message := make([]byte, binary.BigEndian.Uint16(size[:]))
	_, err := io.ReadFull(in, message)
	return message, err
}

// deliver hands a reply to who waits for it. A reply to no question is late or strange, and ignored. It returns whether the
// connection was only kept for this one.
func (c *conn) deliver(reply []byte) (over bool) {
	id := binary.BigEndian.Uint16(reply)
	c.mu.Lock()
	defer c.mu.Unlock()
	waits, asked := c.calls[id]
	if !asked {
		return false
	}
	delete(c.calls, id)
	c.since, c.proven = time.Now(), true
	if waits != nil {
		c.waiting--
		waits <- result{reply: reply}
	}
	return c.retired && c.waiting == 0
}

// end closes the connection and fails what waits on it. The first reason counts.
func (c *conn) end(reason error) {
	c.mu.Lock()
	if c.err != nil {
		c.mu.Unlock()
		return
	}
	c.err = reason
	lost := &lostError{reason, c.proven}
	for _, waits := range c.calls {
		if waits != nil {
			waits <- result{err: lost}
		}
	}
	clear(c.calls)
	c.waiting = 0
	close(c.ended)
	c.mu.Unlock()
	c.tcp.Close()
}

// retire lets the questions in flight finish, and takes no more.
func (c *conn) retire() {
	c.mu.Lock()
	c.retired = true
	over := c.waiting == 0
	c.mu.Unlock()
	if over {
		c.end(errRetired)
	}
}

// A load says how much a connection has to do.
type load struct {
	missing int           // replies
	silent  time.Duration // how long there has been none while some were missing
	idle    time.Duration // since the last question
	open    bool          // takes questions
	useless bool          // has lost a reply, or will bring it when nobody waits any more
}

func (c *conn) load(now time.Time) load {
	c.mu.Lock()
	defer c.mu.Unlock()
	l := load{missing: len(c.calls), idle: now.Sub(c.used), open: c.err == nil && !c.retired && len(c.calls) < maxCalls}
	if l.missing > 0 {
		l.silent = now.Sub(c.since)
		l.useless = c.waiting == 0 && l.silent > maxSilence
	}
	return l
}
