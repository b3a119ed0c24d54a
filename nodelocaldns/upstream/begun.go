package upstream

import (
	"context"
	"errors"
	"os"
	"time"
)

// A begun attempt is one over UDP that its asker has waited for itself. Most replies are here before anybody could be woken:
// goroutines and timers for what is not needed yet would take longer than all else that a question costs.
type begun struct {
	*endpoint
	start time.Time
	plain bool
	asks  *datagramExchange // nil when there is no socket
	reply []byte
	err   error
}

// tryAlone asks, and waits until the reply is late. It returns nil when this is not how to ask.
func (m *member) tryAlone(q *query, late time.Duration) *begun {
	if m.transport != UDPFirst || !m.pool.takeSocket() {
		return nil
	}
	b := &begun{endpoint: m.endpoint, start: time.Now(), plain: m.plain()}
	if !m.begin(b.start, attempt{}) {
		m.pool.returnSocket()
		return nil
	}
	if b.asks, b.err = m.openUDP(m.life, q); b.err != nil {
		return b
	}
	if b.err = b.asks.ask(b.plain); b.err == nil {
		_ = b.asks.socket.SetDeadline(b.start.Add(late))
		b.reply, b.err = b.asks.reply()
	}
	return b
}

// isGood is whether nothing is left to do but to look at the reply. If so the attempt has ended.
func (b *begun) isGood() bool {
	if b.err != nil || truncated(b.reply) || !b.plain && refusesEDNS(b.reply) {
		return false
	}
	b.release(b.asks.socket)
	b.pool.returnSocket()
	b.end(b.start, attempt{}, b.reply, nil)
	return true
}

// finish returns what the attempt has come to, once the reply is here or the context ends.
func (b *begun) finish(ctx context.Context) ([]byte, error) {
	defer b.close()
	if errors.Is(b.err, os.ErrDeadlineExceeded) {
		return b.asks.wait(ctx)
	}
	if b.err != nil {
		return nil, cause(ctx, b.err)
	}
	return b.reply, nil
}

func (b *begun) close() {
	if b.asks != nil {
		_ = b.asks.socket.Close()
	}
	b.pool.returnSocket()
}
